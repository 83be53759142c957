"""A sink for the small data sets that are read as a whole: identifiers of queries and the like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicomnode.dimse.channel import Lease


class IdentifierSink:
    """Collects a data set of at most ``max_identifier_bytes``; a ``channel.DataSetSink``.

    Once the message is whole, ``on_complete`` is called with a copy of its data set. One that is
    too large is dropped as soon as that shows: ``on_overflow`` is called once, the rest is let
    pass and ``on_complete`` is not called. When the association ends first, neither is called
    from then on, but ``on_abandon`` with the reason.
    """

    __slots__ = (
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
    ) -> None:
        self._max_identifier_bytes = max_identifier_bytes
        self._on_complete = on_complete
        self._on_overflow = on_overflow
        self._on_abandon = on_abandon
        self._collected: bytearray | None = bytearray()

    def write(self, fragment: memoryview, lease: Lease) -> None:
        """Copy ``fragment``, unless the data set is too large; ``lease`` is not retained."""
        if self._collected is None:
            return
        if len(self._collected) + len(fragment) > self._max_identifier_bytes:
            self._collected = None
            self._on_overflow()
            return
        self._collected += fragment

    def finish(self) -> None:
        """Hand the data set over, if it was not too large."""
        if self._collected is not None:
            collected, self._collected = self._collected, None
            self._on_complete(bytes(collected))

    def abandon(self, why: str) -> None:
        """Drop what was collected."""
        self._collected = None
        if self._on_abandon is not None:
            self._on_abandon(why)
