"""How often passcodes are tried: a few at a time, and the slower the more of them are wrong."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

# Associations whose passcodes wait for their turn: of one address, and in all.
_MOST_WAITING_OF_ONE: Final = 4
_MOST_WAITING: Final = 32
# After a wrong passcode its address waits so long, then twice as long, up to the longest.
_FIRST_PAUSE_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 2.0
_MOST_ADDRESSES: Final = 4096
# A passcode that was right is known again for so long, without the work of comparing it.
_KNOWN_SECONDS: Final = 300.0
_MOST_KNOWN: Final = 1024


class TooManyAttempts(Exception):
    """Too many passcodes wait to be compared."""


@dataclass(slots=True)
class _Address:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    wrong: int = 0
    next_at: float = 0.0


class Attempts:
    """Compares passcodes in ``threads``; ``now`` is monotonic, in seconds.

    Of one address one is compared at a time, and after a wrong one the next has to wait. What was
    right is remembered as a digest with a key of this process, so that a device that makes an
    association for each image is not slowed down, whatever its neighbours try.
    """

    def __init__(self, threads: Executor, now: Callable[[], float]) -> None:
        self._threads = threads
        self._now = now
        self._waiting = 0
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()

    def forget(self) -> None:
        """Believe nothing that was right so far: the users have changed."""
        self._key = secrets.token_bytes(32)
        self._known.clear()

    async def is_right(self, address: str, claim: bytes, compare: Callable[[], bool]) -> bool:
        """Tell what ``compare`` says, run in a thread; ``claim`` is all that it depends on.

        Raises TooManyAttempts.
        """
        key = self._key
        digest = hashlib.blake2b(claim, key=key).digest()
        if self._known.get(digest, 0.0) > self._now():
            return True
        entry = self._entry(address)
        if entry.waiting >= _MOST_WAITING_OF_ONE or self._waiting >= _MOST_WAITING:
            raise TooManyAttempts
        entry.waiting += 1
        self._waiting += 1
        try:
            async with entry.turn:
                is_right = await self._compare(entry, compare)
        finally:
            entry.waiting -= 1
            self._waiting -= 1
        if is_right and key is self._key:
            self._remember(digest)
        return is_right

    async def _compare(self, entry: _Address, compare: Callable[[], bool]) -> bool:
        await asyncio.sleep(entry.next_at - self._now())
        is_right = False
        try:
            is_right = await asyncio.get_running_loop().run_in_executor(self._threads, compare)
        finally:
            # Whoever leaves before the answer has tried all the same.
            entry.wrong = 0 if is_right else entry.wrong + 1
            pause = _FIRST_PAUSE_SECONDS * 2 ** min(entry.wrong - 1, 8) if entry.wrong else 0.0
            entry.next_at = self._now() + min(pause, _LONGEST_PAUSE_SECONDS)
        return is_right

    def _entry(self, address: str) -> _Address:
        """Return what is known of an address; of too many, who tried longest ago is forgotten."""
        entry = self._addresses.pop(address, None) or _Address()
        self._addresses[address] = entry
        if len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        return entry

    def _remember(self, digest: bytes) -> None:
        self._known[digest] = self._now() + _KNOWN_SECONDS
        self._known.move_to_end(digest)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
