"""A sink for the small data sets that are read as a whole: identifiers of queries and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicomnode.dimse.channel import Lease


class Budget:
    """What data sets of many associations may take together; ``left`` bytes are to be had."""

    __slots__ = ("left",)

    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes

    def take(self, size: int) -> bool:
        """Take ``size`` bytes, if there are as many."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def give_back(self, size: int) -> None:
        """Let others have ``size`` bytes that were taken."""
        self.left += size


class IdentifierSink:
    """Collects a data set of at most ``max_identifier_bytes``; a ``channel.DataSetSink``.

    Once the message is whole, ``on_complete`` is called with a copy of its data set. One that is
    too large is dropped as soon as that shows: ``on_overflow`` is called once, the rest is let
    pass and ``on_complete`` is not called. When the association ends first, neither is called
    from then on, but ``on_abandon`` with the reason.

    With a ``budget`` one that there is no room for is too large as well. What ``on_complete`` is
    given has been taken from it; whoever gets it gives that back.
    """

    __slots__ = (
        "_budget",
        "_collected",
        "_max_identifier_bytes",
        "_on_abandon",
        "_on_complete",
        "_on_overflow",
    )

    def __init__(
        self,
        max_identifier_bytes: int,
        on_complete: Callable[[bytes], None],
        on_overflow: Callable[[], None],
        on_abandon: Callable[[str], None] | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._budget = budget if budget is not None else Budget(max_identifier_bytes)
        self._max_identifier_bytes = max_identifier_bytes
        self._on_complete = on_complete
        self._on_overflow = on_overflow
        self._on_abandon = on_abandon
        self._collected: bytearray | None = bytearray()

    def write(self, fragment: memoryview, lease: Lease) -> None:
        """Copy ``fragment``, unless the data set is too large; ``lease`` is not retained."""
        if self._collected is None:
            return
        fits = len(self._collected) + len(fragment) <= self._max_identifier_bytes
        if fits and self._budget.take(len(fragment)):
            self._collected += fragment
            return
        self._drop()
        self._on_overflow()

    def finish(self) -> None:
        """Hand the data set over, if it was not too large."""
        if self._collected is not None:
            collected, self._collected = self._collected, None
            self._on_complete(bytes(collected))

    def abandon(self, why: str) -> None:
        """Drop what was collected."""
        self._drop()
        if self._on_abandon is not None:
            self._on_abandon(why)

    def _drop(self) -> None:
        collected, self._collected = self._collected, None
        self._budget.give_back(len(collected or b""))
