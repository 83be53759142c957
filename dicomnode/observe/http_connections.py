"""Connections of HTTP clients: so many, and none that keeps its place without using it.

Each takes a file descriptor that objects may need. uvicorn bounds neither their number, nor how
long a request may take to arrive, nor how long its answer may wait to be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter
from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST_CONNECTIONS: Final = 64
# Until a request is there, from the connection or the answer before it on.
_REQUEST_SECONDS: Final = 30.0
# How long an answer may wait for a client that reads nothing.
_UNREAD_SECONDS: Final = 60.0
_LOOKS: Final = 4


class Why(StrEnum):
    """Why a connection was closed; the words are also metric labels."""

    TOO_MANY = "too many"
    NO_REQUEST = "no whole request"
    NOT_READ = "answer not read"


def bounded_protocol(registry: CollectorRegistry) -> Callable[..., asyncio.Protocol]:
    """Return what makes the protocol of each connection, for uvicorn."""
    counter = Counter(
        "dicomnode_http_connections_closed_total",
        "HTTP connections that the node closed, by reason.",
        ["reason"],
        registry=registry,
    )

    def make(*args: Any, **keys: Any) -> asyncio.Protocol:
        return Connection(lambda why: counter.labels(why).inc(), *args, **keys)

    return make


class Connection(H11Protocol):
    """One connection; ``on_dropped`` is told why it is closed if we close it.

    The parser is h11's, as it bounds what it keeps of a request's headers.
    """

    def __init__(self, on_dropped: Callable[[Why], None], *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self._on_dropped = on_dropped
        self._look: asyncio.TimerHandle | None = None
        self._idle_since = self.loop.time()
        self._unread_since: float | None = None

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > _MOST_CONNECTIONS:
            # Whoever has just come may be about to ask; who has been silent longest gives way.
            held = [each for each in self.connections if isinstance(each, Connection)]
            idle = [each for each in held if each._is_idle]
            min(idle, key=lambda each: each._idle_since)._drop(Why.TOO_MANY)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def _watch(self) -> None:
        now = self.loop.time()
        if self._is_idle and now - self._idle_since >= _REQUEST_SECONDS:
            self._drop(Why.NO_REQUEST)
        elif self._unread_since is not None and now - self._unread_since >= _UNREAD_SECONDS:
            self._drop(Why.NOT_READ)
        else:
            self._look = self.loop.call_later(_REQUEST_SECONDS / _LOOKS, self._watch)

    def _drop(self, why: Why) -> None:
        self._on_dropped(why)
        # Already, as the transport tells of its end later.
        self.connections.discard(self)
        self.transport.abort()
