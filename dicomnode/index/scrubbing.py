"""What the index keeps of the scrub: how far it is, and which files are not whole.

``ScrubReport`` reads, with nothing but a reader's connection; ``ScrubRecords`` writes as well, by
the index's one writer. Everything blocks and raises CatalogError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, bindparam, delete, func, insert, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog, InstanceRow
from dicomnode.index.records import bad_file, scrub_pass
from dicomnode.index.schema import instance, series, study
from dicomnode.index.statements import ROW

_STUDIES_PER_STEP: Final = 64
_MOST_OF_STUDY: Final = 1_000_000

Read = Callable[[], AbstractContextManager[Connection]]
Also = Callable[[DBAPICursor], None]


class Kind(StrEnum):
    """What is wrong with a file."""

    DAMAGED = "damaged"
    MISSING = "missing"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that is not whole; ``found_at`` is in seconds since 1970 UTC."""

    path: str
    sop_instance_uid: str
    study_instance_uid: str
    kind: Kind
    words: str
    found_at: float


@dataclass(frozen=True, slots=True)
class ScrubPass:
    """One run through all files; see ``records.scrub_pass``."""

    id: int
    began_at: float
    ended_at: float = 0.0
    cursor: str = ""
    objects: int = 0
    bytes: int = 0
    unknown_files: int = 0


class ScrubReport:
    """Reads how far the scrub is, and what it found."""

    def __init__(self, read: Read, byte_collation: str) -> None:
        self._read = read
        self._byte_collation = byte_collation

    def passes(self) -> tuple[ScrubPass | None, ScrubPass | None]:
        """Return the run that goes on, and the last one that ended."""
        with self._read() as connection:
            rows = connection.execute(select(scrub_pass).order_by(scrub_pass.c.id)).all()
        found = [ScrubPass(*row) for row in rows]
        going_on = [each for each in found if not each.ended_at]
        ended = [each for each in found if each.ended_at]
        return going_on[-1] if going_on else None, ended[-1] if ended else None

    def proven_since(self) -> float | None:
        """Return since when every object has been proven whole; None where there is no object.

        An object was proven as it was received, too. Seconds since 1970 UTC.
        """
        with self._read() as connection:
            oldest: float | None = connection.scalar(select(func.min(instance.c.received_at)))
        _, ended = self.passes()
        if oldest is None or ended is None:
            return oldest
        return max(oldest, ended.began_at)

    def bad_files(self, limit: int, study_instance_uid: str | None = None) -> list[BadFile]:
        """Return what is not whole, the latest first."""
        statement = select(bad_file).order_by(bad_file.c.found_at.desc(), bad_file.c.path)
        if study_instance_uid is not None:
            statement = statement.where(bad_file.c.study_instance_uid == study_instance_uid)
        with self._read() as connection:
            rows = connection.execute(statement.limit(limit)).all()
        return [BadFile(path, uid, of, Kind(kind), *rest) for path, uid, of, kind, *rest in rows]

    def bad_files_of(self, rows: Sequence[InstanceRow]) -> list[BadFile]:
        """Return what is not whole of some objects, of a few studies."""
        paths = {row.path for row in rows}
        studies = {row.study_instance_uid for row in rows}
        found = (each for uid in studies for each in self.bad_files(_MOST_OF_STUDY, uid))
        return [each for each in found if each.path in paths]

    def bad_paths(self) -> dict[str, Kind]:
        """Return the paths of all files that are not whole."""
        with self._read() as connection:
            rows = connection.execute(select(bad_file.c.path, bad_file.c.kind)).all()
        return {row[0]: Kind(row[1]) for row in rows}

    def series_after(self, directory: str) -> Iterator[tuple[str, list[InstanceRow]]]:
        """Yield each series' directory and its objects, from behind ``directory`` on.

        In byte order of study directory, then series, as ``FileStore.walk``. Memory: one series.
        No transaction stays open between two steps.
        """
        study_directory, _, series_uid = directory.rpartition("/")
        for each in self._series(study_directory, inclusive=True):
            if each[0] != study_directory or each[1] > series_uid:
                yield f"{each[0]}/{each[1]}", self._rows(each[2])
        while studies := list(self._series(study_directory, inclusive=False)):
            study_directory = studies[-1][0]
            for place, uid, series_id in studies:
                yield f"{place}/{uid}", self._rows(series_id)

    def _series(self, directory: str, *, inclusive: bool) -> list[tuple[str, str, int]]:
        """Return the series of the study in ``directory``, or of the next ones."""
        column = study.c.directory.collate(self._byte_collation)
        if inclusive:
            directories = [directory] if directory else []
        else:
            statement = select(study.c.directory).where(column > directory).order_by(column)
            with self._read() as connection:
                rows = connection.execute(statement.limit(_STUDIES_PER_STEP)).all()
            directories = [row[0] for row in rows]
        statement_of_series = (
            select(study.c.directory, series.c.series_instance_uid, series.c.id)
            .select_from(study.join(series))
            .where(study.c.directory.in_(directories))
        )
        with self._read() as connection:
            found = connection.execute(statement_of_series).all()
        return sorted((row[0], row[1], row[2]) for row in found)

    def _rows(self, series_id: int) -> list[InstanceRow]:
        with self._read() as connection:
            rows = connection.execute(ROW.where(instance.c.series == series_id)).all()
        return sorted((InstanceRow(*row) for row in rows), key=lambda row: row.path)


