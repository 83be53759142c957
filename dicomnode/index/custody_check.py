"""Reads the whole chain of custody again, and says where it is not what was written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.errors import CatalogError
from dicomnode.index.records import custody
from dicomnode.integrity.record import NOTHING_BEFORE, Fault, hash_of

Expected = tuple[int, str]
"""Sequence and hash (hex) that the chain had at some time."""

Progress = Callable[[int, int], None]
"""Is told how many records have been looked at, of how many."""

_ROWS_PER_STEP: Final = 2000
_c: Final = custody.c


class Check:
    """One look at the chain of custody.

    A changed, missing, added or moved record is a fault. So is each of ``expected`` that is not
    there: from the chain alone nobody can tell whether its end has been cut off, or all of it been
    written anew by somebody who computes hashes. Records that come meanwhile are not looked at.
    """

    def __init__(
        self,
        read: Callable[[], AbstractContextManager[Connection]],
        expected: Sequence[Expected] = (),
        progress: Progress | None = None,
    ) -> None:
        self._read = read
        self._expected: dict[int, list[str]] = {}
        for sequence, own in expected:
            # Every chain once had none.
            if sequence or own != NOTHING_BEFORE:
                self._expected.setdefault(sequence, []).append(own)
        self._progress = progress
        # Of the record looked at last; its hash is None where that could not be read.
        self._sequence = 0
        self._hash: str | None = NOTHING_BEFORE
        self._has_begun = False

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong, in the order of the chain; blocks. Raises CatalogError."""
        last, total = self._extent()
        done = 0
        while done < total:
            rows = self._rows(last)
            if isinstance(rows, Fault):
                yield rows
                if rows.sequence == self._sequence:
                    return
                self._sequence, self._hash, self._has_begun = rows.sequence, None, True
                done += 1
            else:
                if not rows:
                    break
                for row in rows:
                    yield from self._look(row)
                done += len(rows)
            if self._progress is not None:
                self._progress(done, total)
        for sequence in sorted(self._expected):
            yield Fault(sequence, f"expected, but the chain has no such record: it ends at {last}")
        yield from self._database()

    def _extent(self) -> tuple[int, int]:
        """Return the last sequence and how many records there are."""
        try:
            with self._read() as connection:
                row = connection.execute(select(func.max(_c.sequence), func.count())).one()
        except SQLAlchemyError as error:
            raise CatalogError(f"the custody log cannot be read: {error}") from error
        return row[0] or 0, row[1]

    def _rows(self, last: int) -> Sequence[Any] | Fault:
        """Return some rows behind the last one, or that the next one cannot be read."""
        for limit in (_ROWS_PER_STEP, 1):
            try:
                return self._read_rows(custody, limit, last)
            except (SQLAlchemyError, CatalogError) as error:
                failure = error
        try:
            unreadable = self._read_rows(_c.sequence, 1, last)
        except (SQLAlchemyError, CatalogError):
            unreadable = []
        if not unreadable:
            return Fault(self._sequence, f"nothing behind this record can be read: {failure}")
        return Fault(unreadable[0][0], f"it cannot be read: {failure}")

    def _read_rows(self, what: Any, limit: int, last: int) -> Sequence[Any]:
        statement = select(what).where(_c.sequence <= last).order_by(_c.sequence).limit(limit)
        if self._has_begun:
            statement = statement.where(_c.sequence > self._sequence)
        with self._read() as connection:
            return connection.execute(statement).all()

    def _look(self, row: Any) -> Iterator[Fault]:
        """Yield what is wrong with one record and its place."""
        sequence, at, event, study, instance, details, own = row
        content = at, event, study, instance, details
        self._has_begun = True
        if sequence <= self._sequence:
            yield Fault(sequence, "the numbers of records begin at 1 and count up")
        elif sequence > self._sequence + 1:
            gone = f"{self._sequence + 1} to {sequence - 1}"
            yield Fault(sequence, f"missing before it: {gone}")
            self._hash = None
        is_typed = all(isinstance(each, str) for each in content)
        if not is_typed or not isinstance(own, bytes | memoryview) or len(own) != 32:
            yield Fault(sequence, "a value is of another kind than was written")
            self._sequence, self._hash = sequence, None
            return
        told = bytes(own).hex()
        if self._hash is not None and hash_of(sequence, *content, self._hash) != bytes(own):
            yield Fault(sequence, "its content or the hash before it is not what its hash says")
        for expected in self._expected.pop(sequence, ()):
            if expected != told:
                yield Fault(sequence, f"expected with the hash {expected}, it has {told}")
        self._sequence, self._hash = sequence, told

    def _database(self) -> Iterator[Fault]:
        """Yield what SQLite finds wrong with the table and its index: it must not hide records."""
        try:
            with self._read() as connection:
                if connection.dialect.name != "sqlite":
                    return
                words = connection.scalars(text("PRAGMA integrity_check(custody)")).all()
        except SQLAlchemyError as error:
            words = [str(error)]
        if words != ["ok"]:
            yield Fault(self._sequence, f"the database is damaged: {'; '.join(words[:5])}")
