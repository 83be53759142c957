"""What somebody ordered to be deleted, and how far that has come.

The list of objects is kept packed. How far it has been worked through changes in the transaction
that removes the objects, so that none is dealt with twice: one that is stored anew after it was
deleted stays.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, insert, literal_column, select, update
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.records import deletion

# SOP Instance UID, and the beginning of the SHA-256 of its data set.
Marked = tuple[str, str]

_FAST: Final = 1
_D: Final = deletion.c
_ENTERED: Final = tuple(column.name for column in deletion.columns)
_SHOWN: Final = tuple(name for name in _ENTERED if name != "objects")
_ADVANCED: Final = ("position", "deleted", "deleted_bytes", "kept", "last_error")


@dataclass(frozen=True, slots=True)
class Order:
    """A row of ``records.deletion``, which says what each field means, without its objects."""

    id: int
    what: str
    reason: str
    asked_by: str
    asked_at: float
    ended_at: float
    total: int
    total_bytes: int
    position: int
    deleted: int
    deleted_bytes: int
    kept: int
    last_error: str


class Deletions:
    """All orders; everything blocks, and raises CatalogError."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        prepare = catalog.prepare
        of_id = _D.id == bindparam("of_id")
        self._last = prepare(select(func.max(_D.id)), [])
        self._insert = prepare(insert(deletion).values(new_values(_ENTERED)), new_names(_ENTERED))
        self._advance = prepare(
            update(deletion).values(new_values(_ADVANCED)).where(of_id),
            [*new_names(_ADVANCED), "of_id"],
        )
        ended = ("ended_at", "objects", "last_error")
        self._end = prepare(
            update(deletion).values(new_values(ended)).where(of_id), [*new_names(ended), "of_id"]
        )
        self._prune = prepare(
            delete(deletion).where(
                _D.ended_at > literal_column("0"), _D.ended_at < bindparam("before")
            ),
            ["before"],
        )

    def add(
        self, what: str, reason: str, asked_by: str, objects: Sequence[Marked], total_bytes: int
    ) -> int:
        """Enter an order; return its number once that is durable."""
        packed, now = _pack(objects), time.time()

        def apply(cursor: DBAPICursor) -> int:
            self._last.run(cursor)
            number: int = (cursor.fetchall()[0][0] or 0) + 1
            self._insert.run(
                *(cursor, number, what, reason, asked_by, now, 0.0, packed),
                *(len(objects), total_bytes, 0, 0, 0, 0, ""),
            )
            return number

        return self._catalog.transact(apply)

    def advance(self, cursor: DBAPICursor, order: Order) -> None:
        """Write down how far an order has come; part of somebody's transaction."""
        self._advance.run(
            *(cursor, order.position, order.deleted, order.deleted_bytes, order.kept),
            *(order.last_error, order.id),
        )

    def end(self, order: Order) -> None:
        """An order is through, or cannot go on; its objects are forgotten."""
        self._catalog.transact(
            lambda cursor: self._end.run(cursor, time.time(), b"", order.last_error, order.id)
        )

    def prune(self, before: float) -> None:
        """Forget orders that ended before a time."""
        self._catalog.transact(lambda cursor: self._prune.run(cursor, before))

    def unfinished(self) -> list[Order]:
        """Return the orders that are not through, the first first."""
        return self._orders(_shown().where(_D.ended_at == 0).order_by(_D.id))

    def latest(self, limit: int) -> list[Order]:
        """Return the orders, the last first."""
        return self._orders(_shown().order_by(_D.id.desc()).limit(limit))

    def get(self, number: int) -> Order | None:
        """Return an order."""
        return next(iter(self._orders(_shown().where(_D.id == number))), None)

    def objects(self, number: int) -> list[Marked]:
        """Return what an order is about; nothing once it is through."""
        with self._catalog.read() as connection:
            packed = connection.scalar(select(_D.objects).where(_D.id == number))
        return _unpack(packed) if packed else []

    def _orders(self, statement: Any) -> list[Order]:
        with self._catalog.read() as connection:
            return [Order(*row) for row in connection.execute(statement)]


def _shown() -> Any:
    return select(*(_D[name] for name in _SHOWN))


def _pack(objects: Sequence[Marked]) -> bytes:
    return zlib.compress("\n".join(" ".join(each) for each in objects).encode(), _FAST)


def _unpack(packed: bytes) -> list[Marked]:
    pairs = (line.partition(" ") for line in zlib.decompress(packed).decode().splitlines())
    return [(uid, digest) for uid, _, digest in pairs]
