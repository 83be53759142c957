"""How an object is entered under its patient, study and series.

Everything here runs in the writer's thread, inside the writer's transaction. Rows of recent
studies and series are remembered, so that one statement enters an object of a known series.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import Backend
from dicomnode.index.entry import (
    NOTHING,
    Added,
    AddOutcome,
    AlreadyHeld,
    Counts,
    InstanceEntry,
    InstanceRow,
    key_values,
)
from dicomnode.index.keys import INSTANCE_KEYS, PATIENT_KEYS, SERIES_KEYS, STUDY_KEYS
from dicomnode.index.names import fold
from dicomnode.index.sources import SourceBytes
from dicomnode.index.statements import Statements, value_columns

# Studies and series remembered; beyond that the oldest is forgotten.
_REMEMBERED = 4096

# Patient ID, its issuer, name, birth date, and the character set they are in.
_IDENTITY_TAGS = (0x0010_0020, 0x0010_0021, 0x0010_0010, 0x0010_0030, 0x0008_0005)

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class _Identity:
    """Who a Patient ID belongs to, as one object says; names compare folded."""

    patient_id: str
    issuer: str
    name: str
    birth_date: str

    @property
    def folded_name(self) -> str:
        return fold(self.name)

    def contradicts(self, other: _Identity) -> bool:
        """Tell whether name and birth date are known on both sides and both differ.

        The alphabetic name is compared where both have one (PS3.5 §6.2.1).
        """
        if not (self.birth_date and other.birth_date) or self.birth_date == other.birth_date:
            return False
        mine, theirs = self.folded_name, other.folded_name
        alphabetic, their_alphabetic = mine.split("=")[0], theirs.split("=")[0]
        if alphabetic and their_alphabetic:
            return alphabetic != their_alphabetic
        return bool(mine and theirs) and mine != theirs


@dataclass(frozen=True, slots=True)
class _Study:
    id: int
    patient: _Identity


@dataclass(frozen=True, slots=True)
class _Series:
    id: int
    study: _Study
    raw_identity: tuple[bytes | None, ...]


class Registrar:
    """Enters and removes objects; the caller owns the transaction.

    ``delta`` is what the open transaction changes in the counts. After a rollback ``forget``
    must be called, after a commit ``settled``.
    """

    def __init__(self, backend: Backend) -> None:
        self.delta = NOTHING
        self.sources = SourceBytes()
        self._studies: dict[str, _Study] = {}
        self._series: dict[tuple[str, str], _Series] = {}
        self._next_ids: dict[str, int] = {}
        self._sql = Statements(backend)

    def prepare(self, cursor: DBAPICursor) -> None:
        """Read where the identifiers of the tables stand; this is the only writer.

        None is given twice, so that whoever holds the id of a row that is gone meets no other.
        """
        for table, statement in self._sql.last_ids.items():
            statement.run(cursor)
            self._next_ids[table] = (cursor.fetchall()[0][0] or 0) + 1

    def settled(self) -> None:
        """The transaction has been committed."""
        self.delta = NOTHING
        self.sources.settled()

    def forget(self) -> None:
        """The transaction has been rolled back: what it made is gone."""
        self.sources.forget()
        self._forget_rows()

    def _forget_rows(self) -> None:
        self.delta = NOTHING
        self._studies.clear()
        self._series.clear()

    # -- operations ------------------------------------------------------------------------------

    def add(
        self, cursor: DBAPICursor, entry: InstanceEntry, contents: bytes | None = None
    ) -> AddOutcome:
        """Enter an object unless its SOP Instance UID is there already.

        ``contents`` is its whole file, which is kept until ``settle``.
        """
        series = self._series.get((entry.study_instance_uid, entry.series_instance_uid))
        if series is None:
            # Looked up first, so that a study is not made for an object held elsewhere.
            held = self.row(cursor, entry.sop_instance_uid)
            if held is not None:
                return AlreadyHeld(held)
            series = self._find_or_make_series(cursor, entry)
        instance_id = self._take_id("instance")
        self._sql.add_instance.run(
            cursor,
            instance_id,
            series.id,
            *key_values(entry.header, INSTANCE_KEYS),
            entry.transfer_syntax_uid,
            entry.path,
            entry.size_bytes,
            entry.data_set_bytes,
            entry.sha256,
            entry.file_sha256,
            entry.source_ae,
            entry.received_at,
        )
        if cursor.rowcount == 0:
            held = self.row(cursor, entry.sop_instance_uid)
            assert held is not None
            return AlreadyHeld(held)
        kept = 0
        if contents is not None:
            self._sql.add_intake.run(cursor, instance_id, entry.path, contents)
            kept = len(contents)
        self._count(
            instances=1,
            bytes=entry.size_bytes,
            unsettled=int(contents is not None),
            unsettled_bytes=kept,
        )
        self.sources.change(entry.source_ae, entry.size_bytes)
        if _raw_identity(entry) != series.raw_identity:
            self._compare(cursor, series, entry)
        return Added()

    def replace(self, cursor: DBAPICursor, entry: InstanceEntry) -> AddOutcome:
        """Enter an object in the place of the one with its SOP Instance UID, if there is one."""
        replaced = self.remove(cursor, entry.sop_instance_uid)
        self.add(cursor, entry)
        return Added(replaced)

    def remove(self, cursor: DBAPICursor, sop_instance_uid: str) -> InstanceRow | None:
        """Remove an object, and its series, study and patient when nothing of them is left."""
        row = self.row(cursor, sop_instance_uid)
        if row is None:
            return None
        self._sql.parents.run(cursor, sop_instance_uid)
        instance_id, series_id, study_id, patient_id, *identity = cursor.fetchall()[0]
        self.settle(cursor, instance_id, instance_id)
        self._sql.remove_instance.run(cursor, sop_instance_uid)
        self._count(instances=-1, bytes=-row.size_bytes)
        self.sources.change(row.source_ae, -row.size_bytes)
        self._sql.remove_series.run(cursor, series_id)
        if cursor.rowcount:
            self._series.pop((row.study_instance_uid, row.series_instance_uid), None)
            self._count(series=-1)
            self._sql.remove_study.run(cursor, study_id)
            if cursor.rowcount:
                self._studies.pop(row.study_instance_uid, None)
                self._count(studies=-1)
                self._sql.remove_patient.run(cursor, patient_id)
                if cursor.rowcount:
                    self._count(patients=-1)
                    self._unflag(cursor, _Identity(*identity))
        return row

    def settle(self, cursor: DBAPICursor, first: int, last: int) -> None:
        """Forget the contents of the objects from the id ``first`` to ``last``."""
        self._sql.intake_sizes.run(cursor, first, last)
        count, size_bytes = cursor.fetchall()[0]
        if count:
            self._sql.remove_intake.run(cursor, first, last)
            self._count(unsettled=-count, unsettled_bytes=-int(size_bytes))

    def row(self, cursor: DBAPICursor, sop_instance_uid: str) -> InstanceRow | None:
        """Return what the index holds of an object."""
        self._sql.row.run(cursor, sop_instance_uid)
        rows = cursor.fetchall()
        return InstanceRow(*rows[0]) if rows else None

    def truncate(self, cursor: DBAPICursor, counts: Counts) -> None:
        """Remove everything; ``counts`` is what there is."""
        for statement in self._sql.remove_all:
            statement.run(cursor)
        self._forget_rows()
        self.sources.truncate()
        self.delta = NOTHING.minus(counts)

    def _compare(self, cursor: DBAPICursor, series: _Series, entry: InstanceEntry) -> None:
        """Look whether an object is of its study's patient; others like it are not looked at."""
        held, identity = series.study.patient, _identity(entry)
        if identity.patient_id == held.patient_id:
            self._flag(cursor, held, identity, entry)
        key = entry.study_instance_uid, entry.series_instance_uid
        self._series[key] = _Series(series.id, series.study, _raw_identity(entry))

    # -- the levels above --------------------------------------------------------------------------

    def _find_or_make_series(self, cursor: DBAPICursor, entry: InstanceEntry) -> _Series:
        study = self._studies.get(entry.study_instance_uid)
        if study is None:
            study = self._find_or_make_study(cursor, entry)
            _remember(self._studies, entry.study_instance_uid, study)
        self._sql.find_series.run(cursor, study.id, entry.series_instance_uid)
        rows = cursor.fetchall()
        if rows:
            series_id = rows[0][0]
        else:
            series_id = self._take_id("series")
            values = key_values(entry.header, SERIES_KEYS)
            self._sql.add_series.run(cursor, series_id, study.id, *values)
            self._count(series=1)
        # A series that was there: compare its first newcomer with the study's patient.
        raw_identity = () if rows else _raw_identity(entry)
        series = _Series(series_id, study, raw_identity)
        _remember(self._series, (entry.study_instance_uid, entry.series_instance_uid), series)
        return series

    def _find_or_make_study(self, cursor: DBAPICursor, entry: InstanceEntry) -> _Study:
        self._sql.find_study.run(cursor, entry.study_instance_uid)
        for study_id, *patient in cursor.fetchall():
            return _Study(study_id, _Identity(*patient))
        patient_id, identity = self._find_or_make_patient(cursor, entry)
        study_id = self._take_id("study")
        directory = entry.path.rsplit("/", 2)[0]
        values = key_values(entry.header, STUDY_KEYS)
        self._sql.add_study.run(cursor, study_id, patient_id, directory, *values)
        self._count(studies=1)
        return _Study(study_id, identity)

    def _find_or_make_patient(
        self, cursor: DBAPICursor, entry: InstanceEntry
    ) -> tuple[int, _Identity]:
        """Return the patient of a new study.

        Without a Patient ID the study stands alone. A Patient ID whose name and birth date both
        contradict those held gets a row of its own: two people are never merged.
        """
        identity = _identity(entry)
        if not identity.patient_id:
            return self._make_patient(cursor, entry, apart=entry.study_instance_uid), identity
        self._sql.find_patients.run(cursor, identity.patient_id, identity.issuer)
        held = [(row[0], _Identity(*row[1:])) for row in cursor.fetchall()]
        agreeing = [pair for pair in held if not identity.contradicts(pair[1])]
        for patient_id, known in agreeing:
            if known.folded_name == identity.folded_name:
                return patient_id, known
        if agreeing:
            return agreeing[0]
        if not held:
            return self._make_patient(cursor, entry, apart=""), identity
        self._flag(cursor, held[0][1], identity, entry)
        apart = f"{identity.folded_name}\\{identity.birth_date}"
        return self._make_patient(cursor, entry, apart=apart), identity

    def _make_patient(self, cursor: DBAPICursor, entry: InstanceEntry, *, apart: str) -> int:
        patient_id = self._take_id("patient")
        values = key_values(entry.header, PATIENT_KEYS)
        self._sql.add_patient.run(cursor, patient_id, apart, *values)
        self._count(patients=1)
        return patient_id

    def _flag(
        self, cursor: DBAPICursor, held: _Identity, other: _Identity, entry: InstanceEntry
    ) -> None:
        if not other.contradicts(held):
            return
        self._sql.add_conflict.run(
            cursor,
            held.patient_id,
            held.issuer,
            held.name,
            held.birth_date,
            other.name,
            other.folded_name,
            other.birth_date,
            entry.study_instance_uid,
            entry.sop_instance_uid,
            entry.source_ae,
            time.time(),
        )
        self._count(identity_conflicts=cursor.rowcount)

    def _unflag(self, cursor: DBAPICursor, gone: _Identity) -> None:
        identity = gone.patient_id, gone.issuer, gone.name, gone.birth_date
        for statement in self._sql.remove_conflicts:
            statement.run(cursor, *identity)
            self._count(identity_conflicts=-cursor.rowcount)

    def _count(self, **changes: int) -> None:
        self.delta = self.delta.plus(Counts(**changes))

    def _take_id(self, table: str) -> int:
        taken = self._next_ids[table]
        self._next_ids[table] = taken + 1
        return taken


def _remember(known: dict[_K, _V], key: _K, value: _V) -> None:
    if len(known) >= _REMEMBERED:
        del known[next(iter(known))]
    known[key] = value


def _raw_identity(entry: InstanceEntry) -> tuple[bytes | None, ...]:
    value = entry.header.values.get
    return tuple(map(value, _IDENTITY_TAGS))


def _identity(entry: InstanceEntry) -> _Identity:
    values = dict(
        zip(value_columns(PATIENT_KEYS), key_values(entry.header, PATIENT_KEYS), strict=True)
    )
    return _Identity(
        str(values["patient_id"]),
        str(values["issuer_of_patient_id"]),
        str(values["patient_name"]),
        str(values["patient_birth_date"]),
    )
