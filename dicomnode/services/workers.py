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
from typing import TypeAlias

Job = Callable[[], None]

# Jobs of one group at most: the first of them waits for the last.
_GROUP = 64

# Where an idle thread waits for a job of its own; None ends it.
_Desk: TypeAlias = "queue.SimpleQueue[Job | None]"


class _Jobs:
    """Jobs that wait: those of each AE in the order given, the AEs in turns.

    One that has hundreds of objects under way does not hold up another's only one. A job wakes
    one thread, the one that has been idle for the shortest time: threads that share one queue
    wake each other for nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By AE those that have jobs waiting; whose turn is next stands first.
        self._waiting: dict[str, deque[Job]] = {}
        self._turns: deque[str] = deque()
        self._idle: list[_Desk] = []
        self._ended = False

    def put(self, job: Job, ae_title: str) -> None:
        """Have ``job`` taken when ``ae_title`` has its turn; callable from any thread."""
        with self._lock:
            if not self._idle:
                jobs = self._waiting.get(ae_title)
                if jobs is None:
                    jobs = self._waiting[ae_title] = deque()
                    self._turns.append(ae_title)
                jobs.append(job)
                return
            desk = self._idle.pop()
        desk.put(job)

    def end(self) -> None:
        """Have all threads end, after all that is queued."""
        with self._lock:
            self._ended = True
            idle, self._idle = self._idle, []
        for desk in idle:
            desk.put(None)

    def take(self, desk: _Desk) -> Job | None:
        """Return whose turn it is, or None where the thread at ``desk`` is to end; blocks."""
        with self._lock:
            if self._turns:
                return self._next()
            if self._ended:
                return None
            self._idle.append(desk)
        return desk.get()

    def take_waiting(self) -> Job | None:
        """Return whose turn it is, or None where nothing waits."""
        with self._lock:
            return self._next() if self._turns else None

    def _next(self) -> Job:
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
        self._jobs.end()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        desk: _Desk = queue.SimpleQueue()
        while (job := self._jobs.take(desk)) is not None:
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
        desk: _Desk = queue.SimpleQueue()
        while (job := self._jobs.take(desk)) is not None:
            try:
                with self._together():
                    self._run_group(job)
            except BaseException as error:
                # The group's end has a fault.
                self._on_fault(error)

    def _run_group(self, job: Job) -> None:
        """Run ``job`` and what waits behind it."""
        self._run(job)
        for _ in range(_GROUP - 1):
            following = self._jobs.take_waiting()
            if following is None:
                return
            self._run(following)

    def _run(self, job: Job) -> None:
        try:
            job()
        except BaseException as error:
            # As in Workers: the thread must outlive it.
            self._on_fault(error)
