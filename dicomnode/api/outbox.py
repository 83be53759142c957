"""The outbox over HTTP: what waits to be sent on, and stepping in."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomnode.api.access import Access
from dicomnode.api.bodies import read_json
from dicomnode.errors import CatalogError
from dicomnode.outbox.desk import Desk

_MAX_BYTES = 4096
_MOST_NAMED = 20

_T = TypeVar("_T")


def outbox_routes(desk: Desk, access: Access) -> list[Route]:
    """Return the routes of /api/outbox; all of them need a token.

    ``destination`` is an AE title of the outbox everywhere; left out, it stands for all.
    """

    async def show(request: Request) -> Response:
        access.require(request)
        figures = await _done(run_in_threadpool(desk.figures))
        return JSONResponse({"destinations": figures})

    async def show_dead(request: Request) -> Response:
        access.require(request)
        title = request.query_params.get("destination")
        if title is not None:
            await _known(desk, title)
        dead = await _done(run_in_threadpool(desk.dead, title))
        return JSONResponse({"objects": dead})

    async def retry(request: Request) -> Response:
        access.require(request)
        body = await _body(request)
        counts = {title: await _done(desk.retry(title)) for title in await _wanted(desk, body)}
        return JSONResponse({"retried": counts})

    async def drop(request: Request) -> Response:
        access.require(request)
        body = await _body(request)
        dead_only = body.get("dead_only", True)
        if not isinstance(dead_only, bool):
            raise HTTPException(400, "dead_only must be true or false")
        counts = {
            title: await _done(desk.drop(title, dead_only=dead_only))
            for title in await _wanted(desk, body)
        }
        return JSONResponse({"dropped": counts})

    return [
        Route("/api/outbox", show),
        Route("/api/outbox/dead", show_dead),
        Route("/api/outbox/retry", retry, methods=["POST"]),
        Route("/api/outbox/drop", drop, methods=["POST"]),
    ]


async def _body(request: Request) -> dict[str, Any]:
    body = await read_json(request, _MAX_BYTES)
    if not isinstance(body, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return body


async def _wanted(desk: Desk, body: dict[str, Any]) -> list[str]:
    title = body.get("destination")
    if title is None:
        return await _done(run_in_threadpool(desk.titles))
    return [await _known(desk, title)]


async def _known(desk: Desk, title: object) -> str:
    titles = await _done(run_in_threadpool(desk.titles))
    if isinstance(title, str) and title in titles:
        return title
    known = ", ".join(titles[:_MOST_NAMED]) or "none"
    raise HTTPException(404, f"nothing is sent to {title!s:.64}; destinations are {known}")


async def _done(work: Awaitable[_T]) -> _T:
    try:
        return await work
    except CatalogError as error:
        raise HTTPException(503, str(error)) from None
