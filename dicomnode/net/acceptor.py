"""Listens for associations; owns the connections that it accepted.

Slots of associations belong to ``Admission``; here are only the caps on TCP connections, which
keep peers that connect and say nothing from using up descriptors, and one address from leaving
none to the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dicomnode.dimse.channel import Admission, Observer, Provider
from dicomnode.net.accepted import AcceptedConnection
from dicomnode.net.buffers import BufferPool
from dicomnode.net.connection import Connection
from dicomnode.net.ending import Deadlines, Ending, How
from dicomnode.net.ports import listen
from dicomnode.net.secure_listener import SecureListener, SecureListening
from dicomnode.net.taps import Taps
from dicomnode.ul.association import Association, Role


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how to listen: ``port`` 0 lets the system choose, None is no port without TLS."""

    host: str
    port: int | None
    maximum_pdu_bytes: int
    max_connections: int
    max_connections_per_address: int
    backlog: int = 256
    secure: SecureListening | None = None


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
        on_refused: Callable[[str, str, str], None],
        taps: Taps | None = None,
    ) -> None:
        self._listening = listening
        self._numbers = numbers
        self._pool = pool
        self._deadlines = deadlines
        self._admission = admission
        self._provider = provider
        self._observer = observer
        self._on_connection = on_connection
        self._taps = taps
        self._on_refused = on_refused
        self._admitted: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._secure: SecureListener | None = None
        self._connections: set[Connection] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @property
    def connections(self) -> list[Connection]:
        """The connections that are open now, oldest first."""
        return sorted(self._connections, key=lambda connection: connection.number)

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that peers can connect to: those of TLS where there are no others."""
        if self._server is None:
            assert self.secure_address is not None
            return self.secure_address
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    @property
    def secure_address(self) -> tuple[str, int] | None:
        """The host and port for TLS, if it is listened for."""
        return self._secure.address if self._secure is not None else None

    @property
    def handshakes(self) -> int:
        """TLS handshakes that are under way."""
        return self._secure.handshakes if self._secure is not None else 0

    async def start(self) -> None:
        """Start to listen; raises OSError when an address cannot be had."""
        listening = self._listening
        if listening.secure is not None:
            self._secure = SecureListener(listening.secure, self._connection)
            await self._secure.start(listening.host, listening.backlog)
        if listening.port is None:
            return
        try:
            self._server = await listen(
                self._connection,
                listening.host,
                listening.port,
                listening.backlog,
                keys="node.host, node.port",
            )
        except BaseException:
            if self._secure is not None:
                self._secure.stop()
            raise

    def _connection(self) -> asyncio.BaseProtocol:
        self._on_connection()
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
            on_closed=self._closed,
            taps=self._taps,
            on_made=self._made,
        )
        self._connections.add(connection)
        self._all_closed.clear()
        return connection

    def _made(self, connection: Connection) -> None:
        """Admit a connection, or close it at once.

        Not before it is made: many may be accepted before the first of them is.
        """
        limits, address = self._listening, connection.peer_address
        if self._by_address[address] >= limits.max_connections_per_address:
            reason, held = "too many from one address", f"{self._by_address[address]} from there"
            rule = "limits.max_connections_per_address"
        elif len(self._admitted) >= limits.max_connections:
            reason, held = "too many", str(len(self._admitted))
            rule = "limits.max_associations"
        else:
            self._admitted.add(connection)
            self._by_address[address] += 1
            return
        self._on_refused(address, reason, f"{held} are open already ({rule})")
        connection.close()

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._admitted:
            self._admitted.discard(connection)
            self._by_address[connection.peer_address] -= 1
            if not self._by_address[connection.peer_address]:
                del self._by_address[connection.peer_address]
        if not self._connections:
            self._all_closed.set()

    async def stop(self, drain_seconds: float) -> None:
        """Stop accepting, let associations finish for ``drain_seconds``, then abort the rest."""
        if self._secure is not None:
            self._secure.stop()
        if self._server is not None:
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
