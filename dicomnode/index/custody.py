"""The custody log: what happened to each object, in rows that are only ever added.

Rows are added in the transactions of the index's one writer, so that what is recorded of an object
is committed together with what happened to it, or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import CatalogError
from dicomnode.index import schema
from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.custody_check import Check, Expected, Progress
from dicomnode.index.records import custody
from dicomnode.integrity.record import (
    NOTHING_BEFORE,
    CustodyRecord,
    Detail,
    Event,
    Fault,
    Happening,
    checked_details,
    details_text,
    hash_of,
)

_c: Final = custody.c
_INSERTED: Final = tuple(custody.columns.keys())
_LAST: Final = select(_c.sequence, _c.hash).where(
    _c.sequence == select(func.max(_c.sequence)).scalar_subquery()
)
_before: Final = custody.alias("before")
_RECORD: Final = select(
    _c.sequence,
    _c.at,
    _c.event,
    _c.study_instance_uid,
    _c.sop_instance_uid,
    _c.details,
    _before.c.hash,
    _c.hash,
).select_from(custody.outerjoin(_before, _before.c.sequence == _c.sequence - 1))
_WITH_CONTENTS: Final = (Event.RECEIVED, Event.REPLACED, Event.ENTERED)

Head = tuple[int, str]


class Kind(StrEnum):
    """What a UID can be of."""

    STUDY = "study"
    SERIES = "series"
    INSTANCE = "object"


class CustodyRecords:
    """Reads the log; ``read`` lends a reader's connection. Everything blocks.

    Raises CatalogError where the index fails and where what it holds is no record any more.
    """

    def __init__(self, read: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._read = read

    def head(self) -> Head:
        """Return sequence and hash (hex) of the last record; 0 and zeros when there is none."""
        with self._read() as connection:
            row = connection.execute(_LAST).first()
        return (row[0], bytes(row[1]).hex()) if row is not None else (0, NOTHING_BEFORE)

    def of_study(self, study_instance_uid: str) -> list[CustodyRecord]:
        """Return what happened to a study and to its objects, in the order of the chain."""
        return self._records(_c.study_instance_uid == study_instance_uid)

    def of_instance(
        self, sop_instance_uid: str, study_instance_uid: str | None = None
    ) -> list[CustodyRecord]:
        """Return what happened to an object, in the order of the chain.

        Without its study each study is looked into, as it may have come in several.
        """
        study = _c.study_instance_uid
        of_study = study == study_instance_uid if study_instance_uid else study.in_(_studies())
        return self._records(of_study, _c.sop_instance_uid == sop_instance_uid)

    def of_series(self, series_instance_uid: str) -> list[CustodyRecord]:
        """Return what happened to the objects of a series, in the order of the chain.

        Of one of which the index holds nothing any more, the whole log is looked through.
        """
        in_index = (
            select(schema.study.c.study_instance_uid)
            .join(schema.series)
            .where(schema.series.c.series_instance_uid == series_instance_uid)
        )
        told = f'"series_instance_uid":"{series_instance_uid}"'
        in_log = select(_c.study_instance_uid).distinct().where(_c.details.contains(told))
        with self._read() as connection:
            studies = connection.scalars(in_index).all() or connection.scalars(in_log).all()
        found: list[CustodyRecord] = []
        for study in studies:
            records = self.of_study(study)
            uids = {
                record.sop_instance_uid
                for record in records
                if record.details.get("series_instance_uid") == series_instance_uid
            }
            found += [record for record in records if record.sop_instance_uid in uids]
        return sorted(found, key=lambda record: record.sequence)

    def of_any(self, uid: str) -> tuple[Kind, list[CustodyRecord]]:
        """Return what happened to what has a UID, and what that is."""
        for kind, read in (
            (Kind.STUDY, self.of_study),
            (Kind.INSTANCE, self.of_instance),
            (Kind.SERIES, self.of_series),
        ):
            if records := read(uid):
                return kind, records
        return Kind.INSTANCE, []

    def check(
        self, expected: Sequence[Expected] = (), progress: Progress | None = None
    ) -> Iterator[Fault]:
        """Read the whole chain and yield what is wrong with it; see ``custody_check.Check``."""
        return Check(self._read, expected, progress).faults()

    def _records(self, *conditions: ColumnElement[bool]) -> list[CustodyRecord]:
        statement = _RECORD.where(*conditions).order_by(_c.sequence)
        with self._read() as connection:
            return [_record(row) for row in connection.execute(statement)]


class Custody(CustodyRecords):
    """The log of an open catalog; usable from any thread that may wait for the disk."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog.read)
        self._catalog = catalog
        self._last = catalog.prepare(_LAST, ())
        self._of_object = catalog.prepare(
            select(_c.event, _c.details)
            .where(_c.study_instance_uid == bindparam("study"))
            .where(_c.sop_instance_uid == bindparam("instance"))
            .order_by(_c.sequence),
            ["study", "instance"],
        )
        self._insert = catalog.prepare(
            insert(custody).values(new_values(_INSERTED)), new_names(_INSERTED)
        )

    def contents(
        self, cursor: DBAPICursor, study_instance_uid: str, sop_instance_uid: str
    ) -> Mapping[str, Detail] | None:
        """Return the details of the record that says which bytes an object has, None for none.

        For use in a transaction of the writer's. What was recorded before it was deleted does not
        count.
        """
        self._of_object.run(cursor, study_instance_uid, sop_instance_uid)
        found: Mapping[str, Detail] | None = None
        for event, details in cursor.fetchall():
            if event in _WITH_CONTENTS:
                found = _details(details)
            elif event == Event.DELETED:
                found = None
        return found

    def append(self, happenings: Iterable[Happening]) -> None:
        """Record happenings in one transaction; returns once that is durable."""
        # Entered again where another's change in the same transaction fails.
        told = tuple(happenings)
        self._catalog.transact(lambda cursor: self.enter(cursor, told))

    def enter(self, cursor: DBAPICursor, happenings: Iterable[Happening]) -> None:
        """Record happenings as part of somebody's transaction, in the writer's thread.

        Where the chain ends is asked of the database each time: a transaction that is rolled back
        leaves nothing behind to be wrong.
        """
        self._last.run(cursor)
        rows = cursor.fetchall()
        sequence, previous = (rows[0][0], bytes(rows[0][1])) if rows else (0, bytes(32))
        for happening in happenings:
            sequence += 1
            text = details_text(happening.details)
            content = (
                happening.at,
                happening.event,
                happening.study_instance_uid,
                happening.sop_instance_uid,
                text,
            )
            previous = hash_of(sequence, *content, previous.hex())
            self._insert.run(cursor, sequence, *content, previous)


