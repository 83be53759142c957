"""TLS between a TCP transport and its user: the handshake, then records both ways.

The event loop's own TLS tells neither why a handshake failed nor how a connection ended, and
copies once more; here records are decrypted into the blocks of the connection above.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, Final, cast

from dicomnode.certificates import Secured, certificate_of
from dicomnode.tls.faults import Side, TLSFault, closed, expired, fault_of, stranger, truncated

# What is received is decrypted as it comes: no more than this waits, and then only while the
# user does not read.
_RECEIVE_BYTES: Final = 64 * 1024
# A fatal alert, protocol_version, as others answer what is no TLS: a DICOM peer may name it.
_NOT_TLS: Final = bytes.fromhex("15 0303 0002 02 46")
# So long a peer that was refused may take to read why.
_LINGER_SECONDS: Final = 1.0


class SecureConnection(asyncio.BufferedProtocol):
    """The TLS of one TCP connection: after ``handshake``, ``start`` gives it to its user.

    ``on_lost`` is called when the TCP connection ends before that.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        side: Side,
        *,
        server_hostname: str | None = None,
        on_made: Callable[[SecureConnection], None] = lambda connection: None,
        on_lost: Callable[[SecureConnection], None] = lambda connection: None,
    ) -> None:
        self.transport: asyncio.Transport
        self.peer_address = "unknown"
        self._loop = asyncio.get_running_loop()
        self._side = side
        self._on_made = on_made
        self._on_lost = on_lost
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=side is Side.SERVER,
            server_hostname=server_hostname,
        )
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._user: asyncio.BufferedProtocol | None = None
        # Until there is a user: what there is to go on with, and what is wrong.
        self._news = asyncio.Event()
        self._has_begun = False
        self._strange: TLSFault | None = None
        self._is_refused = False
        self._has_ended = False
        self._is_paused = False
        self._is_closing = False
        self._peer_has_closed = False
        self._fault: TLSFault | None = None

    # -- what TCP says ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, but not the base class.
        self.transport = cast(asyncio.Transport, transport)
        if peer := transport.get_extra_info("peername"):
            self.peer_address = peer[0]
        self._on_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_refused:
            return
        if not self._has_begun and self._side is Side.SERVER:
            self._strange = stranger(bytes(self._buffer[:8]))
        self._has_begun = True
        self._incoming.write(self._buffer[:nbytes])
        if self._user is None:
            self._news.set()
        else:
            self._deliver()

    def eof_received(self) -> bool:
        self._has_ended = True
        self._news.set()
        if self._user is not None and not self._is_closing:
            self._fault = self._fault or truncated(self._side)
        return False

    def pause_writing(self) -> None:
        if self._user is not None:
            self._user.pause_writing()

    def resume_writing(self) -> None:
        if self._user is not None:
            self._user.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self._is_closing:
            self._fault = self._fault or truncated(self._side)
        self._has_ended = self._is_closing = True
        self._news.set()
        if self._user is not None:
            self._user.connection_lost(self._fault or exc)
        else:
            self._on_lost(self)

    # -- the handshake ----------------------------------------------------------------------------

    async def handshake(self, executor: Executor | None = None) -> Secured | None:
        """Make the TLS connection; None when the peer ended it without a word.

        Signing takes milliseconds, for which a server has an ``executor``. Raises TLSFault.
        """
        while self._side is Side.CLIENT or await self._first_bytes():
            self._news.clear()
            if await self._step(executor):
                if self.transport.is_closing():
                    raise closed(self._side)
                return self._secured()
            if not self._has_ended:
                await self._news.wait()
            if self._has_ended and not self._incoming.pending:
                raise closed(self._side)
        return None

    async def _first_bytes(self) -> bool:
        if not self._has_begun and not self._has_ended:
            await self._news.wait()
        if self._strange is not None:
            self.transport.write(_NOT_TLS)
            raise self._strange
        return self._has_begun

    async def _step(self, executor: Executor | None) -> bool:
        """Go on with the handshake as far as what has been received allows."""
        if self.transport.is_closing():
            raise closed(self._side)
        # What came meanwhile would go into a buffer that another thread reads.
        self.transport.pause_reading()
        try:
            if executor is not None:
                await self._loop.run_in_executor(executor, self._tls.do_handshake)
            else:
                self._tls.do_handshake()
        except asyncio.CancelledError:
            self.transport.abort()
            raise
        except ssl.SSLWantReadError:
            self._go_on()
            return False
        except ssl.SSLError as error:
            self._go_on()
            raise fault_of(error, self._side) from None
        self._go_on()
        return True

    def _go_on(self) -> None:
        self._flush()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _secured(self) -> Secured:
        encoded = self._tls.getpeercert(binary_form=True)
        certificate = certificate_of(encoded, self._tls.getpeercert() or {}) if encoded else None
        if self._tls.session_reused and self._side is Side.SERVER:
            # OpenSSL has looked at the certificate when the session was made, up to two hours ago.
            ends = str((self._tls.getpeercert() or {}).get("notAfter", ""))
            if ends and ssl.cert_time_to_seconds(ends) < time.time():
                raise expired(self._side)
        suite = self._tls.cipher()
        return Secured(self._tls.version() or "TLS", suite[0] if suite else "", certificate)

    def refuse(self) -> None:
        """Close the connection; the peer has a moment to read why."""
        self._is_refused = True
        if self._is_closing or self.transport.is_closing():
            return
        # With unread bytes a close would be a reset, which takes the alert away from the peer.
        with contextlib.suppress(OSError, RuntimeError):
            self.transport.write_eof()
        self._loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def abort(self) -> None:
        """Drop the connection."""
        self._is_refused = self._is_closing = True
        self.transport.abort()

    # -- records ----------------------------------------------------------------------------------

    def start(self, user: asyncio.BaseProtocol, secured: Secured) -> None:
        """Hand the connection over to ``user``, whose data are asked for as a BufferedProtocol's.

        One of another kind has to end the connection as soon as it is made.
        """
        self._user = cast(asyncio.BufferedProtocol, user)
        user.connection_made(SecureTransport(self, secured))
        self._deliver()

    def _deliver(self) -> None:
        """Give the user what has been received, as long as it reads."""
        user = self._user
        assert user is not None
        while self._has_more() and not (self._is_paused or self._is_closing):
            room = memoryview(user.get_buffer(-1))
            if not room:
                # It is behind, but cannot pause a connection that TCP has ended: nothing of what
                # is left can be answered.
                return
            size = self._decrypt(room)
            if size:
                user.buffer_updated(size)
            if self._peer_has_closed or self._fault is not None:
                user.eof_received()
                self.close()
            elif self._outgoing.pending:  # an answer to a change of keys
                self._flush()

    def _has_more(self) -> bool:
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def _decrypt(self, room: memoryview) -> int:
        """Fill ``room`` with what has been received; return the number of bytes."""
        size = 0
        try:
            while size < len(room) and self._has_more():
                read = self._tls.read(len(room) - size, cast(bytearray, room[size:]))
                if not read:
                    self._peer_has_closed = True
                    break
                size += cast(int, read)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLError as error:
            self._fault = fault_of(error, self._side)
        return size

    def pause_reading(self) -> None:
        """Give the user nothing until ``resume_reading``."""
        self._is_paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on: first with what has been received already."""
        if self._is_paused:
            self._is_paused = False
            # Not at once: the user may be within a delivery.
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._is_paused and not self._is_closing:
            self._deliver()
        if not self._is_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def write(self, data: Any) -> None:
        """Encrypt and send ``data``."""
        if self._is_closing:
            return
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left) :]
        except ssl.SSLError as error:
            self._fault = self._fault or fault_of(error, self._side)
            self.abort()
            return
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending and not self.transport.is_closing():
            self.transport.write(self._outgoing.read())

    def close(self) -> None:
        """Say close_notify, and close once everything has been sent."""
        if self._is_closing:
            return
        self._is_closing = True
        # The peer's close_notify is not awaited (RFC 8446 §6.1).
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        self.transport.close()


class SecureTransport(asyncio.Transport):
    """What the user of a ``SecureConnection`` writes to: as any transport."""

    def __init__(self, connection: SecureConnection, secured: Secured) -> None:
        super().__init__()
        self._connection = connection
        self._below = connection.transport
        self._secured = secured

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._secured if name == "secured" else self._below.get_extra_info(name, default)

    def write(self, data: Any) -> None:
        self._connection.write(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        # Each writing makes a record of its own.
        self._connection.write(b"".join(list_of_data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._connection.pause_reading()

    def resume_reading(self) -> None:
        self._connection.resume_reading()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        self._connection.abort()
