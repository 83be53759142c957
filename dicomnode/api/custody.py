"""The custody log over HTTP: what happened to an object, and what commands have done with some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomnode.api.access import Access
from dicomnode.api.bodies import read_json
from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog, InstanceRow
from dicomnode.integrity.record import Detail, Event, checked_details
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.storage.paths import valid_uid

_MAX_BYTES: Final = 1024 * 1024
_MOST_INSTANCES: Final = 10_000
_MOST_DETAILS: Final = 16
_MAX_CHARACTERS: Final = 1024
_KEYS: Final = {"event", "instances", "details"}
# What commands do and the node cannot see; all else it records itself.
_TOLD: Final = (Event.EXPORTED, Event.FORWARDED, Event.VERIFIED)


def custody_routes(
    custodian: Custodian | None, catalog: Catalog, auditing: Auditing, access: Access
) -> list[Route]:
    """Return the routes of the custody log; all of them need a token.

    Without a custodian nothing is recorded; exports are audited all the same.
    """

    def kept() -> Custodian:
        if custodian is None:
            raise HTTPException(409, "nothing is recorded: custody.enabled is false")
        return custodian

    async def show(request: Request) -> Response:
        access.require(request)
        uid = request.path_params["uid"]
        if not valid_uid(uid):
            raise HTTPException(400, "the path must have a SOP Instance UID")
        try:
            records = await run_in_threadpool(kept().custody.of_instance, uid)
        except CatalogError as error:
            raise HTTPException(503, str(error)) from None
        if not records:
            raise HTTPException(404, "nothing is recorded of an object with this UID")
        shown = [record.to_json() for record in records]
        return JSONResponse({"sop_instance_uid": uid, "records": shown})

    async def tell(request: Request) -> Response:
        access.require(request)
        event, uids, details = _told(await read_json(request, _MAX_BYTES))
        is_audited = event is Event.EXPORTED and auditing.audit.enabled
        try:
            if custodian is None and is_audited:
                held, unknown = await run_in_threadpool(_held, catalog, uids)
            else:
                held, unknown = await run_in_threadpool(kept().told, event, uids, details)
        except CatalogError as error:
            raise HTTPException(503, str(error)) from None
        if is_audited:
            auditing.exported(held, str(details.get("to", "")))
        return JSONResponse({"recorded": len(held) if custodian else 0, "not_held": unknown})

    return [
        Route("/api/instances/{uid}/custody", show),
        Route("/api/custody", tell, methods=["POST"]),
    ]


def _held(catalog: Catalog, uids: Sequence[str]) -> tuple[list[InstanceRow], list[str]]:
    """Return the objects that are held, and which are not. Blocks; raises CatalogError."""
    held = catalog.instance_rows(catalog.select_instances({"SOPInstanceUID": uids}))
    there = {row.sop_instance_uid for row in held}
    return held, [uid for uid in dict.fromkeys(uids) if uid not in there]


def _told(value: Any) -> tuple[Event, list[str], dict[str, Detail]]:
    """Return what a request tells; raises HTTPException 400."""
    if not isinstance(value, dict) or not {"event", "instances"} <= value.keys() <= _KEYS:
        raise HTTPException(400, "the body must be an object with event, instances and details")
    if value["event"] not in _TOLD:
        raise HTTPException(400, f"event must be one of {', '.join(_TOLD)}")
    uids = value["instances"]
    if not isinstance(uids, list) or not 0 < len(uids) <= _MOST_INSTANCES:
        raise HTTPException(400, f"instances must be a list of 1 to {_MOST_INSTANCES} UIDs")
    if not all(isinstance(uid, str) and valid_uid(uid) for uid in uids):
        raise HTTPException(400, "instances must be SOP Instance UIDs")
    try:
        details = checked_details(value.get("details", {}))
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    texts = [each for each in details.values() if isinstance(each, str)]
    if len(details) > _MOST_DETAILS or any(len(text) > _MAX_CHARACTERS for text in texts):
        raise HTTPException(
            400, f"details has at most {_MOST_DETAILS} members of {_MAX_CHARACTERS} characters"
        )
    return Event(value["event"]), uids, {**details, "told_over": "HTTP"}
