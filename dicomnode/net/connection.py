"""One TCP connection: feeds ``ul.Association``, writes what it says, and keeps the deadlines.

The connection is also the ``Channel`` through which the services answer. Bytes are read into
pooled blocks and reach the services as views into them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import assert_never, cast

from dicomnode.dimse.channel import Admission, Handler, Observer, Provider, Refused
from dicomnode.dimse.command import Command, encode_command
from dicomnode.dimse.message import CommandReceived, DataFragment, MessageReader
from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from dicomnode.net.buffers import BufferPool
from dicomnode.net.ending import Deadlines, Ending, How
from dicomnode.net.receiver import Receiver
from dicomnode.net.sinks import Discarding, Gathering
from dicomnode.ul.association import Association, State
from dicomnode.ul.events import (
    AbortIndication,
    AssociateAccepted,
    AssociateIndication,
    AssociateRejected,
    ConnectionClosed,
    DataIndication,
    Event,
    ReleaseConfirmation,
    ReleaseIndication,
)
from dicomnode.ul.framing import fragments
from dicomnode.ul.negotiation import Negotiated
from dicomnode.ul.pdu import AAssociateRQ, AbortReason

__all__ = ["Connection", "Deadlines", "Ending", "How"]

# Where our side may say what; the peer may have moved on within the bytes just received.
_MAY_SEND = (State.STA6, State.STA8)
_CONNECTION_IS_ENDING = (State.STA1, State.STA2, State.STA13)
# Deadlines are looked at this often; each is late by at most as much.
_TICK_SECONDS = 1.0
# After as much time other connections have their turn, whatever else has been received; the
# clock is looked at after as many PDUs.
_PDUS_AT_ONCE = 32
_TURN_SECONDS = 0.004


class Connection(asyncio.BufferedProtocol):
    """An acceptor's connection and the association on it."""

    def __init__(
        self,
        number: int,
        association: Association,
        *,
        pool: BufferPool,
        deadlines: Deadlines,
        admission: Admission,
        provider: Provider,
        observer: Observer,
        on_closed: Callable[[Connection], None],
    ) -> None:
        self.number = number
        self.calling_ae_title = ""
        self.called_ae_title = ""
        self.peer_address = ""
        self.negotiated: Negotiated
        self.established_at: float | None = None
        self._association = association
        self._pool = pool
        self._received = Receiver(pool, self._starvation_changed)
        self._deadlines = deadlines
        self._admission = admission
        self._provider = provider
        self._observer = observer
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._handler: Handler | None = None
        self._reader: MessageReader
        self._sink: Gathering | Discarding | None = None
        self._release_slot: Callable[[], None] | None = None
        self._ending: Ending | None = None
        self._releasing = False
        self._reported = False
        # Between the accept and connection_made there is no transport to close.
        self._is_made = False
        self._is_unwanted = False
        self._closed = False
        self._pauses = 0
        self._reading = True
        # Whether PDUs that have been received wait for their turn.
        self._behind = False
        self._turn_at = 0.0
        self._turn_seconds = 0.0
        self._starved_at: float | None = None
        self._last_read = self._loop.time()
        # When the first byte of the PDU came that is still incomplete.
        self._pdu_started: float | None = None
        self._write_paused_at: float | None = None
        self._closing_since: float | None = None
        self._writable: list[asyncio.Future[None]] = []

    # -- the transport's callbacks ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, but not the base class.
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer_address = peer[0] if peer else "unknown"
        self._open_socket_options(self._transport)
        self._is_made = True
        self._association.connection_made(self._loop.time())
        self._tick()
        if self._is_unwanted:
            self._transport.abort()

    def _open_socket_options(self, transport: asyncio.Transport) -> None:
        theirs = transport.get_extra_info("socket")
        if theirs is None:
            return
        # A second Python object for the same descriptor, detached before the transport closes it:
        # uvloop's own stand-in duplicates the descriptor at each call.
        self._socket = socket.socket(theirs.family, theirs.type, theirs.proto, theirs.fileno())
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._received.room()

    def buffer_updated(self, nbytes: int) -> None:
        now = self._loop.time()
        self._last_read = now
        if self._socket is not None and _TCP_QUICKACK is not None:
            # The kernel drops this after some segments. With it a peer that leaves Nagle's
            # algorithm on is not stalled by our delayed acknowledgement.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
        self._received.count(nbytes)
        self._take_turn()

    def _take_turn(self) -> None:
        """Take PDUs that have been received: not all at once where they take long."""
        started, now = time.monotonic(), self._loop.time()
        if now != self._turn_at:  # uvloop reads several times with the same time
            self._turn_at, self._turn_seconds = now, 0.0
        started -= self._turn_seconds
        self._behind = False
        while not self._closed:
            there_is_more = self._take_pdus()
            self._turn_seconds = time.monotonic() - started
            self._behind = self._turn_seconds > _TURN_SECONDS
            if self._behind:
                self._loop.call_soon(self._take_turn)
                break
            if not there_is_more:
                self._make_room()
                break
        self._apply_pause()

    def _take_pdus(self) -> bool:
        """Take some of the PDUs that have been received; tell whether there are more."""
        received, now = self._received, self._loop.time()
        consumed = self._association.receive(received.pending, now, _PDUS_AT_ONCE)
        received.consume(consumed)
        if consumed or self._pdu_started is None:
            self._pdu_started = None if received.is_empty else now
        self._take_events()
        self._flush()
        return len(received.pending) >= self._association.bytes_wanted

    def _make_room(self) -> None:
        try:
            self._received.make_room(self._association.bytes_wanted)
        except RemoteProtocolError as error:
            self.abort_as(Ending(How.ABORTED, error.rule), error.source, error.reason)
            self.close_after_writing()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._write_paused_at = self._loop.time()
        # Each request taken from a peer that does not read would add to what waits for it.
        self.pause()

    def resume_writing(self) -> None:
        self._write_paused_at = None
        self._wake_writers()
        self.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        with contextlib.ExitStack() as each:  # whatever one of them raises
            each.callback(self._on_closed, self)
            each.callback(lambda: self._end_association(self._ending or Ending(How.LOST)))
            each.callback(self._received.close)
            each.callback(self._wake_writers)
            if self._socket is not None:
                self._socket.detach()
            if self._timer is not None:
                self._timer.cancel()
            self._association.connection_lost(self._loop.time())
            self._take_events()

    # -- reading -----------------------------------------------------------------------------

    def pause(self) -> None:
        self._pauses += 1
        self._apply_pause()

    def resume(self) -> None:
        self._pauses -= 1
        self._apply_pause()

    def _apply_pause(self) -> None:
        if self._closed or self._transport.is_closing():
            return
        reading = self._pauses == 0 and not self._received.starved and not self._behind
        if reading == self._reading:
            return
        self._reading = reading
        if reading:
            self._last_read = self._loop.time()
            if self._pdu_started is not None:
                self._pdu_started = self._last_read
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _starvation_changed(self) -> None:
        self._starved_at = None
        if self._received.starved:
            self._starved_at = self._loop.time()
            if self._sink is not None:
                self._sink.let_go()
        self._apply_pause()

    # -- events of the upper layer -------------------------------------------------------------

    def _take_events(self) -> None:
        for event in self._association.take_events():
            try:
                self._handle(event)
            except RemoteProtocolError as error:
                ending = Ending(How.PROTOCOL_ERROR, error.rule)
                self.abort_as(ending, error.source, error.reason)
                return
            except Exception as error:
                # Only this association suffers from a fault of our own.
                self._loop.call_exception_handler(
                    {"message": f"fault in association {self.number}", "exception": error}
                )
                self.abort_as(Ending(How.ABORTED, f"internal error ({type(error).__name__})"))
                return

    def _handle(self, event: Event) -> None:
        match event:
            case DataIndication():
                self._data(event)
            case AssociateIndication(request):
                self._associate(request)
            case ReleaseIndication():
                if self._sink is not None and self.operations:
                    raise RemoteProtocolError(
                        "A-RELEASE-RQ received inside a data set", reason=AbortReason.UNEXPECTED_PDU
                    )
                self._releasing = True
                self._maybe_release()
            case AbortIndication(by_peer=by_peer, rule=rule):
                how = How.PEER_ABORTED if by_peer else How.PROTOCOL_ERROR
                self._ending = self._ending or Ending(how, rule)
                self._end_association(self._ending)
            case ConnectionClosed(rule=rule):
                self._ending = self._ending or Ending(How.LOST, rule)
                self._end_association(self._ending)
            case ReleaseConfirmation() | AssociateAccepted() | AssociateRejected():
                raise LocalProtocolError("an acceptor requested neither association nor release")
            case _:
                assert_never(event)

    def _data(self, data: DataIndication) -> None:
        if self._handler is None or self._ending is not None:
            return
        event = self._reader.feed(data)
        match event:
            case DataFragment(data=fragment, is_last=is_last):
                sink = self._sink
                assert sink is not None
                if len(fragment):
                    sink.write(fragment, self._received.block)
                if is_last:
                    self._sink = None
                    sink.finish()
            case CommandReceived(context_id, command):
                taker = self._handler.message(context_id, command)
                if command.has_data_set:
                    self._sink = Discarding() if taker is None else Gathering(taker, self._pool)
            case None:
                pass
            case _:
                assert_never(event)

    def _associate(self, request: AAssociateRQ) -> None:
        if self._association.state is not State.STA3:
            return  # the peer ended it in the same breath; the next event says how
        now = self._loop.time()
        answer = self._admission.admit(request, self.peer_address)
        if isinstance(answer, Refused):
            self._observer.rejected(self.peer_address, request, answer)
            self._ending = Ending(How.REJECTED, answer.why)
            self._association.reject(answer.rejection, now)
            return
        negotiated = answer.negotiated
        self._release_slot = answer.release
        self.negotiated = negotiated
        self.calling_ae_title = negotiated.calling_ae_title
        self.called_ae_title = negotiated.called_ae_title
        self.established_at = now
        self._reader = MessageReader(negotiated.contexts)
        self._received.trust()
        self._association.accept(negotiated.response, now)
        self._handler = self._provider.established(self)
        self._observer.accepted(self)

    @property
    def operations(self) -> int:
        """Operations of this association that have no final response yet."""
        return self._handler.outstanding if self._handler else 0

    # -- Channel -----------------------------------------------------------------------------

    def send(
        self, context_id: int, command: Command, data_set: bytes | memoryview | None = None
    ) -> None:
        if self._ending is not None or self._association.state not in _MAY_SEND:
            return
        limit = self.negotiated.peer_maximum_length
        try:
            for values in fragments(context_id, encode_command(command), data_set, limit):
                self._association.send_data(values)
        except LocalProtocolError as error:
            # Such as a peer's maximum length that leaves no room for data.
            self.abort_as(Ending(How.ABORTED, str(error)))
            return
        self._maybe_release()
        self._flush()

    async def drained(self) -> None:
        while self._write_paused_at is not None and not self._closed:
            waiter = self._loop.create_future()
            self._writable.append(waiter)
            await waiter

    def abort(self, rule: str, *, source: int = 0, reason: int = 0) -> None:
        self.abort_as(Ending(How.ABORTED, rule), source, reason)

    def abort_as(self, ending: Ending, source: int = 0, reason: int = 0) -> None:
        """End the association with A-ABORT for the reason that ``ending`` says."""
        if self._closed or self._ending is not None:
            return
        self._ending = ending
        if self._association.state not in _CONNECTION_IS_ENDING:
            self._association.abort(source, reason, self._loop.time())
            self._flush()
        self._end_association(ending)

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Drop the connection without another word."""
        self._is_unwanted = True
        if self._is_made and not self._closed:
            self._transport.abort()

    def close_after_writing(self) -> None:
        """Close once what is to be written has been, without awaiting the peer's close."""
        if not self._is_made:
            self._is_unwanted = True
        elif not self._closed and not self._transport.is_closing():
            self._transport.close()
            self._closing_since = self._loop.time()

    def _maybe_release(self) -> None:
        """Answer A-RELEASE once every operation has its final response (PS3.8 §7.2.2)."""
        releasable = self._releasing and self._association.state is State.STA8
        if releasable and self._ending is None and self.operations == 0:
            self._ending = Ending(How.RELEASED)
            self._association.respond_release(self._loop.time())
            self._flush()
            self._end_association(self._ending)

    def _end_association(self, ending: Ending) -> None:
        """Tell everybody once that the association has ended and give its slot back."""
        handler, self._handler = self._handler, None
        sink, self._sink = self._sink, None
        release_slot, self._release_slot = self._release_slot, None
        why = ending.why or ending.how
        with contextlib.ExitStack() as each:  # the last one first, whatever one of them raises
            if release_slot is not None:
                each.callback(release_slot)
            if handler is not None:
                each.callback(self._observer.ended, self, ending.how, ending.why)
                each.callback(handler.closed, why)
            elif self.established_at is None and not self._reported:
                self._reported = True
                # A load balancer's check connects and closes: nothing to report.
                if ending.how not in (How.REJECTED, How.LOST):
                    self._observer.failed(self.peer_address, ending.how, ending.why)
            if sink is not None:
                each.callback(sink.abandon, why)

    def _wake_writers(self) -> None:
        waiters, self._writable = self._writable, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _flush(self) -> None:
        output = self._association.take_output()
        if output and not self._transport.is_closing():
            self._transport.writelines(output)
        if self._association.should_close:
            self.close_after_writing()

    # -- deadlines ---------------------------------------------------------------------------

    def _tick(self) -> None:
        if self._closed:
            return
        now = self._loop.time()
        wait = min(_TICK_SECONDS, self._deadlines.pdu, self._deadlines.idle, self._deadlines.write)
        artim = self._association.timer()
        if artim is not None:
            wait = max(0.001, min(wait, artim - now))
        self._timer = self._loop.call_later(wait, self._tick)
        if now - self._last_read > _TICK_SECONDS / 2:
            if self._sink is not None:
                self._sink.let_go()
            self._received.rest()
        if self._closing_since is None and self._transport.is_closing():
            self._closing_since = now  # by the peer's end of file
        expired = self._expired(now)
        if expired is not None:
            self._expire(expired)
        self._association.handle_timer(now)
        if artim is not None and artim <= now:
            self._artim_expired()

    def _artim_expired(self) -> None:
        if self._ending is None:
            self._ending = Ending(
                How.TIMED_OUT,
                f"no association request within {self._deadlines.artim:g} s"
                " (timeouts.artim_seconds)",
            )
            self._end_association(self._ending)
        self._take_events()
        self._flush()

    def _expired(self, now: float) -> str | None:
        """Return the sentence of the deadline that has run out, if any."""
        limits = self._deadlines
        paused = self._closing_since if self._write_paused_at is None else self._write_paused_at
        if paused is not None and now - paused > limits.write:
            return f"peer did not read for {limits.write:g} s (timeouts.write_seconds)"
        if self._starved_at is not None and now - self._starved_at > limits.pdu:
            return f"no receive buffer for {limits.pdu:g} s (limits.receive_buffer_bytes)"
        if not self._reading or self.established_at is None or self._ending is not None:
            return None
        if self._pdu_started is not None and now - self._pdu_started > limits.pdu:
            return f"PDU incomplete after {limits.pdu:g} s (timeouts.pdu_seconds)"
        silent = now - self._last_read
        if self._sink is not None and silent > min(limits.pdu, limits.idle):
            return f"message incomplete, silent for {silent:.3g} s (timeouts.pdu_seconds)"
        if self.operations == 0 and silent > limits.idle:
            return f"idle for {limits.idle:g} s (timeouts.idle_seconds)"
        return None

    def _expire(self, rule: str) -> None:
        ending = Ending(How.TIMED_OUT, rule)
        if self._write_paused_at is None and self._closing_since is None:
            self.abort_as(ending)
            if self._starved_at is not None:
                self.close_after_writing()  # the peer's close could not be read
            return
        # Nothing more can be written to a peer that does not read: no A-ABORT, only the close.
        self._ending = self._ending or ending
        self._transport.abort()


_TCP_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
