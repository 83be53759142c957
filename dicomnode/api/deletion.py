"""Deleting over HTTP: what would go, the order, and how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomnode.api.access import Access
from dicomnode.api.bodies import read_json
from dicomnode.errors import CatalogError
from dicomnode.services.deletion import KEYWORDS, MAX_REASON, Deleting, NotDeleted

_MAX_BYTES: Final = 64 * 1024
_MOST_VALUES: Final = 500
_MAX_NAME: Final = 64

_T = TypeVar("_T")


def deletion_routes(deleting: Deleting, access: Access) -> list[Route]:
    """Return the routes of /api/delete and /api/deletions; all of them need a token."""

    async def delete(request: Request) -> Response:
        access.require(request)
        body = await _body(request)
        level, values = _objects(body)
        if body.get("dry_run", True) is not False:
            plan = await _done(lambda: deleting.plan(level, values))
            return JSONResponse(await _done(lambda: deleting.shown(plan)))
        reason, mark = _text(body, "reason", MAX_REASON), _text(body, "mark", 64)
        asked_by = _text(body, "asked_by", _MAX_NAME)
        order = await _done(lambda: deleting.order(level, values, reason, asked_by, mark))
        return JSONResponse(asdict(order), status_code=202)

    async def show(request: Request) -> Response:
        access.require(request)
        number = request.path_params["number"]
        order = await _done(lambda: deleting.get(number))
        if order is None:
            raise HTTPException(404, "there is no such deletion, or it was long ago")
        return JSONResponse(asdict(order))

    async def show_all(request: Request) -> Response:
        access.require(request)
        return JSONResponse({"deletions": list(map(asdict, await _done(deleting.latest)))})

    return [
        Route("/api/delete", delete, methods=["POST"]),
        Route("/api/deletions", show_all),
        Route("/api/deletions/{number:int}", show),
    ]


async def _body(request: Request) -> Mapping[str, Any]:
    body = await read_json(request, _MAX_BYTES)
    if not isinstance(body, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return body


def _objects(body: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
    level, values = body.get("level"), body.get("values")
    if level not in KEYWORDS:
        raise HTTPException(400, f"level must be one of {', '.join(KEYWORDS)}")
    if (
        not isinstance(values, list)
        or not 1 <= len(values) <= _MOST_VALUES
        or not all(isinstance(value, str) and value.strip() for value in values)
    ):
        raise HTTPException(400, f"values must be a list of 1 to {_MOST_VALUES} UIDs or IDs")
    return str(level), values


def _text(body: Mapping[str, Any], key: str, most: int) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value.strip() or len(value) > most:
        raise HTTPException(400, f"{key} must be a text of 1 to {most} characters")
    if not value.isprintable():
        raise HTTPException(400, f"{key} must be printable, on one line")
    return value.strip()


async def _done(work: Callable[[], _T]) -> _T:
    try:
        return await run_in_threadpool(work)
    except NotDeleted as error:
        raise HTTPException(409, str(error)) from None
    except CatalogError as error:
        raise HTTPException(503, str(error)) from None
