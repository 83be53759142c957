"""One TCP connection: feeds ``ul.Association``, writes what it says, and keeps the deadlines.

The connection is also the ``Channel`` through which the services answer. Bytes are read into
pooled blocks and reach the services as views into them. What only one side of an association
does is in ``accepted`` and ``requested``.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import assert_never, cast

from dicomnode.certificates import Secured
from dicomnode.dimse.channel import DataSetSource, Handler, Progress, Provider
from dicomnode.dimse.command import CCancelRQ, Command, Response
from dicomnode.dimse.message import CommandReceived, DataFragment, MessageReader
from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from dicomnode.net.buffers import BufferPool
from dicomnode.net.ending import Deadlines, Ending, How
from dicomnode.net.reading import Reading
from dicomnode.net.sending import Sender
from dicomnode.net.sinks import Discarding, Gathering
from dicomnode.net.taps import Ends, Taps
from dicomnode.tls.faults import TLSFault
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
from dicomnode.ul.negotiation import Negotiated
from dicomnode.ul.pdu import AbortReason

# Where our side may say what; the peer may have moved on within the bytes just received.
_MAY_SEND = (State.STA6, State.STA8)
_CONNECTION_IS_ENDING = (State.STA1, State.STA2, State.STA13)
# The part of ``Deadlines.pdu`` that an incomplete PDU gets while receive buffers are short.
_PATIENCE_WHILE_SHORT = 4
# A message that comes more slowly over ``Deadlines.pdu`` holds its slot to no purpose.
_LEAST_BYTES_A_SECOND = 16
# Deadlines are looked at this often; each is late by at most as much.
_TICK_SECONDS = 1.0


class Connection(Reading):
    """A connection and the association on it; a subclass for each side."""

    _idles_out = True
    _is_requested = False

    def __init__(
        self,
        number: int,
        association: Association,
        *,
        pool: BufferPool,
        deadlines: Deadlines,
        provider: Provider,
        on_closed: Callable[[Connection], None],
        taps: Taps | None = None,
    ) -> None:
        super().__init__(association, pool)
        self._taps = taps
        self.number = number
        self.calling_ae_title = ""
        self.called_ae_title = ""
        self.peer_address = ""
        self.secured: Secured | None = None
        self.negotiated: Negotiated
        self.established_at: float | None = None
        self._pool = pool
        self._deadlines = deadlines
        self._provider = provider
        self._on_closed = on_closed
        self._sender = Sender(association, self.abort, self._is_read_again, self.traffic)
        self._timer: asyncio.TimerHandle | None = None
        self._handler: Handler | None = None
        self._reader: MessageReader
        self._sink: Gathering | Discarding | None = None
        self._ending: Ending | None = None
        self._releasing = False
        self._reported = False
        # Between the accept and connection_made there is no transport to close.
        self.is_made = False
        self._is_unwanted = False
        # What has come of messages, and how much had when their pace was begun to be taken.
        self._message_bytes = 0
        self._pace_bytes = 0
        self._pace_at: float | None = None
        # When an operation was last seen under way, or its response on the way to the peer.
        self._last_busy = 0.0

    # -- the transport's callbacks ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, but not the base class.
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer_address = peer[0] if peer else "unknown"
        self.secured = transport.get_extra_info("secured")
        self._open_socket_options(self._transport)
        self._sender.open(self._transport, self._socket)
        self.is_made = True
        if self._is_unwanted:
            self._transport.abort()
            return
        if self._taps is not None and self._taps.is_listening:
            self._listen_in(self._taps)
        self._association.connection_made(self._loop.time())
        self._flush()
        self._tick()

    def _listen_in(self, taps: Taps) -> None:
        transport = self._transport
        ends = Ends(
            ours=_address(transport, "sockname"),
            theirs=_address(transport, "peername"),
            requested=self._is_requested,
            # asyncio's own TLS, or a transport that does it itself.
            encrypted=any(map(transport.get_extra_info, ("ssl_object", "secured"))),
        )
        self._tap = self._sender.tap = taps.connected(ends)

    def _peer_is_named(self, peer_ae_title: str) -> None:
        """Let whoever listens in decide whether this is what it wants to hear."""
        if self._tap is not None and not self._tap.begins(peer_ae_title):
            self._tap = self._sender.tap = None

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._sender.pause()

    def resume_writing(self) -> None:
        self._sender.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed:
            return  # whoever gave the connection up has said so already
        self._closed = True
        if isinstance(exc, TLSFault):
            self._ending = self._ending or Ending(How.LOST, exc.words, exc)
        with contextlib.ExitStack() as each:  # whatever one of them raises
            each.callback(self._on_closed, self)
            each.callback(lambda: self._end_association(self._ending or Ending(How.LOST)))
            each.callback(self._received.close)
            if self._tap is not None:
                each.callback(self._tap.ended, self._received.pending)
            each.callback(self._sender.end)
            if self._socket is not None:
                self._socket.detach()
            if self._timer is not None:
                self._timer.cancel()
            self._association.connection_lost(self._loop.time())
            self._take_events()

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
                self._fault(error)
                return

    def _fault(self, error: Exception) -> None:
        """End this association, which alone suffers from a fault of our own."""
        self._loop.call_exception_handler(
            {"message": f"fault in association {self.number}", "exception": error}
        )
        self.abort_as(Ending(How.ABORTED, f"internal error ({type(error).__name__})"))

    def _handle(self, event: Event) -> None:
        match event:
            case DataIndication():
                self._data(event)
            case AssociateIndication() | AssociateAccepted() | AssociateRejected():
                self._negotiate(event)
            case ReleaseIndication(collision=collision):
                self._release_indicated(collision)
            case ReleaseConfirmation():
                self._ending = self._ending or Ending(How.RELEASED)
                self._end_association(self._ending)
            case AbortIndication(by_peer=by_peer, rule=rule):
                how = How.PEER_ABORTED if by_peer else How.PROTOCOL_ERROR
                self._ending = self._ending or Ending(how, rule)
                self._end_association(self._ending)
            case ConnectionClosed(rule=rule):
                self._ending = self._ending or Ending(How.LOST, rule)
                self._end_association(self._ending)
            case _:
                assert_never(event)

    def _data(self, data: DataIndication) -> None:
        if self._handler is None or self._ending is not None:
            return
        self._message_bytes += len(data.data)
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
                if self._sender.is_blocked and not isinstance(command, CCancelRQ | Response):
                    self._taken_unread()
                taker = self._handler.message(context_id, command)
                if command.has_data_set:
                    self._sink = Discarding() if taker is None else Gathering(taker, self._pool)
            case None:
                pass
            case _:
                assert_never(event)

    def _let_go(self) -> None:
        if self._sink is not None:
            self._sink.let_go()

    @abstractmethod
    def _negotiate(
        self, event: AssociateIndication | AssociateAccepted | AssociateRejected
    ) -> None:
        """Take part in the making of the association as this side does."""

    def _establish(self, negotiated: Negotiated) -> None:
        """The association has been accepted, by whichever side."""
        self.negotiated = negotiated
        self.calling_ae_title = negotiated.calling_ae_title
        self.called_ae_title = negotiated.called_ae_title
        self._reader = MessageReader(negotiated.contexts)
        self._handler = self._provider.established(self)
        self.established_at = self._loop.time()

    def _release_indicated(self, collision: bool) -> None:
        if self._sink is not None and self.operations:
            raise RemoteProtocolError(
                "A-RELEASE-RQ received inside a data set", reason=AbortReason.UNEXPECTED_PDU
            )
        if collision:
            # As requestor we answer first, and have the answer to our own afterwards.
            self._association.respond_release(self._loop.time())
            return
        self._releasing = True
        self._maybe_release()

    @property
    def operations(self) -> int:
        """Operations of this association that have no final response yet."""
        return self._handler.outstanding if self._handler else 0

    # -- Channel -----------------------------------------------------------------------------

    def progress(self) -> Sequence[Progress]:
        return self._handler.progress() if self._handler else ()

    @property
    @abstractmethod
    def peer_ae_title(self) -> str:
        """The AE title of the other side."""

    def send(
        self, context_id: int, command: Command, data_set: bytes | memoryview | None = None
    ) -> None:
        if self._ending is not None or self._association.state not in _MAY_SEND:
            return
        self._sender.send(context_id, command, data_set)
        self._maybe_release()

    async def stream(self, context_id: int, command: Command, data_set: DataSetSource) -> None:
        if self._ending is None and self._association.state in _MAY_SEND:
            await self._sender.stream(context_id, command, data_set)

    @property
    def is_blocked(self) -> bool:
        return self._sender.is_blocked

    async def drained(self) -> None:
        await self._sender.drained()

    async def release(self) -> None:
        raise LocalProtocolError("only the requestor of an association asks for its release")

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
        if self.is_made and not self._closed:
            self._transport.abort()

    def close_after_writing(self) -> None:
        """Close once what is to be written has been, without awaiting the peer's close."""
        if not self.is_made:
            self._is_unwanted = True
        elif not self._closed and not self._transport.is_closing():
            self._transport.close()

    def _maybe_release(self) -> None:
        """Answer A-RELEASE once every operation has its final response (PS3.8 §7.2.2)."""
        releasable = self._releasing and self._association.state is State.STA8
        if releasable and self._ending is None and self.operations == 0:
            if self._sender.is_streaming:
                self.abort("A-RELEASE-RQ received while a data set was being sent")
                return
            self._ending = Ending(How.RELEASED)
            self._association.respond_release(self._loop.time())
            self._flush()
            self._end_association(self._ending)

    def _end_association(self, ending: Ending) -> None:
        """Tell everybody once that the association has ended and give its slot back."""
        handler, self._handler = self._handler, None
        sink, self._sink = self._sink, None
        why = ending.why or ending.how
        with contextlib.ExitStack() as each:  # the last one first, whatever one of them raises
            # The peer may take its time to close the connection: others need the buffers.
            if self.is_made:
                each.callback(self._drop_received)
            if handler is not None:
                each.callback(self._report_ended, ending)
                each.callback(handler.closed, why)
            elif self.established_at is None and not self._reported:
                self._reported = True
                each.callback(self._report_failed, ending)
            if sink is not None:
                each.callback(sink.abandon, why)
            each.callback(self._sender.end)

    @abstractmethod
    def _report_ended(self, ending: Ending) -> None:
        """The association has ended."""

    @abstractmethod
    def _report_failed(self, ending: Ending) -> None:
        """The connection ends without an association."""

    def _flush(self) -> None:
        self._sender.flush()
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
            self._let_go()
            self._received.rest()
        self.traffic.tick(now)
        stalled_seconds = self._sender.stalled_seconds(now)
        if self.operations or self._sender.is_awaited:
            self._last_busy = now
        if stalled_seconds > self._deadlines.write:
            self._drop_deaf_peer()
        elif (expired := self._expired(now)) is not None:
            self.abort_as(Ending(How.TIMED_OUT, expired))
            if self._starved_at is not None:
                self.close_after_writing()  # the peer's close could not be read
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
        if self._starved_at is not None and now - self._starved_at > limits.pdu:
            return f"no receive buffer for {limits.pdu:g} s (limits.receive_buffer_bytes)"
        if not self._reading or self.established_at is None or self._ending is not None:
            self._pace_at = None
            return None
        if self._pdu_started is not None and now - self._pdu_started > limits.pdu:
            return f"PDU incomplete after {limits.pdu:g} s (timeouts.pdu_seconds)"
        silent = now - self._last_read
        patience = limits.pdu / _PATIENCE_WHILE_SHORT
        # Whoever waits for a block is given up only after the whole deadline.
        if self._pdu_started is not None and self._pool.is_short and silent > patience:
            return f"PDU incomplete, silent for {silent:.3g} s while others wait for buffers"
        if not self._reader.is_between_messages and silent > min(limits.pdu, limits.idle):
            return f"message incomplete, silent for {silent:.3g} s (timeouts.pdu_seconds)"
        if (crawled := self._crawled_bytes(now)) is not None:
            return f"{crawled} bytes of a message in {limits.pdu:g} s (timeouts.pdu_seconds)"
        # Who waited for responses is silent for long, and had no turn to say anything.
        idle = now - max(self._last_read, self._last_busy)
        if self._idles_out and self.operations == 0 and idle > limits.idle:
            return f"idle for {limits.idle:g} s (timeouts.idle_seconds)"
        return None

    def _crawled_bytes(self, now: float) -> int | None:
        """Return what has come of a message within the deadline, if that is next to nothing."""
        if self._reader.is_between_messages:
            self._pace_at = None
            return None
        if self._pace_at is None:
            self._pace_at, self._pace_bytes = now, self._message_bytes
            return None
        if now - self._pace_at <= self._deadlines.pdu:
            return None
        came = self._message_bytes - self._pace_bytes
        self._pace_at, self._pace_bytes = now, self._message_bytes
        return came if came < _LEAST_BYTES_A_SECOND * self._deadlines.pdu else None

    def _drop_deaf_peer(self) -> None:
        """End the connection without A-ABORT, which the peer would not read either."""
        seconds = self._deadlines.write
        rule = f"peer did not read for {seconds:g} s (timeouts.write_seconds)"
        self._ending = self._ending or Ending(How.TIMED_OUT, rule)
        self._transport.abort()


def _address(transport: asyncio.BaseTransport, name: str) -> tuple[str, int]:
    found = transport.get_extra_info(name)
    # IPv6 has four parts; a socket that is closed already, or is none of IP, has no address.
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else ("unknown", 0)
