"""How the bytes of one connection come in: buffers, pauses, and turns among connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from abc import ABC, abstractmethod

from dicomnode.errors import RemoteProtocolError
from dicomnode.net.buffers import BufferPool
from dicomnode.net.ending import Ending, How
from dicomnode.net.receiver import Receiver
from dicomnode.net.taps import Tap
from dicomnode.net.traffic import Traffic
from dicomnode.ul.association import Association

# After as much time other connections have their turn, whatever else has been received; the
# clock is looked at after as many PDUs.
_PDUS_AT_ONCE = 32
_TURN_SECONDS = 0.004
# Requests taken from a peer while what is sent to it waits: each adds an answer that waits too.
_MAX_ASKED_UNREAD = 64
_TCP_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_FAILURE_IS_NONE = contextlib.suppress(OSError)


class Reading(asyncio.BufferedProtocol, ABC):
    """The receiving half of a connection: fills pooled blocks and feeds the association."""

    def __init__(self, association: Association, pool: BufferPool) -> None:
        self._association = association
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._socket: socket.socket | None = None
        self._received = Receiver(pool, self._starvation_changed)
        self._tap: Tap | None = None
        self.traffic = Traffic(self._loop.time())
        self._closed = False
        self._pauses = 0
        self._reading = True
        # Whether PDUs that have been received wait for their turn.
        self._behind = False
        self._turn_at = 0.0
        self._turn_seconds = 0.0
        self._asked_unread = 0
        self._starved_at: float | None = None
        self._last_read = self._loop.time()
        # When the first byte of the PDU came that is still incomplete.
        self._pdu_started: float | None = None

    @abstractmethod
    def _take_events(self) -> None:
        """Do what the association says of the PDUs that it was given."""

    @abstractmethod
    def _flush(self) -> None:
        """Write what the association has to say."""

    @abstractmethod
    def _let_go(self) -> None:
        """Copy what is kept in receive buffers and will not be worked on soon."""

    @abstractmethod
    def abort_as(self, ending: Ending, source: int = 0, reason: int = 0) -> None:
        """End the association with A-ABORT."""

    @abstractmethod
    def close_after_writing(self) -> None:
        """Close once what is to be written has been."""

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
            with _FAILURE_IS_NONE:
                self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_QUICKACK, 1)
        self._received.count(nbytes)
        self.traffic.received_bytes += nbytes
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
            # The rest waits until the peer reads again.
            unread = there_is_more and self._asked_unread >= _MAX_ASKED_UNREAD
            self._behind = unread or self._turn_seconds > _TURN_SECONDS
            if self._behind:
                if not unread:
                    self._loop.call_soon(self._take_turn)
                break
            if not there_is_more:
                self._make_room()
                break
        self._apply_pause()

    def _take_pdus(self) -> bool:
        """Take some of the PDUs that have been received; tell whether there are more."""
        received, now = self._received, self._loop.time()
        pending = received.pending
        consumed = self._association.receive(pending, now, _PDUS_AT_ONCE)
        if self._tap is not None:
            self._tap.received(pending[:consumed])
        received.consume(consumed)
        if consumed or self._pdu_started is None:
            self._pdu_started = None if received.is_empty else now
        self._take_events()
        self._flush()
        return received.size_bytes >= self._association.bytes_wanted

    def _make_room(self) -> None:
        try:
            self._received.make_room(self._association.bytes_wanted)
        except RemoteProtocolError as error:
            self.abort_as(Ending(How.ABORTED, error.rule), error.source, error.reason)
            self.close_after_writing()

    def pause(self) -> None:
        self._pauses += 1
        self._apply_pause()

    def resume(self) -> None:
        self._pauses -= 1
        self._apply_pause()

    def _apply_pause(self) -> None:
        if self._closed or self._transport.is_closing():
            return
        heard = self._asked_unread < _MAX_ASKED_UNREAD
        reading = heard and not (self._pauses or self._received.starved or self._behind)
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

    def _taken_unread(self) -> None:
        """A request has been taken although the peer does not read what is sent to it."""
        self._asked_unread += 1

    def _is_read_again(self) -> None:
        """The peer reads what is sent to it."""
        if self._asked_unread >= _MAX_ASKED_UNREAD and self._behind:
            self._loop.call_soon(self._take_turn)
        self._asked_unread = 0
        self._apply_pause()

    def _drop_received(self) -> None:
        """Give the buffers back of what has been received and will not be taken any more."""
        self._received.close()
        self._apply_pause()

    def _starvation_changed(self) -> None:
        self._starved_at = None
        if self._received.starved:
            self._starved_at = self._loop.time()
            self._let_go()
        self._apply_pause()
