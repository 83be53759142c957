"""The objects that a retrieval is of, a batch at a time.

No transaction is open and no connection held between two batches: whoever is sent the objects
may be slow.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from dicomnode.index.catalog import Catalog
from dicomnode.index.entry import InstanceRow
from dicomnode.index.reading import Stop
from dicomnode.scu.proposals import Kind

_BATCH: Final = 256
# So few are kept once read, as a C-MOVE looks at all of them before it sends the first.
_KEPT: Final = 1024


@dataclass(slots=True)
class Selected:
    """The row ids of objects, and the rows themselves where they are few."""

    ids: array[int]
    rows: list[InstanceRow] | None = None
    kinds: tuple[Kind, ...] = ()

    def look(self, catalog: Catalog, stop: Stop) -> None:
        """Read which kinds of objects there are. Blocks; raises CatalogError, SearchStopped."""
        kinds: dict[Kind, None] = {}
        kept: list[InstanceRow] = []
        for batch in _batches(self.ids):
            stop.check()
            rows = catalog.instance_rows(batch)
            kinds.update(dict.fromkeys(map(kind_of, rows)))
            if len(self.ids) <= _KEPT:
                kept += rows
        self.kinds = tuple(kinds)
        self.rows = kept if len(self.ids) <= _KEPT else None


def kind_of(row: InstanceRow) -> Kind:
    """Return what decides over the presentation context of an object."""
    return row.sop_class_uid, row.transfer_syntax_uid


def _batches(ids: array[int]) -> Iterator[array[int]]:
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]


class Rows:
    """The selected objects one by one, those whose kind is among ``kinds``; None for all."""

    def __init__(
        self,
        selected: Selected,
        catalog: Catalog,
        threads: Executor,
        kinds: Container[Kind] | None = None,
    ) -> None:
        self._catalog = catalog
        self._threads = threads
        self._kinds = kinds
        self._batches = _batches(selected.ids) if selected.rows is None else iter(())
        self._ready = deque(self._wanted(selected.rows or []))

    def _wanted(self, rows: list[InstanceRow]) -> list[InstanceRow]:
        kinds = self._kinds
        return rows if kinds is None else [row for row in rows if kind_of(row) in kinds]

    async def next(self) -> InstanceRow | None:
        """Return the next object, None after the last. Raises CatalogError."""
        while not self._ready:
            batch = next(self._batches, None)
            if batch is None:
                return None
            loop = asyncio.get_running_loop()
            rows = await loop.run_in_executor(self._threads, self._catalog.instance_rows, batch)
            self._ready.extend(self._wanted(rows))
        return self._ready.popleft()