def _details(text: str) -> Mapping[str, Detail]:
    try:
        return checked_details(json.loads(text))
    except (ValueError, TypeError):
        # Somebody has changed it: it says nothing any more, and a check finds it.
        return {}


def _studies() -> Any:
    """Return a query of the studies there are: a step of the index for each, whatever it holds."""
    first = select(func.min(_c.study_instance_uid).label("uid"))
    found = first.cte("studies", recursive=True)
    inner = custody.alias("following")
    following = (
        select(func.min(inner.c.study_instance_uid))
        .where(inner.c.study_instance_uid > found.c.uid)
        .scalar_subquery()
    )
    return select(found.union_all(select(following).where(found.c.uid.is_not(None))).c.uid)


def _record(row: Any) -> CustodyRecord:
    """Return the record of a row. Raises CatalogError where somebody has changed it so far."""
    sequence, at, event, study, instance, details, previous, own = row
    before = bytes(previous).hex() if previous is not None else ""
    if sequence == 1:
        before = NOTHING_BEFORE
    try:
        told = checked_details(json.loads(details))
        return CustodyRecord(
            sequence, at, Event(event), study, instance, told, before, bytes(own).hex()
        )
    except (ValueError, TypeError) as error:
        raise CatalogError(
            f"custody record {sequence} is no record any more ({error}): run"
            " `dicomnode custody --check`"
        ) from error
