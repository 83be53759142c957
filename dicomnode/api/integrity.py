"""Whether stored objects are what was received, over HTTP: digests, and the scrub."""

from __future__ import annotations

import dataclasses
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomnode.api.access import Access
from dicomnode.api.bodies import read_json
from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog, InstanceRow
from dicomnode.services.scrub import Scrub, Stopped
from dicomnode.storage.paths import valid_uid

_MAX_BYTES = 4096
_MOST_LISTED = 1000


def integrity_routes(catalog: Catalog, scrub: Scrub, access: Access) -> list[Route]:
    """Return the routes of /api/instances and /api/scrub; all of them need a token."""

    async def digest(request: Request) -> Response:
        access.require(request)
        row = await _done(catalog.get, request.path_params["uid"])
        if row is None:
            raise HTTPException(404, "there is no object with this SOP Instance UID")
        return JSONResponse(digests_of(row))

    async def show(request: Request) -> Response:
        access.require(request)
        return JSONResponse(await _done(_shown, scrub, None))

    async def begin(request: Request) -> Response:
        access.require(request)
        study = _asked(await read_json(request, _MAX_BYTES))
        if study is None:
            scrub.now()
            return JSONResponse({}, status_code=202)
        objects = await _done(scrub.look_at_study, study)
        if not objects:
            raise HTTPException(404, "there is no object of this Study Instance UID")
        return JSONResponse({"objects": objects, **await _done(_shown, scrub, study)})

    return [
        Route("/api/instances/{uid}/digest", digest),
        Route("/api/scrub", show),
        Route("/api/scrub", begin, methods=["POST"]),
    ]


def digests_of(row: InstanceRow) -> dict[str, Any]:
    """Return what the index says of an object's bytes, as JSON values."""
    return {
        "sop_instance_uid": row.sop_instance_uid,
        "data_set_sha256": row.sha256,
        "file_sha256": row.file_sha256,
        "data_set_bytes": row.data_set_bytes,
        "file_bytes": row.size_bytes,
        "transfer_syntax_uid": row.transfer_syntax_uid,
        "received_at": row.received_at,
    }


def _shown(scrub: Scrub, study: str | None) -> dict[str, Any]:
    files = scrub.bad_files(_MOST_LISTED, study)
    return {"scrub": scrub.figures(), "files": [dataclasses.asdict(each) for each in files]}


def _asked(value: Any) -> str | None:
    """Return the study that a request names, None for everything; raises HTTPException 400."""
    if not isinstance(value, dict) or not value.keys() <= {"study"}:
        raise HTTPException(400, "the body must be an object with nothing but study in it")
    study = value.get("study")
    if study is not None and not (isinstance(study, str) and valid_uid(study)):
        raise HTTPException(400, "study must be a Study Instance UID")
    return study


async def _done(work: Any, *arguments: Any) -> Any:
    try:
        return await run_in_threadpool(work, *arguments)
    except CatalogError as error:
        raise HTTPException(503, str(error)) from None
    except Stopped:
        raise HTTPException(503, "the node is shutting down") from None
