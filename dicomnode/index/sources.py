"""How many bytes each of some AEs has sent of what is held; changed in the writer's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy import func, select

from dicomnode.index.schema import instance

SUMS: Final = select(instance.c.source_ae, func.sum(instance.c.size_bytes)).group_by(
    instance.c.source_ae
)
"""How many bytes are held of each spelling of a title."""


class SourceBytes:
    """Follows the bytes held of those AEs that somebody asked for.

    Everything but ``held`` runs in the writer's thread. As the transaction is committed or rolled
    back, ``settled`` or ``forget`` has to be called. Titles are folded by ``folded``.
    """

    def __init__(self) -> None:
        self.folded: Callable[[str], str] = str.casefold
        self._held: dict[str, int] = {}
        # Of the open transaction, of all AEs: whom to follow may be asked in the midst of it.
        self._changed: dict[str, int] = {}

    def held(self, title: str) -> int | None:
        """Return how many bytes are held, as of the last commit; None of whom nobody follows."""
        return self._held.get(self.folded(title))

    def follow(self, sums: Iterable[tuple[str, int]], titles: Iterable[str]) -> None:
        """Follow ``titles``; ``sums`` is what the open transaction sees of each spelling."""
        fresh = {self.folded(title) for title in titles} - self._held.keys()
        counted = dict.fromkeys(fresh, 0)
        for spelling, size in sums:
            if (title := self.folded(spelling.strip(" "))) in counted:
                counted[title] += size
        for title, size in counted.items():
            # What the transaction itself has changed is added when it is committed.
            self._held[title] = size - self._changed.get(title, 0)

    def change(self, source_ae: str, size_bytes: int) -> None:
        """Count an object of ``source_ae`` in, or out with a negative size."""
        title = self.folded(source_ae.strip(" "))
        self._changed[title] = self._changed.get(title, 0) + size_bytes

    def truncate(self) -> None:
        """Count everything out."""
        self._changed = {title: -size for title, size in self._held.items()}

    def settled(self) -> None:
        """The transaction has been committed."""
        for title, size in self._changed.items():
            if title in self._held:
                self._held[title] += size
        self._changed.clear()

    def forget(self) -> None:
        """The transaction has been rolled back."""
        self._changed.clear()
