"""What goes on between this node and others, over HTTP: /api/associations and /api/peers.

Neither needs a token, as /api/status does not: they tell titles, addresses and numbers, which the
log and the metrics tell too, and nothing about patients.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dicomnode.errors import CatalogError
from dicomnode.outbox.desk import Desk
from dicomnode.services.journal import Journal


def activity_routes(journal: Journal, outbox: Desk) -> list[Route]:
    """Return the routes of what goes on now, and of what has become of each AE's traffic."""

    async def show_associations(request: Request) -> Response:
        return JSONResponse({"time": time.time(), "associations": journal.live()})

    async def show_peers(request: Request) -> Response:
        figures = journal.peers.figures()
        try:
            waiting = await run_in_threadpool(outbox.figures)
        except CatalogError as error:
            raise HTTPException(503, str(error)) from None
        queues = {row["destination"]: row for row in waiting}
        peers = [peer | {"forwarding": _queue(queues, peer)} for peer in figures["peers"]]
        return JSONResponse({"time": time.time(), "peers": peers, "others": figures["others"]})

    return [
        Route("/api/associations", show_associations),
        Route("/api/peers", show_peers),
    ]


def _queue(queues: dict[str, dict[str, Any]], peer: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is to be forwarded to an AE, None if nothing ever was."""
    found = queues.get(peer["ae_title"])
    return {name: found[name] for name in found if name != "destination"} if found else None
