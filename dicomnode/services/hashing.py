"""Hashing beside writing: a second worker for objects that arrive in many lots."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from dicomnode.dimse.channel import Lease
from dicomnode.services.workers import Workers


class HashLane:
    """Hashes lots in the order in which they are added, in one worker at a time.

    ``add`` and ``then`` are called by the worker that writes the same lots.
    """

    def __init__(self, workers: Workers, update: Callable[[list[memoryview]], None]) -> None:
        self._workers = workers
        self._update = update
        self._lock = threading.Lock()
        self._lots: deque[tuple[list[memoryview], list[Lease]]] = deque()
        self._running = False
        self._then: Callable[[], None] | None = None

    def add(self, fragments: list[memoryview], leases: list[Lease]) -> None:
        """Hash a lot soon; its buffers are kept until then."""
        for lease in leases:
            lease.retain()
        with self._lock:
            self._lots.append((list(fragments), list(leases)))
            start = not self._running
            self._running = True
        if start:
            self._workers.run(self._hash_lots)

    def then(self, job: Callable[[], None]) -> None:
        """Run ``job`` when everything added has been hashed: at once, or in the hashing worker."""
        with self._lock:
            if self._running:
                self._then = job
                return
        job()

    def _hash_lots(self) -> None:
        while True:
            with self._lock:
                if not self._lots:
                    self._running = False
                    job, self._then = self._then, None
                    break
                fragments, leases = self._lots.popleft()
            self._update(fragments)
            # The views must be gone before their buffers are filled again.
            fragments.clear()
            for lease in leases:
                lease.release()
        if job is not None:
            job()
