"""Retention over HTTP: how it stands, what is due, and stepping in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomnode.api.access import Access
from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.retention.running import Retention

_MOST_DAYS: Final = 3650


def retention_routes(retention: Retention, access: Access) -> list[Route]:
    """Return the routes of /api/retention; all of them need a token."""

    async def show(request: Request) -> Response:
        access.require(request)
        return JSONResponse(await _done(retention.figures))

    async def plan(request: Request) -> Response:
        access.require(request)
        text = request.query_params.get("within_days", "0")
        if not text.isascii() or not text.isdecimal() or len(text) > 4 or int(text) > _MOST_DAYS:
            raise HTTPException(400, f"within_days must be a number from 0 to {_MOST_DAYS}")
        return JSONResponse(await _done(lambda: retention.plan(int(text))))

    async def run(request: Request) -> Response:
        access.require(request)
        retention.run_now()
        return JSONResponse(await _done(retention.figures), status_code=202)

    async def trust_clock(request: Request) -> Response:
        access.require(request)
        await _done(retention.trust_clock)
        return JSONResponse(await _done(retention.figures))

    return [
        Route("/api/retention", show),
        Route("/api/retention/plan", plan),
        Route("/api/retention/run", run, methods=["POST"]),
        Route("/api/retention/trust-clock", trust_clock, methods=["POST"]),
    ]


async def _done(work: Callable[[], Any]) -> Any:
    try:
        return await run_in_threadpool(work)
    except (CatalogError, OutOfResources) as error:
        raise HTTPException(503, str(error)) from None
