"""All that the index has of a study, a series or an object, for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from dicomnode.index.entry import InstanceRow
from dicomnode.index.keys import INSTANCE_KEYS, PATIENT_KEYS, SERIES_KEYS, STUDY_KEYS, Key, Level
from dicomnode.index.schema import TABLES, instance, patient, series, study
from dicomnode.index.scrubbing import Read
from dicomnode.index.statements import ROW

_KEYS: Final = {
    Level.PATIENT: PATIENT_KEYS,
    Level.STUDY: STUDY_KEYS,
    Level.SERIES: SERIES_KEYS,
    Level.INSTANCE: INSTANCE_KEYS,
}
_UNIQUE: Final = {
    Level.INSTANCE: instance.c.sop_instance_uid,
    Level.SERIES: series.c.series_instance_uid,
    Level.STUDY: study.c.study_instance_uid,
}
_FROM: Final = instance.join(series).join(study).join(patient)


@dataclass(frozen=True, slots=True)
class Held:
    """What a UID names: its level, the keys of it and of what it is in, and its objects."""

    level: Level
    keys: dict[str, str | int]
    rows: list[InstanceRow]


def held_of(read: Read, uid: str) -> Held | None:
    """Return what is held under a UID; None where it is neither object, series nor study.

    Keys are by keyword, without those that have no value. Of a series that is in several studies
    those of the first are returned, with the objects of all. Raises what the database raises.
    """
    for level, column in _UNIQUE.items():
        keys = _keys_down_to(level)
        columns = [TABLES[above].c[key.column] for above, key in keys]
        with read() as connection:
            first = connection.execute(
                select(*columns).select_from(_FROM).where(column == uid).limit(1)
            ).first()
            if first is None:
                continue
            rows = connection.execute(
                ROW.where(column == uid).order_by(study.c.id, series.c.id, instance.c.id)
            ).all()
        return Held(level, _present(keys, first), [InstanceRow(*row) for row in rows])
    return None


def _keys_down_to(level: Level) -> list[tuple[Level, Key]]:
    levels = [Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE]
    return [(each, key) for each in levels[: levels.index(level) + 1] for key in _KEYS[each]]


def _present(keys: Sequence[tuple[Level, Key]], values: Sequence[Any]) -> dict[str, str | int]:
    pairs = zip(keys, values, strict=True)
    return {key.keyword: value for (_, key), value in pairs if value not in ("", None)}
