"""The index of the archive: what objects there are and what they are of.

Files are the truth: the index can be rebuilt from them at any time, and a database of another
schema version is. Writes go through one thread (``writer``), which commits everything that is
queued at once; readers have connections of their own and may be in any thread.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, select
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.sql import ClauseElement

from dicomnode.errors import CatalogError
from dicomnode.index import intake, schema
from dicomnode.index.attachment import Attachment, ObjectAttachment
from dicomnode.index.backend import Backend, Prepared, Synchronous
from dicomnode.index.conditions import Condition
from dicomnode.index.counting import count
from dicomnode.index.entry import (
    Added,
    AddOutcome,
    AlreadyHeld,
    Counts,
    IdentityConflict,
    InstanceEntry,
    InstanceRow,
)
from dicomnode.index.intake import Restore, Unsettled
from dicomnode.index.keys import Level
from dicomnode.index.opening import FILLED, UNFILLED, make_tables
from dicomnode.index.reading import SearchStopped, Stop
from dicomnode.index.registrar import Registrar
from dicomnode.index.search import Row, Search, Wanted
from dicomnode.index.selection import Selection
from dicomnode.index.series_paths import series_paths
from dicomnode.index.sources import SUMS, SourceBytes
from dicomnode.index.statements import ROW
from dicomnode.index.writer import Operation, Writer

__all__ = [
    "AddOutcome",
    "Added",
    "AlreadyHeld",
    "Attachment",
    "Catalog",
    "Counts",
    "IdentityConflict",
    "InstanceEntry",
    "InstanceRow",
    "ObjectAttachment",
    "SearchStopped",
    "Stop",
    "Unsettled",
    "Wanted",
]

_SETTLED_AT_ONCE = 256

_T = TypeVar("_T")


class Catalog:
    """The index; ``synchronous`` "FULL" makes every commit survive power loss.

    Raises CatalogError for a URL of no database that can be used here.

    ``rebuilt_from`` is set by ``open`` when it found tables of another schema version and
    replaced them by empty ones: the files then have to be entered again (``recovery``).
    ``is_new`` tells that there were no tables of this version before, or that the files have not
    all been entered since these were made or emptied (``filled``). ``restored`` counts the
    files that were only in the index; ``unrestored`` says why those that still are could not be
    written.
    """

    def __init__(self, url: str | URL, *, synchronous: Synchronous = "FULL") -> None:
        try:
            self._backend = Backend(url, synchronous)
        except (ImportError, ArgumentError) as error:
            raise CatalogError(f"index.url cannot be used: {error}") from None
        self._writer: Writer | None = None
        self._selection = Selection(self._backend)
        self._search = Search(self._backend)
        self._synchronous = synchronous
        self.rebuilt_from: str | None = None
        self.is_new = False
        self.restored = 0
        self.unrestored = ""

    # -- opening -----------------------------------------------------------------------------------

    def open(self, restore: Restore | None = None) -> None:
        """Open the database, making its tables where there are none. Raises CatalogError.

        ``restore`` is given the objects whose files may have been lost with the power.
        """
        try:
            made = make_tables(self._backend, restore)
            with self._backend.reader.connect() as connection:
                counts = count(connection)
            registrar = Registrar(self._backend)
            self._writer = Writer(self._backend, registrar, counts)
        except (SQLAlchemyError, self._backend.driver_error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise CatalogError(
                f"cannot open the index {self._backend.name}: {cause}. If it is damaged, remove "
                "it and run `dicomnode reindex`: the stored files have all but worklist, performed "
                "steps, commitments, custody, and small objects of the last seconds before a power "
                "loss"
            ) from error
        self._registrar = registrar
        self.rebuilt_from, self.is_new = made.rebuilt_from, made.is_new
        self.restored, self.unrestored = made.restored, made.unrestored

    def close(self) -> None:
        """Commit what is queued, then close; may be called again."""
        if self._writer is not None:
            self._writer.close()
        self._backend.dispose()

    def __enter__(self) -> Catalog:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- writing -----------------------------------------------------------------------------------

    def add(
        self,
        entry: InstanceEntry,
        done: Callable[[AddOutcome | BaseException], None],
        contents: bytes | None = None,
        also: Attachment | None = None,
    ) -> None:
        """Enter an object; callable from any thread that may wait for the disk.

        ``done`` is called on the writer's thread when the outcome is durable, or with a
        CatalogError when nothing has changed. ``contents`` is the object's whole file where
        that has not been flushed: it is kept here, as durable as the row, until ``settle``.
        With an object that is Added, and only then, the changes of ``also`` are made, in the
        same transaction.
        """
        self._enter(lambda cursor: self._registrar.add(cursor, entry, contents), done, also)

    def grouped(self) -> AbstractContextManager[None]:
        """Let what this thread enters in the block wait for its end, for one transaction."""
        return self._opened().grouped()

    def replace(
        self,
        entry: InstanceEntry,
        done: Callable[[AddOutcome | BaseException], None],
        also: Attachment | None = None,
    ) -> None:
        """Enter an object in the place of the one with its SOP Instance UID; else as ``add``."""
        self._enter(lambda cursor: self._registrar.replace(cursor, entry), done, also)

    def _enter(
        self,
        enter: Callable[[DBAPICursor], AddOutcome],
        done: Callable[[AddOutcome | BaseException], None],
        also: Attachment | None,
    ) -> None:
        if also is None:
            self._submit(Operation(enter, done))
            return

        def apply(cursor: DBAPICursor) -> AddOutcome:
            outcome = enter(cursor)
            if isinstance(outcome, Added):
                also.apply(cursor)
            return outcome

        def tell(outcome: AddOutcome | BaseException) -> None:
            if isinstance(outcome, Added):
                also.committed()
            done(outcome)

        self._submit(Operation(apply, tell))

    def remove(
        self,
        sop_instance_uid: str,
        done: Callable[[InstanceRow | BaseException | None], None],
        also: ObjectAttachment | None = None,
    ) -> None:
        """Remove an object's row; ``done`` gets what it was, None when there was none.

        The changes that ``also`` made with the row are undone in the same transaction.
        """

        def apply(cursor: DBAPICursor) -> InstanceRow | None:
            if also is not None:
                also.undo(cursor)
            return self._registrar.remove(cursor, sop_instance_uid)

        self._submit(Operation(apply, done))

    def settle(self, last: int) -> None:
        """Forget the contents of objects up to the id ``last``; their files are durable.

        Returns when that is committed. Raises CatalogError.
        """
        # In steps, as whoever adds an object meanwhile waits for the end of one.
        while (first := self._first_unsettled()) is not None and first <= last:
            end = min(last, first + _SETTLED_AT_ONCE - 1)
            self.transact(partial(self._registrar.settle, first=first, last=end))

    def _first_unsettled(self) -> int | None:
        with self.read() as connection:
            return intake.first_unsettled(connection)

    def remove_if(
        self,
        sop_instance_uids: Sequence[str],
        chosen: Callable[[DBAPICursor, Sequence[InstanceRow]], Iterable[str]],
        also: Callable[[DBAPICursor, Sequence[InstanceRow]], None],
    ) -> list[InstanceRow]:
        """Remove the rows that ``chosen`` picks of those held, and make the changes of ``also``.

        All in one transaction; returns what went once that is durable. Blocks; raises CatalogError.
        """
        registrar = self._registrar

        def apply(cursor: DBAPICursor) -> list[InstanceRow]:
            held = [row for uid in sop_instance_uids if (row := registrar.row(cursor, uid))]
            picked = set(chosen(cursor, held))
            gone = [row for row in held if row.sop_instance_uid in picked]
            for row in gone:
                registrar.remove(cursor, row.sop_instance_uid)
            also(cursor, gone)
            return gone

        return self.transact(apply)

    def follow_sources(self, titles: Iterable[str], folded: Callable[[str], str]) -> None:
        """Keep count from now on of the bytes held of what ``titles`` sent, see ``held``.

        Titles compare as ``folded`` leaves them. Takes as long as reading all objects' rows where
        there is a new one; nothing is written meanwhile. Blocks; raises CatalogError.
        """
        sources = self._sources()
        sources.folded = folded
        wanted = [title for title in titles if sources.held(title) is None]
        if not wanted:
            return
        question = self.prepare(SUMS, ())

        def follow(cursor: DBAPICursor) -> None:
            question.run(cursor)
            sources.follow(((row[0], int(row[1])) for row in cursor.fetchall()), wanted)

        self.transact(follow)

    def held(self, title: str) -> int | None:
        """Return the bytes held of what ``title`` sent; None where nobody has asked to follow."""
        return self._sources().held(title)

    def _sources(self) -> SourceBytes:
        self._opened()
        return self._registrar.sources

    def truncate(self) -> None:
        """Remove all rows; returns when that is durable. Raises CatalogError."""
        writer = self._opened()
        filled, unfilled = self.prepare(FILLED, ()), self.prepare(UNFILLED, ())

        def apply(cursor: DBAPICursor) -> None:
            self._registrar.truncate(cursor, writer.counts)
            filled.run(cursor)
            unfilled.run(cursor)

        self.transact(apply)

    def filled(self) -> None:
        """Note that all files have been entered, for the next ``open``. Raises CatalogError."""
        self.transact(self.prepare(FILLED, ()).run)

    def transact(self, apply: Callable[[DBAPICursor], _T]) -> _T:
        """Have ``apply`` change what it wants in one transaction; return once that is durable.

        Blocks: not for the event loop. Others may be committed together with it. What it raises
        leaves the index as it was, and leaves as CatalogError unless it is a StatusError.
        """
        finished = threading.Event()
        outcomes: list[Any] = []

        def done(outcome: Any) -> None:
            outcomes.append(outcome)
            finished.set()

        self._submit(Operation(apply, done))
        finished.wait()
        if isinstance(outcomes[0], BaseException):
            raise outcomes[0]
        outcome: _T = outcomes[0]
        return outcome

    def prepare(self, statement: ClauseElement, names: Sequence[str]) -> Prepared:
        """Compile a statement for ``transact``; ``names`` orders its parameters."""
        return Prepared(statement, self._backend.writer, names)

    def _submit(self, operation: Operation) -> None:
        self._opened().submit(operation)

    def _opened(self) -> Writer:
        if self._writer is None:
            raise CatalogError("the index has not been opened")
        return self._writer

    # -- reading -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Ask the database something that costs nothing. Raises CatalogError."""
        with self.read() as connection:
            connection.scalar(select(schema.meta.c.value))

    def counts(self) -> Counts:
        """Return how much is held, as of the last commit; takes no query."""
        return self._opened().counts

    @property
    def keeper(self) -> str:
        """The file in which ``contents`` would be durable; "" where they are not to be kept."""
        durable = self._backend.is_sqlite and self._synchronous == "FULL"
        return (self._backend.url.database or "") if durable else ""

    @property
    def byte_collation(self) -> str:
        """The collation in byte order, in which directories are walked."""
        return self._backend.byte_collation

    def unsettled(self) -> Iterator[Unsettled]:
        """Yield the objects whose contents are kept, oldest first. Raises CatalogError."""
        try:
            yield from intake.unsettled(self._backend.reader)
        except SQLAlchemyError as error:
            raise CatalogError(f"index failed: {error}") from error

    def last_unsettled(self) -> int | None:
        """Return the id of the latest object whose contents are kept. Raises CatalogError."""
        with self.read() as connection:
            return intake.last_unsettled(connection)

    def is_unsettled(self, instance_id: int) -> bool:
        """Tell whether the contents of an object are kept. Raises CatalogError."""
        statement = select(schema.intake.c.id).where(schema.intake.c.id == instance_id)
        with self.read() as connection:
            return connection.scalar(statement) is not None

    def get(self, sop_instance_uid: str) -> InstanceRow | None:
        """Return what the index holds of an object. Raises CatalogError."""
        statement = ROW.where(schema.instance.c.sop_instance_uid == sop_instance_uid)
        with self.read() as connection:
            row = connection.execute(statement).first()
        return InstanceRow(*row) if row is not None else None

    def find(
        self, level: Level, conditions: Sequence[Condition], limit: int, stop: Stop
    ) -> array[int]:
        """Return the row ids of what satisfies all conditions at ``level``, ``limit`` at most.

        Raises CatalogError, SearchStopped.
        """
        return self._search.find(level, conditions, limit, stop)

    def fetch(self, wanted: Wanted, ids: Sequence[int], stop: Stop) -> list[Row]:
        """Return the values of ``wanted`` for each of ``ids``; what is gone is left out.

        Raises CatalogError, SearchStopped.
        """
        return self._search.fetch(wanted, ids, stop)

    def select_instances(
        self, unique_keys: Mapping[str, Sequence[str]], stop: Stop | None = None
    ) -> array[int]:
        """Return the row ids of the objects that have, of each unique key, one of the values.

        Ordered by study, series and Instance Number. Raises CatalogError, SearchStopped.
        """
        return self._selection.select_instances(unique_keys, stop)

    def instance_rows(self, ids: Sequence[int]) -> list[InstanceRow]:
        """Return the rows of ``ids`` in that order; those that are gone are left out.

        Raises CatalogError.
        """
        return self._selection.instance_rows(ids)

    def identity_conflicts(self) -> list[IdentityConflict]:
        """Return the identity conflicts, oldest first. Raises CatalogError."""
        table = schema.identity_conflict
        columns = [table.c[name] for name in IdentityConflict.__slots__]
        with self.read() as connection:
            rows = connection.execute(select(*columns).order_by(table.c.id))
            return [IdentityConflict(*row) for row in rows]

    def series_paths(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield each series' directory and its objects' SOP Instance UIDs by path.

        See ``series_paths.series_paths``. Raises CatalogError.
        """
        return series_paths(self.read, self._backend.byte_collation)

    def read(self) -> AbstractContextManager[Connection]:
        """Lend a reader's connection; what it raises inside leaves as CatalogError."""
        return _Reading(self._backend)


class _Reading:
    """A reader's connection for the time of a ``with``; errors leave it as CatalogError."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._connection: Connection | None = None

    def __enter__(self) -> Connection:
        try:
            self._connection = self._backend.reader.connect()
        except SQLAlchemyError as error:
            raise CatalogError(f"index failed: {error}") from error
        return self._connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection.close()
        if isinstance(error, SQLAlchemyError):
            raise CatalogError(f"index failed: {error}") from error
