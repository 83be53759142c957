"""The worklist over HTTP, in the DICOM JSON model (PS3.18 Annex F)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomnode.api.access import Access
from dicomnode.api.bodies import read_json
from dicomnode.errors import CatalogError
from dicomnode.services.worklist_desk import (
    MOST_LISTED,
    ORIGINS,
    ItemOfFile,
    NoSuchItem,
    WorklistDesk,
)
from dicomnode.services.worklist_items import MAX_BYTES, Unfit, UnfitItem

_LISTED = 100

_T = TypeVar("_T")


def worklist_routes(desk: WorklistDesk, access: Access) -> list[Route]:
    """Return the routes of /api/worklist; all of them need a token, as they show patients."""

    async def show_list(request: Request) -> Response:
        access.require(request)
        limit = _number(request, "limit", _LISTED, MOST_LISTED)
        after = request.query_params.get("after", "")
        return JSONResponse(await _done(lambda: desk.listed(limit, after)))

    async def show(request: Request) -> Response:
        access.require(request)
        key = request.path_params["key"]
        return JSONResponse(await _done(lambda: desk.show(key)))

    async def put(request: Request) -> Response:
        access.require(request)
        key = request.path_params["key"]
        origin = request.query_params.get("origin", ORIGINS[0])
        if origin not in ORIGINS:
            raise HTTPException(400, f"origin must be {' or '.join(ORIGINS)}")
        title = request.query_params.get("called_ae_title", "")
        value = await read_json(request, MAX_BYTES)

        def entered() -> tuple[bool, dict[str, Any]]:
            is_new = desk.put(key, value, origin=origin, called_ae_title=title)
            return is_new, desk.show(key)

        is_new, shown = await _done(entered)
        return JSONResponse(shown | {"is_new": is_new}, status_code=201 if is_new else 200)

    async def remove(request: Request) -> Response:
        access.require(request)
        key = request.path_params["key"]
        await _done(lambda: desk.remove(key))
        return Response(status_code=204)

    one = "/api/worklist/{key:path}"
    return [
        Route("/api/worklist", show_list),
        Route(one, show),
        Route(one, put, methods=["PUT"]),
        Route(one, remove, methods=["DELETE"]),
    ]


async def _done(work: Callable[[], _T]) -> _T:
    """Have work done off the loop; its errors leave as answers."""
    try:
        return await run_in_threadpool(work)
    except UnfitItem as error:
        status = 409 if error.reason is Unfit.DUPLICATE else 400
        raise HTTPException(status, f"the item is not taken: {error}") from None
    except ItemOfFile as error:
        raise HTTPException(409, str(error)) from None
    except NoSuchItem as error:
        raise HTTPException(404, str(error)) from None
    except CatalogError as error:
        raise HTTPException(503, str(error)) from None


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    # No more digits than any sensible number has: int() takes its time with thousands.
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= most:
        raise HTTPException(400, f"{name} must be a number from 1 to {most}")
    return int(text)
