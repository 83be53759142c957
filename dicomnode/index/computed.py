"""Values that are worked out of what lies below: counts, and what a study's series and objects are.

PS3.4 Tables C.6-1 to C.6-3, "Number of … Related …", Modalities and SOP Classes in Study.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, FromClause, func, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import Backend, Question
from dicomnode.index.keys import BY_KEYWORD, Key
from dicomnode.index.schema import instance, series, study

# By row id of the entity.
Values = Mapping[int, str | int]
Gather = Callable[[DBAPICursor, object], list[Values]]

_BELOW_STUDY = study.join(series)
_BELOW_SERIES = series.join(instance)
_COUNTS: dict[str, tuple[ColumnElement[Any], FromClause]] = {
    "NumberOfPatientRelatedStudies": (study.c.patient, study),
    "NumberOfPatientRelatedSeries": (study.c.patient, _BELOW_STUDY),
    "NumberOfPatientRelatedInstances": (study.c.patient, _BELOW_STUDY.join(instance)),
    "NumberOfStudyRelatedInstances": (series.c.study, _BELOW_SERIES),
    "NumberOfSeriesRelatedInstances": (instance.c.series, instance),
}


def gathers(backend: Backend, keys: Sequence[Key]) -> list[tuple[tuple[Key, ...], Gather]]:
    """Return how to work out ``keys``, all of one level: groups of them, and a function for each.

    The function takes a cursor and row ids (see ``Backend.list_value``), and returns the values
    of each key of its group.
    """
    made: list[tuple[tuple[Key, ...], Gather]] = []
    of_series = tuple(key for key in keys if _column_of_series(key) or _counts_series(key))
    if of_series:
        made.append((of_series, _from_series(backend, of_series)))
    for key in keys:
        if key.keyword in _COUNTS:
            made.append(((key,), _counted(backend, *_COUNTS[key.keyword])))
        elif key.keyword == "SOPClassesInStudy":
            made.append(((key,), _classes(backend)))
    return made


def _counts_series(key: Key) -> bool:
    return key.keyword == "NumberOfStudyRelatedSeries"


def _column_of_series(key: Key) -> str | None:
    """Return the column of ``series`` whose distinct values make up ``key``, if there is one."""
    if key.keyword == "ModalitiesInStudy":
        return BY_KEYWORD["Modality"].column
    return key.column if key.column in series.c else None


def _counted(backend: Backend, owner: ColumnElement[Any], tables: FromClause) -> Gather:
    statement = select(owner, func.count()).select_from(tables).group_by(owner)
    question = Question(statement.where(backend.among(owner, "ids")), backend.reader)

    def gather(cursor: DBAPICursor, ids: object) -> list[Values]:
        question.run(cursor, {"ids": ids})
        return [defaultdict(int, cursor.fetchall())]

    return gather


def _classes(backend: Backend) -> Gather:
    statement = select(series.c.study, instance.c.sop_class_uid).select_from(_BELOW_SERIES)
    statement = statement.where(backend.among(series.c.study, "ids")).distinct()
    question = Question(statement, backend.reader)

    def gather(cursor: DBAPICursor, ids: object) -> list[Values]:
        question.run(cursor, {"ids": ids})
        return [_joined(cursor.fetchall())]

    return gather


def _from_series(backend: Backend, keys: tuple[Key, ...]) -> Gather:
    """Work out what needs nothing but the rows of a study's series, in one go."""
    names = [_column_of_series(key) for key in keys]
    columns = [series.c[name] for name in names if name is not None]
    statement = select(series.c.study, *columns).where(backend.among(series.c.study, "ids"))
    question = Question(statement.order_by(series.c.id), backend.reader)

    def gather(cursor: DBAPICursor, ids: object) -> list[Values]:
        question.run(cursor, {"ids": ids})
        rows = cursor.fetchall()
        made: list[Values] = []
        at = 1
        for name in names:
            if name is None:
                counts: defaultdict[int, int] = defaultdict(int)
                for row in rows:
                    counts[row[0]] += 1
                made.append(counts)
            else:
                made.append(_joined((row[0], row[at]) for row in rows))
                at += 1
        return made

    return gather


def _joined(pairs: Iterable[Sequence[Any]]) -> Values:
    """Return the distinct values of each owner, joined by backslashes."""
    values: defaultdict[int, str] = defaultdict(str)
    for owner, value in pairs:
        held = values[owner]
        if not held:
            values[owner] = value
        elif value and value != held and value not in held.split("\\"):
            values[owner] = f"{held}\\{value}"
    return values
