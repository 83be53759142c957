"""Listens for associations; owns the connections that it accepted.

Slots of associations belong to ``Admission``; here is only the cap on TCP connections, which
keeps peers that connect and say nothing from using up descriptors.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

from dicomnode.dimse.channel import Admission, Observer, Provider
from dicomnode.net.accepted import AcceptedConnection
from dicomnode.net.buffers import BufferPool
from dicomnode.net.connection import Connection
from dicomnode.net.ending import Deadlines, Ending, How
from dicomnode.ul.association import Association, Role


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how to listen: ``port`` 0 lets the system choose."""

    host: str
    port: int
    maximum_pdu_bytes: int
    max_connections: int
    max_connections_per_address: int
    backlog: int = 256


class Acceptor:
    """The listening side of the node; ``numbers`` counts associations, whoever asked for them."""

    def __init__(
        self,
        listening: Listening,
        *,
        numbers: Iterator[int],
        pool: BufferPool,
        deadlines: Deadlines,
        admission: Admission,
        provider: Provider,
        observer: Observer,
        on_connection: Callable[[], None],
    ) -> None:
        self._listening = listening
        self._numbers = numbers
        self._pool = pool
        self._deadlines = deadlines
        self._admission = admission
        self._provider = provider
        self._observer = observer
        self._on_connection = on_connection
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @property
    def connections(self) -> list[Connection]:
        """The connections that are open now, oldest first."""
        return sorted(self._connections, key=lambda connection: connection.number)

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that peers can connect to."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def start(self) -> None:
        """Start to listen; raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection,
            self._listening.host,
            self._listening.port,
            backlog=self._listening.backlog,
            reuse_address=True,
        )

    def _connection(self) -> asyncio.BaseProtocol:
        self._on_connection()
        if len(self._connections) >= self._listening.max_connections:
            return _Full(self._full)
        association = Association(
            Role.ACCEPTOR,
            maximum_length=self._listening.maximum_pdu_bytes,
            artim_seconds=self._deadlines.artim,
        )
        connection = AcceptedConnection(
            next(self._numbers),
            association,
            pool=self._pool,
            deadlines=self._deadlines,
            admission=self._admission,
            provider=self._provider,
            observer=self._observer,
            on_made=self._made,
            on_closed=self._closed,
        )
        self._connections.add(connection)
        self._all_closed.clear()
        return connection

    def _full(self, peer_address: str) -> None:
        limit = self._listening.max_connections
        why = f"{limit} connections are open already (limits.max_associations)"
        self._observer.connection_refused(peer_address, "limits.max_associations", why)

    def _made(self, connection: Connection) -> bool:
        """Count a connection, whose address is known only now; tell whether it may stay."""
        address, limit = connection.peer_address, self._listening.max_connections_per_address
        self._by_address[address] += 1
        if self._by_address[address] <= limit:
            return True
        rule = "limits.max_connections_per_address"
        why = f"{limit} connections of this address are open already ({rule})"
        self._observer.connection_refused(address, rule, why)
        return False

    def _closed(self, connection: Connection) -> None:
        address = connection.peer_address
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    async def stop(self, drain_seconds: float) -> None:
        """Stop accepting, let associations finish for ``drain_seconds``, then abort the rest."""
        if self._server is None:
            return
        self._server.close()
        for connection in self.connections:
            if connection.established_at is None:
                connection.close()
        await self._wait_closed(drain_seconds)
        self.abort_all()
        await self._wait_closed(1.0)
        for connection in self.connections:
            connection.close()
        await self._wait_closed(1.0)

    def abort_all(self) -> None:
        """Send A-ABORT on every association that is left, and wait for no peer to close."""
        for connection in self.connections:
            connection.abort_as(Ending(How.SHUT_DOWN, "the node stops"))
            connection.close_after_writing()

    async def _wait_closed(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._all_closed.wait()
        except TimeoutError:
            pass


class _Full(asyncio.Protocol):
    """Closes a connection beyond the cap at once."""

    def __init__(self, refused: Callable[[str], None]) -> None:
        self._refused = refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._refused(peer[0] if peer else "unknown")
        cast(asyncio.Transport, transport).abort()
