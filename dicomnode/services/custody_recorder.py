"""Records what is told from anywhere, without holding up whoever tells it.

What comes together is committed together, by a thread of its own. What cannot be recorded is kept
and tried again: a retrieval has taken place whether the disk is full or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from dicomnode.errors import CatalogError, StatusError
from dicomnode.integrity.record import Happening
from dicomnode.observe.custody_metrics import CustodyMetrics
from dicomnode.observe.logs import Logger

# Records in one transaction: whoever receives waits for no more.
BATCH: Final = 250
# What comes within this time becomes durable together, unless somebody waits for it.
_GATHER_SECONDS: Final = 0.2
_RETRY_SECONDS: Final = 5.0
_LONGEST_WAIT_SECONDS: Final = 10.0
# Some 50 MB, where nothing can be recorded for long.
_MAX_QUEUED: Final = 50_000


class Recorder:
    """One thread and what it has to record; ``append`` makes some durable (``index.custody``)."""

    def __init__(
        self,
        append: Callable[[Sequence[Happening]], None],
        log: Logger,
        metrics: CustodyMetrics,
    ) -> None:
        self._append = append
        self._log = log
        self._metrics = metrics
        self._lock = threading.Lock()
        self._queue: deque[Happening] = deque()
        # How many have been told and have left the queue, and who waits for how many.
        self._told = self._done = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._stopping = False
        self.failures = self.lost = 0
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="custody", daemon=True)

    @property
    def waiting(self) -> int:
        """How much has not been recorded yet."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to record."""
        self._thread.start()

    def stop(self) -> None:
        """Record what has been told, and end; blocks. What cannot be recorded is lost."""
        with self._lock:
            self._stopping = True
        self._hurry.set()
        self._wake.set()
        self._thread.join()
        if self._queue:
            self._lose(len(self._queue), "and the node stops")

    def tell(self, happening: Happening) -> None:
        """Have something recorded soon; callable from any thread, returns at once."""
        with self._lock:
            is_full = len(self._queue) >= _MAX_QUEUED
            if not is_full:
                self._queue.append(happening)
                self._told += 1
        if is_full:
            self._lose(1, f"and {_MAX_QUEUED} others wait")
        elif not self._wake.is_set():
            self._wake.set()

    async def settled(self) -> None:
        """Wait until all that has been told is durable, or an attempt to record it has failed.

        A disk that hangs is not waited for: that counts as a failure.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        with self._lock:
            if self._done >= self._told or self._stopping:
                return
            self._waiting.append((self._told, lambda: _call(loop, done)))
        self._hurry.set()
        try:
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                await future
        except TimeoutError:
            self.failed(TimeoutError(f"it takes longer than {_LONGEST_WAIT_SECONDS:g} s"))

    # -- in the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            if not self._is_failing:
                self._hurry.wait(_GATHER_SECONDS)
            self._hurry.clear()
            self._wake.clear()
            while self._queue and self._record():
                pass
            with self._lock:
                if self._stopping:
                    break
            if self._queue:
                self._hurry.wait(_RETRY_SECONDS)
                self._wake.set()
        self._release(everyone=True)

    def _record(self) -> bool:
        """Record some of what is queued; tell whether that could be done."""
        with self._lock:
            some = list(islice(self._queue, BATCH))
        try:
            self._append(some)
        except (CatalogError, StatusError) as error:
            self.failed(error)
            self._release(everyone=True)
            return False
        with self._lock:
            for _ in some:
                self._queue.popleft()
            self._done += len(some)
        if self._is_failing:
            self._is_failing = False
            self._log.info("the custody log can be written again")
        self._release()
        return True

    def _release(self, *, everyone: bool = False) -> None:
        with self._lock:
            due = [each for each in self._waiting if everyone or each[0] <= self._done]
            self._waiting = [each for each in self._waiting if each not in due]
        for _, done in due:
            done()

    def failed(self, error: Exception) -> None:
        """Count and log that something could not be recorded; it is tried again."""
        self.failures += 1
        self._metrics.failed()
        if not self._is_failing:
            self._is_failing = True
            self._log.error(
                f"the custody log cannot be written: {error}",
                advice="What happens is kept in memory and recorded once it can be; make room"
                " on the disk of the index, or mend it.",
            )

    def _lose(self, number: int, why: str) -> None:
        is_first = not self.lost
        self.lost += number
        self._metrics.lost(number)
        if is_first or number > 1:
            self._log.error(f"custody records are lost: the log cannot be written, {why}")


def _call(loop: asyncio.AbstractEventLoop, done: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(done)
