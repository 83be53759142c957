"""Threads for blocking work of the receive path.

A thinner thing than concurrent.futures: no future is made, because each job reports by itself,
and a job costs one queue operation and a lock that is held for a moment.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable

Job = Callable[[], None]


class Workers:
    """A fixed number of threads that run jobs of each AE in the order given.

    AEs take turns: one that has hundreds of objects under way does not hold up another's only one.
    """

    def __init__(self, count: int, on_fault: Callable[[BaseException], None]) -> None:
        # True for each job; None ends a thread.
        self._tokens: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # By AE those that have jobs waiting; whose turn is next stands first.
        self._waiting: dict[str, deque[Job]] = {}
        self._turns: deque[str] = deque()
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
        with self._lock:
            jobs = self._waiting.get(ae_title)
            if jobs is None:
                jobs = self._waiting[ae_title] = deque()
                self._turns.append(ae_title)
            jobs.append(job)
        self._tokens.put(True)

    def stop(self) -> None:
        """Run what is queued, then end the threads; blocks."""
        for _ in self._threads:
            self._tokens.put(None)
        for thread in self._threads:
            thread.join()

    def _next(self) -> Job:
        with self._lock:
            ae_title = self._turns.popleft()
            jobs = self._waiting[ae_title]
            job = jobs.popleft()
            if jobs:
                self._turns.append(ae_title)
            else:
                del self._waiting[ae_title]
        return job

    def _work(self) -> None:
        while self._tokens.get():
            try:
                self._next()()
            except BaseException as error:
                # A job that raises has a fault; the thread must outlive it.
                self._on_fault(error)
