"""The objects that come back on our association while we perform a C-GET (PS3.4 §C.4.3)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from dicomnode.dimse.channel import Channel, DataSetSink, Lease
from dicomnode.dimse.command import CStoreRQ, answer
from dicomnode.dimse.status import Status
from dicomnode.errors import AssociationAborted, OutOfResources, StatusError
from dicomnode.ul.negotiation import AcceptedContext

# Bytes of objects that nobody has read yet; past them the association is not read.
_HIGH_WATER_BYTES: Final = 2 * 1024 * 1024
_LOW_WATER_BYTES: Final = 512 * 1024
# Sub-operations whose response is still to be sent; a peer that waits for responses has one.
_MAX_OPEN: Final = 64


class ReceivedObject:
    """One object as it arrives; what is not read of it is dropped.

    ``request`` is the C-STORE-RQ that it came with.
    """

    def __init__(self, request: CStoreRQ, transfer_syntax_uid: str, read: Callable[[int], None]):
        self.request = request
        self.sop_class_uid = request.affected_sop_class_uid
        self.sop_instance_uid = request.affected_sop_instance_uid
        self.transfer_syntax_uid = transfer_syntax_uid
        self._read = read
        self._pieces: deque[bytes] = deque()
        self._whole = False
        self._why_lost = ""
        self._on_whole: Callable[[], None] | None = None
        self._arrived = asyncio.Event()

    async def read(self) -> bytes:
        """Return the next piece of the data set, b"" at the end.

        Raises AssociationAborted when the association ended before all of it was there.
        """
        while not self._pieces:
            if self._why_lost:
                raise AssociationAborted(self._why_lost)
            if self._whole:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        piece = self._pieces.popleft()
        self._read(len(piece))
        return piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece

    async def data(self, max_bytes: int) -> bytes:
        """Return all of the data set; raises OutOfResources when that is more than ``max_bytes``.

        Raises AssociationAborted.
        """
        pieces: list[bytes] = []
        async for piece in self:
            pieces.append(piece)
            max_bytes -= len(piece)
            if max_bytes < 0:
                raise OutOfResources("the object is too large")
        return b"".join(pieces)

    # -- for the receiver --------------------------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        """Whether it is we who have to go on with it: to read, or, when it is whole, to answer."""
        return self._whole or bool(self._pieces)

    @property
    def is_lost(self) -> bool:
        """Whether the association ended before all of it was there."""
        return bool(self._why_lost)

    def arrived(self, piece: bytes) -> None:
        """Take a piece."""
        if self._on_whole is not None:
            self._read(len(piece))
            return
        self._pieces.append(piece)
        self._arrived.set()

    def ended(self, why_lost: str = "") -> None:
        """Nothing more comes: it is whole, or lost."""
        self._whole, self._why_lost = not why_lost, why_lost
        self._arrived.set()
        if self._whole and self._on_whole is not None:
            self._on_whole()

    def drop(self, on_whole: Callable[[], None]) -> None:
        """Keep nothing of it any more; call ``on_whole`` once, when all has arrived."""
        while self._pieces:
            self._read(len(self._pieces.popleft()))
        self._on_whole = on_whole
        if self._whole:
            on_whole()


# Takes an object; returns the status of the C-STORE-RSP, None for success.
Receive = Callable[[ReceivedObject], Awaitable[int | None]]
# Status and Error Comment.
_Outcome = tuple[int, str | None]


class Receiver:
    """Answers the C-STORE sub-operations of one C-GET with what ``receive`` makes of them.

    A StatusError that it raises becomes the response. Anything else is a fault: it goes to
    ``on_fault``, and the object is answered with failure. ``on_heard`` is called as data arrive.
    """

    def __init__(
        self,
        channel: Channel,
        receive: Receive,
        on_heard: Callable[[], None],
        on_fault: Callable[[Exception], None],
    ) -> None:
        self._channel = channel
        self._receive = receive
        self._on_heard = on_heard
        self._on_fault = on_fault
        self._tasks: dict[asyncio.Task[_Outcome], ReceivedObject] = {}
        self._unread_bytes = 0
        self._paused = False
        self._is_closed = False

    def begin(self, context: AcceptedContext, request: CStoreRQ) -> DataSetSink | None:
        """Take up a sub-operation; return the sink of its data set."""
        self._on_heard()
        if self._is_closed:
            self._answer(context, request, Status.OUT_OF_RESOURCES, "the retrieval was cancelled")
            return None
        if not context.as_scp or request.affected_sop_class_uid != context.abstract_syntax:
            words = "not proposed in the SCP role on this presentation context"
            self._answer(context, request, Status.SOP_CLASS_NOT_SUPPORTED, words)
            return None
        arriving = ReceivedObject(request, context.transfer_syntax, self._was_read)
        if not request.has_data_set:
            arriving.ended()
        task = asyncio.create_task(self._handle(arriving))
        self._tasks[task] = arriving
        task.add_done_callback(lambda task: self._handled(task, context, request, arriving))
        self._apply_pause()
        return _Sink(self, arriving)

    def is_our_turn(self) -> bool:
        """Tell whether the peer waits for us, and not we for the rest of an object."""
        return any(arriving.is_ours for arriving in self._tasks.values())

    async def wait(self) -> None:
        """Wait until nothing more is made of what has arrived."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Take nothing more: what is under way is given up, what comes is refused."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

    async def _handle(self, arriving: ReceivedObject) -> _Outcome:
        """Return status and comment for an object."""
        try:
            return await self._receive(arriving) or Status.SUCCESS, None
        except StatusError as error:
            return error.status, error.comment
        except Exception as error:
            if not arriving.is_lost:
                self._on_fault(error)
            return Status.PROCESSING_FAILURE, "internal error"

    def _handled(
        self,
        task: asyncio.Task[_Outcome],
        context: AcceptedContext,
        request: CStoreRQ,
        arriving: ReceivedObject,
    ) -> None:
        del self._tasks[task]
        if task.cancelled():  # perhaps before it began
            outcome: _Outcome = int(Status.OUT_OF_RESOURCES), "the retrieval was cancelled"
        else:
            outcome = task.result()
        status, comment = outcome
        arriving.drop(lambda: self._answer(context, request, status, comment))
        self._apply_pause()

    def _answer(
        self, context: AcceptedContext, request: CStoreRQ, status: int, comment: str | None
    ) -> None:
        self._channel.send(context.context_id, answer(request, status, error_comment=comment))

    # -- back-pressure -----------------------------------------------------------------------------

    def arrived(self, size: int) -> None:
        """Count in what was received and not read."""
        self._on_heard()
        self._unread_bytes += size
        self._apply_pause()

    def _was_read(self, size: int) -> None:
        self._unread_bytes -= size
        self._on_heard()
        self._apply_pause()

    def _apply_pause(self) -> None:
        limit = _LOW_WATER_BYTES if self._paused else _HIGH_WATER_BYTES
        pause = self._unread_bytes > limit or len(self._tasks) >= _MAX_OPEN
        if pause and not self._paused:
            self._channel.pause()
        elif self._paused and not pause:
            self._channel.resume()
        self._paused = pause


class _Sink:
    """The ``DataSetSink`` of one sub-operation."""

    def __init__(self, receiver: Receiver, arriving: ReceivedObject) -> None:
        self._receiver = receiver
        self._arriving = arriving

    def write(self, fragment: memoryview, lease: Lease) -> None:
        self._arriving.arrived(bytes(fragment))
        self._receiver.arrived(len(fragment))

    def finish(self) -> None:
        self._arriving.ended()

    def abandon(self, why: str) -> None:
        self._arriving.ended(why)