class ScrubRecords(ScrubReport):
    """Keeps how far the scrub is, and what it found; for any thread that may wait for the disk."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog.read, catalog.byte_collation)
        self._catalog = catalog
        names = tuple(bad_file.columns.keys())
        self._add_bad = catalog.prepare(
            insert(bad_file).values(new_values(names)), new_names(names)
        )
        of_path = bad_file.c.path == bindparam("gone")
        self._remove_bad = catalog.prepare(delete(bad_file).where(of_path), ("gone",))
        names = tuple(scrub_pass.columns.keys())
        self._add_pass = catalog.prepare(
            insert(scrub_pass).values(new_values(names)), new_names(names)
        )
        up_to = scrub_pass.c.id <= bindparam("last")
        self._remove_passes = catalog.prepare(delete(scrub_pass).where(up_to), ("last",))
        this = scrub_pass.c.id == bindparam("this")
        self._remove_pass = catalog.prepare(delete(scrub_pass).where(this), ("this",))

    def keep(self, scrub: ScrubPass) -> None:
        """Keep how far a run is; one that has ended takes the place of those before it."""

        def change(cursor: DBAPICursor) -> None:
            remove = self._remove_passes if scrub.ended_at else self._remove_pass
            remove.run(cursor, scrub.id)
            self._add_pass.run(
                cursor,
                scrub.id,
                scrub.began_at,
                scrub.ended_at,
                scrub.cursor,
                scrub.objects,
                scrub.bytes,
                scrub.unknown_files,
            )

        self._catalog.transact(change)

    def found(self, bad: BadFile, also: Also | None = None) -> None:
        """List a file that is not whole; ``also`` is done in the same transaction."""

        def change(cursor: DBAPICursor) -> None:
            self.enter(cursor, bad)
            if also is not None:
                also(cursor)

        self._catalog.transact(change)

    def enter(self, cursor: DBAPICursor, bad: BadFile) -> None:
        """List a file as part of somebody's transaction, in the writer's thread."""
        self._remove_bad.run(cursor, bad.path)
        self._add_bad.run(
            cursor,
            bad.path,
            bad.sop_instance_uid,
            bad.study_instance_uid,
            bad.kind.value,
            bad.words,
            bad.found_at,
        )

    def gone(self, path: str, also: Also | None = None) -> None:
        """Take a file from the list; ``also`` is done in the same transaction."""

        def change(cursor: DBAPICursor) -> None:
            self._remove_bad.run(cursor, path)
            if also is not None:
                also(cursor)

        self._catalog.transact(change)
