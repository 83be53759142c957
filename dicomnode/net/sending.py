"""What goes out on one association: message after message, no faster than the peer takes it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from dicomnode.dimse.channel import DataSetSource
from dicomnode.dimse.command import Command, encode_command
from dicomnode.errors import LocalProtocolError
from dicomnode.net.taps import Tap
from dicomnode.net.traffic import Traffic
from dicomnode.ul.association import Association

# Between these marks the transport is kept supplied: what is read from a file meanwhile must
# come before it has run dry, and what waits cannot be taken back when the peer cancels.
_HIGH_WATER_BYTES = 256 * 1024
_LOW_WATER_BYTES = 64 * 1024
# Buffers of less are joined by copying: a writing of many costs more.
_JOINED_BYTES = 8 * 1024

Message: TypeAlias = tuple[int, Command, bytes | memoryview | None]


class Sender:
    """Queues messages behind the one that is being streamed (PS3.8 Annex E), and streams in turn.

    ``abort`` ends the association with a sentence for the log; ``on_unblocked`` is called when
    ``is_blocked`` has become false. ``is_awaited`` is whether the peer had not taken everything
    when ``stalled_seconds`` last looked. The owner asks whether it may send at all.
    """

    def __init__(
        self,
        association: Association,
        abort: Callable[[str], None],
        on_unblocked: Callable[[], None],
        traffic: Traffic,
    ) -> None:
        self._association = association
        self._abort = abort
        self._on_unblocked = on_unblocked
        self._traffic = traffic
        self.tap: Tap | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._kernel: socket.socket | None = None
        self._ended = False
        self._encoded: tuple[Command | None, bytes] = None, b""
        self._is_full = False
        self._is_streaming = False
        self._queue: deque[Message | asyncio.Future[None]] = deque()
        self._waiters: list[asyncio.Future[None]] = []
        self._taken_bytes = 0
        self.is_awaited = False
        self._stalled_since = self._loop.time()

    def open(self, transport: asyncio.Transport, kernel: socket.socket | None) -> None:
        """Send to ``transport`` from now on; ``kernel`` is the socket below it."""
        self._transport = transport
        self._kernel = kernel
        transport.set_write_buffer_limits(_HIGH_WATER_BYTES, _LOW_WATER_BYTES)

    @property
    def is_streaming(self) -> bool:
        """Whether a message has been begun and not ended, so that nothing else can be sent."""
        return self._is_streaming

    @property
    def is_blocked(self) -> bool:
        """Whether what is sent now has to wait, for the peer or for the end of a stream."""
        return self._is_full or self._is_streaming

    # -- messages ----------------------------------------------------------------------------

    def send(self, context_id: int, command: Command, data_set: bytes | memoryview | None) -> None:
        """Send one message, or queue it while another one is being streamed."""
        if self._is_streaming:
            self._queue.append((context_id, command, data_set))
            return
        self._put(context_id, command, data_set)
        self.flush()

    async def stream(self, context_id: int, command: Command, data_set: DataSetSource) -> None:
        """Send one message piece by piece, when its turn has come."""
        if self._is_streaming:
            await self._turn()
        if self._ended:
            return
        self._is_streaming = True
        whole = False
        try:
            self._put(context_id, command, None)
            await self._stream_data(context_id, data_set)
            whole = True
        except Exception as error:
            kind = type(error).__name__
            self._abort(f"a data set could not be sent to its end ({kind}: {error})")
        finally:
            if not whole:
                self._abort("the sending of a data set was given up")
            self._pass_on()

    async def _stream_data(self, context_id: int, data_set: DataSetSource) -> None:
        association, size = self._association, self._association.fragment_bytes
        # The end of what was read may be the last fragment, which is marked.
        kept = memoryview(b"")
        while piece := await data_set.read():
            if self._ended:
                return
            # Only the last fragment may have an odd length.
            data = memoryview(bytes(kept) + piece if len(kept) % 2 else piece)
            if len(kept) and len(kept) % 2 == 0:
                association.send_data(context_id, kept, is_command=False, is_last=False)
            cut = (len(data) - 1) // size * size
            kept = data[cut:]
            if cut:
                association.send_data(context_id, data[:cut], is_command=False, is_last=False)
            self.flush()
            while self._is_full and not self._ended:
                await self._change()
        if not self._ended:
            association.send_data(context_id, kept, is_command=False)
            self.flush()

    async def _turn(self) -> None:
        turn = self._loop.create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        """Send what waited for the end of a stream, up to the next one."""
        while self._queue and not self._ended:
            waiting = self._queue.popleft()
            if not isinstance(waiting, asyncio.Future):
                self._put(*waiting)
            elif not waiting.done():
                self.flush()
                waiting.set_result(None)
                return
        self._is_streaming = False
        if not self._ended:
            self.flush()
        self._wake()

    def _put(self, context_id: int, command: Command, data_set: bytes | memoryview | None) -> None:
        association = self._association
        try:
            # The Pending responses of one operation are often all equal.
            if command is not self._encoded[0] and command != self._encoded[0]:
                self._encoded = command, encode_command(command)
            association.send_data(context_id, self._encoded[1], is_command=True)
            if data_set is not None:
                association.send_data(context_id, data_set, is_command=False)
        except LocalProtocolError as error:
            # Such as a value that does not fit its element.
            self._abort(str(error))

    # -- the transport -----------------------------------------------------------------------

    def flush(self) -> None:
        """Write what the association has to say."""
        output = self._association.take_output()
        if not output or self._transport.is_closing():
            return
        size = sum(map(len, output))
        self._traffic.sent_bytes += size
        if self.tap is not None:
            self.tap.sent(output)
        if size <= _JOINED_BYTES:
            self._transport.write(b"".join(output))
        else:
            self._transport.writelines(output)

    def pause(self) -> None:
        """The transport is full."""
        self._is_full = True

    def resume(self) -> None:
        """The transport takes more again."""
        self._is_full = False
        self._wake()

    async def drained(self) -> None:
        """Wait until what is sent goes out at once, or nothing can be sent any more."""
        while self.is_blocked and not self._ended:
            await self._change()

    def end(self) -> None:
        """The association has ended: nothing is sent any more."""
        self._ended = True
        for waiting in self._queue:
            if isinstance(waiting, asyncio.Future) and not waiting.done():
                waiting.set_result(None)
        self._queue.clear()
        self._wake()

    async def _change(self) -> None:
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if not (self.is_blocked or self._ended):
            self._on_unblocked()

    # -- progress ----------------------------------------------------------------------------

    def stalled_seconds(self, now: float) -> float:
        """Return for how long the peer is known to have taken nothing of what waits for it.

        It is known from one call to the next.
        """
        waiting = self._count_waiting()
        self.is_awaited = waiting > 0
        taken = self._traffic.sent_bytes - waiting
        if not waiting or taken > self._taken_bytes:
            self._stalled_since = now
        self._taken_bytes = taken
        return now - self._stalled_since

    def _count_waiting(self) -> int:
        """Count what the peer has not acknowledged, as far as the system tells.

        The kernel takes megabytes, and more only when much of that has gone: without looking
        into it a dead peer would seem to take all, and one at a slow line for minutes nothing.
        """
        waiting = self._transport.get_write_buffer_size()
        if self._kernel is not None:
            with contextlib.suppress(OSError):
                queued = fcntl.ioctl(self._kernel, termios.TIOCOUTQ, bytes(4))
                waiting += int.from_bytes(queued, sys.byteorder)
        return waiting
