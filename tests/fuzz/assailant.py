"""Does what courses say, to a node: many at once, from an address of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Iterable

from tests.fuzz.mutations import Course, End, Say, Secure
from tests.peers import Address
from tests.secure_wire import trusting
from tests.wire import ABORT, pdu

#: Not the neighbour's: limits that are for one address are met by this one alone.
ADDRESS = "127.0.0.2"
AT_ONCE = 40
_PATIENCE_SECONDS = 0.2
_HANDSHAKE_SECONDS = 1.0
# A node that does not answer is told of by the neighbour.
_COURSE_SECONDS = 15.0
_LINGER_NOT = struct.pack("ii", 1, 0)


class _Requestor(asyncio.Protocol):
    """One connection; counts the PDUs that come."""

    def __init__(self, *, reads: bool) -> None:
        self._reads = reads
        self._changed = asyncio.Event()
        self._is_over = asyncio.Event()
        self._received = bytearray()
        self.pdus = 0
        self.is_closed = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if not self._reads:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= 6:
            end = 6 + int.from_bytes(self._received[2:6], "big")
            if len(self._received) < end:
                break
            del self._received[:end]
            self.pdus += 1
        self._changed.set()

    def eof_received(self) -> None:
        self.is_closed = True
        self._changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.eof_received()
        self._is_over.set()

    async def wait_for(self, pdus: float, seconds: float) -> None:
        """Return once so many PDUs came, the node closed, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.pdus < pdus and not self.is_closed:
                    self._changed.clear()
                    await self._changed.wait()

    async def say(self, say: Say) -> None:
        await self.wait_for(say.after, _PATIENCE_SECONDS)
        step = -(-len(say.data) // say.pieces)
        for at in range(0, len(say.data), step):
            if self.is_closed or self.transport.is_closing():
                return
            self.transport.write(say.data[at : at + step])
            await asyncio.sleep(say.stall_seconds / say.pieces)

    async def leave(self, end: End) -> None:
        if self.is_closed or self.transport.is_closing():
            return
        if end is End.ABORT:
            self.transport.write(pdu(ABORT, bytes(4)))
        elif end is End.HALF and self.transport.can_write_eof():
            self.transport.write_eof()
            await self.wait_for(float("inf"), _PATIENCE_SECONDS)
        elif end is End.RESET:
            raw = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            self.transport.abort()

    async def be_gone(self, *, at_once: bool) -> None:
        """Return when nothing is left of the connection; what cannot be said soon is not said."""
        if not at_once:
            self.transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._is_over.wait()
        self.transport.abort()
        await self._is_over.wait()


class Assailant:
    """Calls a node at its addresses without and with TLS."""

    def __init__(self, plain: Address, secure: Address) -> None:
        self._plain = plain
        self._secure = secure
        self._context = trusting(None)

    async def assail(self, courses: Iterable[Course]) -> None:
        """Take all courses, a few at once."""
        waiting = iter(courses)

        async def work() -> None:
            for course in waiting:
                await self._take(course)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))

    async def _take(self, course: Course) -> None:
        # Whatever the node does to the connection is right; what it must not do is looked at
        # elsewhere.
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(_COURSE_SECONDS):
                await self._follow(course)

    async def _follow(self, course: Course) -> None:
        requestor = await self._connected(course)
        try:
            for say in course.says:
                if not requestor.is_closed:
                    await requestor.say(say)
            if course.reads and course.end is not End.RESET:
                await requestor.wait_for(requestor.pdus + 1, _PATIENCE_SECONDS / 4)
            await requestor.leave(course.end)
        finally:
            await requestor.be_gone(at_once=not course.reads)

    async def _connected(self, course: Course) -> _Requestor:
        to_tls = course.secure in (Secure.YES, Secure.MISSING)
        speaks = course.secure in (Secure.YES, Secure.UNWANTED)
        host, port = self._secure if to_tls else self._plain
        _, requestor = await asyncio.get_running_loop().create_connection(
            lambda: _Requestor(reads=course.reads),
            host,
            port,
            local_addr=(ADDRESS, 0),
            ssl=self._context if speaks else None,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS if speaks else None,
            ssl_shutdown_timeout=_HANDSHAKE_SECONDS if speaks else None,
        )
        return requestor
