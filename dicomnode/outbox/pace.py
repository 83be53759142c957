"""Forwarding gives way to receiving: the processor is shared, and modalities cannot wait."""

from __future__ import annotations

import asyncio
import time
from typing import Final

# Objects are being received when one came in this time.
_BUSY_SECONDS: Final = 0.25
# For each second of sending so many are left to whoever receives: a quarter goes to sending.
_LEFT_TO_OTHERS: Final = 3.0
# What sending an object takes at most of the processor; a slow destination takes time, not that.
_SECONDS_PER_OBJECT: Final = 0.002
_BYTES_PER_SECOND: Final = 100e6


class Places:
    """So many destinations are sent to at once; whoever waits gets the next place."""

    def __init__(self, count: int) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._waiting = 0

    async def __aenter__(self) -> None:
        self._waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *raised: object) -> None:
        self._semaphore.release()

    @property
    def are_taken(self) -> bool:
        """Whether there is no place left."""
        return self._semaphore.locked()

    @property
    def are_wanted(self) -> bool:
        """Whether a destination waits for a place."""
        return self._waiting > 0


class Pace:
    """Shared by all destinations; ``received`` is called from any thread."""

    def __init__(self) -> None:
        self._received_at = 0.0
        self._next_at = 0.0

    def received(self) -> None:
        """An object has been received."""
        self._received_at = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether objects are being received."""
        return time.monotonic() < self._received_at + _BUSY_SECONDS

    async def turn(self) -> None:
        """Wait until another object may be sent: at once while nothing is received."""
        while self.is_busy:
            left = self._next_at - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _BUSY_SECONDS))

    def sent(self, seconds: float, size_bytes: int) -> None:
        """An object of so many bytes has been sent within ``seconds``."""
        spent = min(seconds, _SECONDS_PER_OBJECT + size_bytes / _BYTES_PER_SECOND)
        self._next_at = max(self._next_at, time.monotonic()) + _LEFT_TO_OTHERS * spent
