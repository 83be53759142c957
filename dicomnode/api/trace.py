"""Recording associations over HTTP, for ``dicomnode trace``.

It needs a token, as a recording holds patients' data. The answer to the request is the recording
itself, as it is made; whoever closes the connection ends it.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dicomnode.api.access import Access
from dicomnode.api.bodies import read_json
from dicomnode.errors import TraceRefused
from dicomnode.observe.trace import Network, Tracing, Wanted

NUMBER_HEADER: Final = "X-Trace-Number"
"""The header that says which recording the answer is."""

MOST_ASSOCIATIONS: Final = 1000
MOST_SECONDS: Final = 24 * 3600
LEAST_BYTES: Final = 64 * 1024
MOST_BYTES: Final = 4 * 1024**3

_MAX_BODY_BYTES: Final = 4096
_MAX_NAME: Final = 64
_KEYS: Final = {"ae_title", "count", "seconds", "max_bytes", "address", "asked_by"}


def trace_routes(tracing: Tracing, access: Access) -> list[Route]:
    """Return the routes of /api/traces."""

    async def record(request: Request) -> Response:
        access.require(request)
        wanted = _wanted(await read_json(request, _MAX_BODY_BYTES), request)
        try:
            trace = await tracing.start(wanted)
        except TraceRefused as error:
            raise HTTPException(503, str(error)) from None
        return StreamingResponse(
            trace.content(),
            media_type="application/x-pcapng",
            headers={NUMBER_HEADER: str(trace.number), "Cache-Control": "no-store"},
        )

    async def show(request: Request) -> Response:
        access.require(request)
        figures = tracing.figures(request.path_params["number"])
        if figures is None:
            raise HTTPException(404, "there is no such recording, or it was long ago")
        return JSONResponse(figures)

    async def end(request: Request) -> Response:
        access.require(request)
        if not tracing.end(request.path_params["number"]):
            raise HTTPException(404, "there is no such recording, or it is over")
        return Response(status_code=204)

    return [
        Route("/api/traces", record, methods=["POST"]),
        Route("/api/traces/{number:int}", end, methods=["DELETE"]),
        Route("/api/traces/{number:int}", show),
    ]


def _wanted(value: Any, request: Request) -> Wanted:
    """Return what a request asks for; raises HTTPException 400."""
    if not isinstance(value, dict) or not value.keys() <= _KEYS:
        raise HTTPException(400, f"the body must be an object with {', '.join(sorted(_KEYS))}")
    title = value.get("ae_title")
    if not isinstance(title, str) or not 1 <= len(title.strip()) <= 16:
        raise HTTPException(400, "ae_title must be an AE title of 1 to 16 characters")
    name = value.get("asked_by", "")
    if not isinstance(name, str):
        raise HTTPException(400, "asked_by must be a string")
    client = request.client.host if request.client else "unknown"
    return Wanted(
        ae_title=title.strip(),
        count=_number(value, "count", 1, 1, MOST_ASSOCIATIONS),
        seconds=_number(value, "seconds", 600, 1, MOST_SECONDS),
        max_bytes=_number(value, "max_bytes", 256 * 1024**2, LEAST_BYTES, MOST_BYTES),
        network=_network(value.get("address")),
        asked_by=f"{name[:_MAX_NAME] or 'a program'} at {client}",
    )


def _number(value: dict[str, Any], key: str, default: int, least: int, most: int) -> int:
    found = value.get(key, default)
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
        raise HTTPException(400, f"{key} must be a whole number from {least} to {most}")
    return found


def _network(text: object) -> Network | None:
    if text is None:
        return None
    try:
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        raise HTTPException(
            400, 'address must be an IP address or a network such as "10.0.0.0/24"'
        ) from None
