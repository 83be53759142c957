"""Takes what comes by a C-GET of ours into the node's store, as what is sent to it."""

from __future__ import annotations

import asyncio

from dicomnode.errors import DataSetMismatch, StatusError
from dicomnode.scu.receiving import ReceivedObject
from dicomnode.services.intake import Arrival, Intake, Settled
from dicomnode.storage.paths import valid_uid
from dicomnode.sync.own import Here, OwnIndex
from dicomnode.sync.tree import Brought, Held


class IntoStore(Here):
    """The node's store; objects are entered as received from ``source_ae_title``."""

    def __init__(self, intake: Intake, own: OwnIndex, source_ae_title: str) -> None:
        super().__init__(own)
        self._intake = intake
        self._source_ae_title = source_ae_title

    async def receive(self, held: Held, arriving: ReceivedObject) -> Brought:
        """Take an object; it is durable and in the index on return. Raises StatusError."""
        if not valid_uid(arriving.sop_instance_uid):
            raise DataSetMismatch("Affected SOP Instance UID is no UID")
        arrival = Arrival(
            sop_class_uid=arriving.sop_class_uid,
            sop_instance_uid=arriving.sop_instance_uid,
            transfer_syntax_uid=arriving.transfer_syntax_uid,
            source_ae_title=self._source_ae_title,
        )
        hold = _Hold()
        settled: asyncio.Future[tuple[Settled | StatusError, int]] = (
            asyncio.get_running_loop().create_future()
        )

        def done(outcome: Settled | StatusError, size: int) -> None:
            if not settled.done():
                settled.set_result((outcome, size))

        incoming = self._intake.begin(arrival, hold, done)
        try:
            async for piece in arriving:
                incoming.write(memoryview(piece), hold)
                await hold.over()
        except BaseException:
            incoming.abandon("it did not arrive whole")
            raise
        incoming.finish()
        outcome, size = await settled
        if isinstance(outcome, StatusError):
            raise outcome
        return Brought(size, None)


class _Hold:
    """Stands for whoever sends: what is paused is the reading of pieces, which are our own."""

    def __init__(self) -> None:
        self._depth = 0
        self._open = asyncio.Event()
        self._open.set()

    def pause(self) -> None:
        self._depth += 1
        self._open.clear()

    def resume(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._open.set()

    async def over(self) -> None:
        """Wait until more can be taken."""
        await self._open.wait()

    def retain(self) -> None:
        """A piece is no view of a buffer: nothing needs to be kept for it."""

    def release(self) -> None:
        """Nothing was kept."""
