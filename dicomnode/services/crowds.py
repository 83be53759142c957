"""How often one address is told of: whoever knocks thousands of times must not fill the disk."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from dicomnode.observe.logs import Logger
from dicomnode.observe.words import counted

_MOST: Final = 60
_SECONDS: Final = 60.0
_MOST_ADDRESSES: Final = 1024


class Crowds:
    """Lets the first of each address pass within a minute, and counts the rest.

    ``now`` is monotonic, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # Oldest first: when its minute began, and how many there were.
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._over: list[tuple[str, int]] = []

    def passes(self, address: str) -> bool:
        """Count one of ``address``; tell whether it is one of the first."""
        self._end_minutes()
        since, count = self._counts.get(address, (self._now(), 0))
        self._counts[address] = since, count + 1
        if len(self._counts) > _MOST_ADDRESSES:
            self._end(next(iter(self._counts)))
        return count < _MOST

    def passed_over(self) -> list[tuple[str, int]]:
        """Return how many of which address did not pass in a minute that is over; each once."""
        self._end_minutes()
        over, self._over = self._over, []
        return over

    def _end_minutes(self) -> None:
        latest = self._now() - _SECONDS
        while self._counts and self._counts[first := next(iter(self._counts))][0] <= latest:
            self._end(first)

    def _end(self, address: str) -> None:
        count = self._counts.pop(address)[1]
        if count > _MOST:
            self._over.append((address, count - _MOST))


class RefusalLog:
    """Logs who was refused: 60 lines of each address within a minute, and then how many more."""

    def __init__(self, log: Logger, crowds: Crowds | None = None) -> None:
        self._log = log
        self._crowds = crowds or Crowds()

    def warn(self, address: str, line: str, **fields: object) -> None:
        """Say ``line`` of ``address``, unless it has been told of too often."""
        for other, count in self._crowds.passed_over():
            more = counted(count, "more refusal", "more refusals")
            self._log.warning(f"{more} of {other} within a minute not told one by one")
        if self._crowds.passes(address):
            self._log.warning(line, **fields)
