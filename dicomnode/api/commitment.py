"""Storage commitment that this node asks of others, over HTTP."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomnode.api.access import Access
from dicomnode.api.bodies import read_json
from dicomnode.errors import CannotAsk, CatalogError
from dicomnode.index.commitment_requests import CommitmentRequests
from dicomnode.services.commitment_request import CommitmentRequester
from dicomnode.services.commitment_results import reason_in_words

_MAX_BYTES = 4096
_MOST_LISTED = 1000
_KEYS = ("peer", "study", "series")


def commitment_routes(requester: CommitmentRequester, access: Access) -> list[Route]:
    """Return the routes of /api/commitments; all of them need a token."""

    async def ask(request: Request) -> Response:
        access.require(request)
        peer, study, series = _asked(await read_json(request, _MAX_BYTES))
        try:
            uid, total = await requester.ask_for(peer, study, series)
        except CannotAsk as error:
            raise HTTPException(409, str(error)) from None
        except CatalogError as error:
            raise HTTPException(503, str(error)) from None
        return JSONResponse({"transaction_uid": uid, "total": total}, status_code=202)

    async def show(request: Request) -> Response:
        access.require(request)
        uid = request.path_params["uid"]
        try:
            shown = await run_in_threadpool(_shown, requester.requests, uid)
        except CatalogError as error:
            raise HTTPException(503, str(error)) from None
        if shown is None:
            raise HTTPException(404, "there is no request with this Transaction UID")
        return JSONResponse(shown)

    return [
        Route("/api/commitments", ask, methods=["POST"]),
        Route("/api/commitments/{uid}", show),
    ]


def _asked(value: Any) -> tuple[str, str, str]:
    """Return what a request names; raises HTTPException 400."""
    if not isinstance(value, dict) or not value.keys() <= set(_KEYS):
        raise HTTPException(400, f"the body must be an object with {', '.join(_KEYS)}")
    peer, study, series = (value.get(key, "") for key in _KEYS)
    if not all(isinstance(each, str) for each in (peer, study, series)):
        raise HTTPException(400, f"{', '.join(_KEYS)} must be strings")
    if not peer or not study:
        raise HTTPException(400, "peer and study are needed")
    return peer, study, series


def _shown(requests: CommitmentRequests, transaction_uid: str) -> dict[str, Any] | None:
    """Return a request with what its report says, the longest lists cut."""
    found = requests.get(transaction_uid)
    if found is None:
        return None
    failed = requests.failed(transaction_uid)[:_MOST_LISTED] if found.failed else []
    missing = requests.not_mentioned(transaction_uid)[:_MOST_LISTED] if found.not_mentioned else []
    return {
        "transaction_uid": found.transaction_uid,
        "peer": found.peer_ae_title,
        "state": found.state,
        "why": found.why,
        "total": found.total,
        "committed": found.committed,
        "failed": found.failed,
        "not_mentioned": found.not_mentioned,
        "retrieve_ae_title": found.retrieve_ae_title,
        "asked_at": found.asked_at,
        "changed_at": found.changed_at,
        "failed_list": [
            {
                "sop_class_uid": sop_class_uid,
                "sop_instance_uid": uid,
                "reason": f"{reason:04X}H",
                "words": reason_in_words(reason),
            }
            for sop_class_uid, uid, reason in failed
        ],
        "not_mentioned_list": [
            {"sop_class_uid": sop_class_uid, "sop_instance_uid": uid}
            for sop_class_uid, uid in missing
        ],
    }
