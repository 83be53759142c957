"""Threads for blocking work of the receive path.

A thinner thing than concurrent.futures: no future is made, because each job reports by itself,
and a job costs one queue operation and a lock that is held for a moment.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

Job = Callable[[], None]

# Jobs of one group at most: the first of them waits for the last.
_GROUP = 64


class _Jobs:
    """Jobs that wait: those of each AE in the order given, the AEs in turns.

    One that has hundreds of objects under way does not hold up another's only one.
    """

    def __init__(self) -> None:
        # True for each job; None ends a thread.
        self._tokens: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # By AE those that have jobs waiting; whose turn is next stands first.
        self._waiting: dict[str, deque[Job]] = {}
        self._turns: deque[str] = deque()

    def put(self, job: Job, ae_title: str) -> None:
        """Have ``job`` taken when ``ae_title`` has its turn; callable from any thread."""
        with self._lock:
            jobs = self._waiting.get(ae_title)
            if jobs is None:
                jobs = self._waiting[ae_title] = deque()
                self._turns.append(ae_title)
            jobs.append(job)
        self._tokens.put(True)

    def end(self) -> None:
        """Have one thread end, after all that is queued."""
        self._tokens.put(None)

    def take(self, *, block: bool = True) -> Job | None:
        """Return whose turn it is, or None where the thread is to end.

        Raises queue.Empty where nothing waits and ``block`` is false.
        """
        if self._tokens.get(block) is None:
            return None
        with self._lock:
            ae_title = self._turns.popleft()
            jobs = self._waiting[ae_title]
            job = jobs.popleft()
            if jobs:
                self._turns.append(ae_title)
            else:
                del self._waiting[ae_title]
        return job


class Workers:
    """A fixed number of threads that run jobs of each AE in the order given, the AEs in turns."""

    def __init__(self, count: int, on_fault: Callable[[BaseException], None]) -> None:
        self._jobs = _Jobs()
        self._on_fault = on_fault
        self._threads = [
            threading.Thread(target=self._work, name=f"dicomnode-worker-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def run(self, job: Job, ae_title: str = "") -> None:
        """Run ``job`` in some worker when ``ae_title`` has its turn; callable from any thread."""
        self._jobs.put(job, ae_title)

    def stop(self) -> None:
        """Run what is queued, then end the threads; blocks."""
        for _ in self._threads:
            self._jobs.end()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.take()) is not None:
            try:
                job()
            except BaseException as error:
                # A job that raises has a fault; the thread must outlive it.
                self._on_fault(error)


class GroupWorker:
    """One thread that takes whatever jobs wait, and runs them together within ``together``.

    AEs take turns here too: with fewer of them than a group has places, a job waits for the group
    that runs and for its own, however many another AE has queued.
    """

    def __init__(
        self,
        together: Callable[[], AbstractContextManager[None]],
        on_fault: Callable[[BaseException], None],
    ) -> None:
        self._jobs = _Jobs()
        self._together = together
        self._on_fault = on_fault
        self._thread = threading.Thread(
            target=self._work, name="dicomnode-worker-group", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def run(self, job: Job, ae_title: str = "") -> None:
        """Run ``job`` with the next group that has room for ``ae_title``; from any thread."""
        self._jobs.put(job, ae_title)

    def stop(self) -> None:
        """Run what is queued, then end the thread; blocks."""
        self._jobs.end()
        self._thread.join()

    def _work(self) -> None:
        is_last = False
        while not is_last and (job := self._jobs.take()) is not None:
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
                following = self._jobs.take(block=False)
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
