"""Listens for TLS: handshakes beside each other, bounded in number and time.

A peer that says nothing holds up nobody: when too many handshakes are under way, the oldest one
that has had a moment gives way to the next.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from dicomnode.net.ports import listen
from dicomnode.net.secure import SecureConnection
from dicomnode.tls.faults import Cause, Side, TLSFault, stalled

# A handshake among neighbours takes milliseconds; who takes longer gives way first.
_PATIENT_SECONDS: Final = 1.0
# Signing takes milliseconds for each, which others need not wait for.
_WORKERS: Final = 2

Refused = Callable[[str, TLSFault], None]


@dataclass(frozen=True, slots=True)
class SecureListening:
    """Where and how to listen for TLS; ``context`` returns the one in force.

    ``refused`` is told of each handshake that came to nothing, ``made`` of each that succeeded.
    """

    port: int
    context: Callable[[], ssl.SSLContext]
    handshake_seconds: float
    max_handshakes: int
    max_handshakes_per_address: int
    refused: Refused
    made: Callable[[], None]


class SecureListener:
    """The TLS port; ``accept`` makes the user of each connection that is secured."""

    def __init__(
        self, listening: SecureListening, accept: Callable[[], asyncio.BaseProtocol]
    ) -> None:
        self._listening = listening
        self._accept = accept
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._executor = ThreadPoolExecutor(_WORKERS, "tls-handshake")
        # Oldest first, with the time at which each was accepted.
        self._waiting: dict[SecureConnection, float] = {}
        self._tasks: dict[SecureConnection, asyncio.Task[None]] = {}

    @property
    def handshakes(self) -> int:
        """Connections that are not secured yet."""
        return len(self._waiting)

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that peers can connect to."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def start(self, host: str, backlog: int) -> None:
        """Start to listen; raises OSError when the address cannot be had."""
        port, keys = self._listening.port, "node.host, tls.port"
        self._server = await listen(self._connection, host, port, backlog, keys=keys)

    def _connection(self) -> asyncio.BaseProtocol:
        return SecureConnection(
            self._listening.context(), Side.SERVER, on_made=self._made, on_lost=self._forget
        )

    def _made(self, connection: SecureConnection) -> None:
        limits, address = self._listening, connection.peer_address
        same = [each for each in self._waiting if each.peer_address == address]
        crowds = (
            (self._waiting, limits.max_handshakes, "limits.max_handshakes"),
            (same, limits.max_handshakes_per_address, "limits.max_handshakes_per_address"),
        )
        for crowd, limit, name in crowds:
            if len(crowd) < limit:
                continue
            fault = TLSFault(
                Cause.TOO_MANY,
                f"{len(crowd)} TLS handshakes are under way ({name})",
                f"See what connects there and says nothing, or raise {name}.",
            )
            oldest = next(iter(crowd))
            if self._loop.time() - self._waiting[oldest] < _PATIENT_SECONDS:
                self._drop(connection, fault)
                return
            self._drop(oldest, fault)
        self._waiting[connection] = self._loop.time()
        task = self._loop.create_task(self._secure(connection))
        self._tasks[connection] = task
        task.add_done_callback(lambda done: self._tasks.pop(connection, None))

    def _drop(self, connection: SecureConnection, fault: TLSFault) -> None:
        self._listening.refused(connection.peer_address, fault)
        self._forget(connection)
        if (task := self._tasks.get(connection)) is not None:
            task.cancel()
        connection.abort()

    def _forget(self, connection: SecureConnection) -> None:
        self._waiting.pop(connection, None)

    async def _secure(self, connection: SecureConnection) -> None:
        seconds = self._listening.handshake_seconds
        try:
            async with asyncio.timeout(seconds):
                secured = await connection.handshake(self._executor)
            if secured is not None:  # a load balancer's check connects and closes
                self._forget(connection)
                self._listening.made()
                connection.start(self._accept(), secured)
        except TimeoutError:
            fault = stalled(seconds, "timeouts.tls_handshake_seconds")
            self._listening.refused(connection.peer_address, fault)
            connection.abort()
        except TLSFault as fault:
            # It stays among those that wait until it is gone: the peer may take its time.
            self._listening.refused(connection.peer_address, fault)
            connection.refuse()
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "fault in a TLS handshake", "exception": error}
            )
            connection.abort()

    def stop(self) -> None:
        """Listen no more, and drop what is not secured yet."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._waiting):
            if (task := self._tasks.get(connection)) is not None:
                task.cancel()
            connection.abort()
        self._waiting.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)
