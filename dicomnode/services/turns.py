"""Turns: of one SOP Instance UID, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """Who has the turn of a UID may place, replace and take back files and rows of that UID."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # UIDs whose turn is taken, each with those who wait for it.
        self._taken: dict[str, list[Callable[[], None]]] = {}

    def take(self, uid: str, wake: Callable[[], None]) -> bool:
        """Take the turn; False when another has it: ``wake`` is called once it is the caller's."""
        with self._lock:
            waiting = self._taken.get(uid)
            if waiting is not None:
                waiting.append(wake)
                return False
            self._taken[uid] = []
            return True

    def give_up(self, uid: str) -> None:
        """Give the turn to who has waited longest."""
        with self._lock:
            waiting = self._taken[uid]
            if not waiting:
                del self._taken[uid]
                return
            wake = waiting.pop(0)
        wake()

    @contextmanager
    def alone(self, uid: str) -> Iterator[None]:
        """Have the turn while the block runs; blocks until it is free."""
        free = threading.Event()
        if not self.take(uid, free.set):
            free.wait()
        try:
            yield
        finally:
            self.give_up(uid)
