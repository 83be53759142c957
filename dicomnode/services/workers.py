"""Threads for blocking work of the receive path.

A thinner thing than concurrent.futures: no future is made, because each job reports by itself,
and a job costs one queue operation.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

Job = Callable[[], None]

# Jobs of one group at most: the first of them waits for the last.
_GROUP = 64


class Workers:
    """A fixed number of threads that run jobs in the order given."""

    def __init__(self, count: int, on_fault: Callable[[BaseException], None]) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._on_fault = on_fault
        self._threads = [
            threading.Thread(target=self._work, name=f"dicomnode-worker-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def run(self, job: Job) -> None:
        """Run ``job`` in some worker; callable from any thread."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Run what is queued, then end the threads; blocks."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException as error:
                # A job that raises has a fault; the thread must outlive it.
                self._on_fault(error)


class GroupWorker:
    """One thread that takes whatever jobs wait, and runs them together within ``together``."""

    def __init__(
        self,
        together: Callable[[], AbstractContextManager[None]],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._together = together
        self._on_fault = on_fault
        self._thread = threading.Thread(
            target=self._work, name="dicomnode-worker-group", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def run(self, job: Job) -> None:
        """Run ``job`` with the next group; callable from any thread."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Run what is queued, then end the thread; blocks."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        is_last = False
        while not is_last and (job := self._jobs.get()) is not None:
            try:
                with self._together():
                    is_last = self._run_group(job)
            except BaseException as error:
                # The group's end has a fault.
                self._on_fault(error)

    def _run_group(self, job: Job) -> bool:
        """Run ``job`` and what waits behind it; tell whether there will be no more."""
        self._run(job)
        for _ in range(_GROUP - 1):
            try:
                following = self._jobs.get_nowait()
            except queue.Empty:
                return False
            if following is None:
                return True
            self._run(following)
        return False

    def _run(self, job: Job) -> None:
        try:
            job()
        except BaseException as error:
            # As in Workers: the thread must outlive it.
            self._on_fault(error)
