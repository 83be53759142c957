"""Searches in two steps: the row ids of what matches, then the values of some of them at a time.

So no transaction is open while a peer takes its answers, and memory stays small.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import FromClause, Select, bindparam, literal_column, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import Backend, Question
from dicomnode.index.computed import Gather, Values, gathers
from dicomnode.index.conditions import (
    Builder,
    Compare,
    Condition,
    Shape,
    as_span,
    parameters,
    uses_prefix,
)
from dicomnode.index.keys import Key, Level
from dicomnode.index.reading import Stop, reading
from dicomnode.index.schema import TABLES, instance, series, study

_LEVELS = list(Level)
_FETCHED_AT_ONCE = 1000
_STATEMENTS_KEPT = 512
# Of statements with more parameters none is kept: they are long, and seldom the same.
_PARAMETERS_KEPT = 64
# What ``Wanted.stored`` adds.
_STORED = (
    instance.c.path,
    instance.c.transfer_syntax_uid,
    instance.c.sha256,
    instance.c.data_set_bytes,
    instance.c.file_sha256,
)

_STUDY_DATES = Compare("range", study.c.study_date.name)
# A range of dates with more studies is left to be looked at last.
_FEW_STUDIES = 2000
_WIDE: Select[Any] = (
    select(literal_column("1"))
    .select_from(study)
    .where(study.c.study_date >= bindparam("first"), study.c.study_date <= bindparam("last"))
    .offset(_FEW_STUDIES)
    .limit(1)
)

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be known of each match: ``keys`` that have columns, then ``computed`` ones.

    Both are of ``level`` or above it; among the computed are attributes of series that studies
    are asked for. ``stored`` adds an object's path, transfer syntax, SHA-256 (hex) and the bytes
    of its data set, and the SHA-256 of its file.
    """

    level: Level
    keys: tuple[Key, ...]
    computed: tuple[Key, ...] = ()
    stored: bool = False


@dataclass(frozen=True, slots=True)
class _Fetching:
    """How to fetch: rows begin with the match's own id and those of owners of computed values.

    For each gather the place of its owner's id, and the places of its values among the computed.
    """

    question: Question
    gathers: tuple[tuple[int, tuple[int, ...], Gather], ...]
    owners: int


class Search:
    """The searches of one index; usable from any thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._matching = lru_cache(_STATEMENTS_KEPT)(self._make_matching)
        self._dates = Question(_WIDE, backend.reader)
        self._fetching = lru_cache(_STATEMENTS_KEPT)(self._make_fetching)

    def find(
        self, level: Level, conditions: Sequence[Condition], limit: int, stop: Stop
    ) -> array[int]:
        """Return the row ids of what satisfies all conditions at ``level``, ``limit`` at most.

        A condition on a level below is satisfied by any one of what is below.
        """
        few = sum(len(condition.values) for condition in conditions) <= _PARAMETERS_KEPT
        make = self._matching if few else self._make_matching
        tests = _tests(conditions)
        # In the order found; what has several below it is found several times.
        found: dict[int, None] = {}
        with reading(self._backend, stop) as cursor:
            conditions = self._steered(cursor, conditions)
            question = make(level, tuple(condition.shape for condition in conditions))
            question.run(cursor, parameters(self._backend, conditions))
            while len(found) < limit and (rows := cursor.fetchmany(_FETCHED_AT_ONCE)):
                if tests:
                    rows = [row for row in rows if all(test(row) for test in tests)]
                found.update(dict.fromkeys(map(itemgetter(0), rows)))
                stop.check()
        return array("q", sorted(list(found)[:limit]))

    def fetch(self, wanted: Wanted, ids: Sequence[int], stop: Stop) -> list[Row]:
        """Return the values of ``wanted`` for each of ``ids``; what is gone is left out."""
        fetching = self._fetching(wanted)
        with reading(self._backend, stop) as cursor:
            fetching.question.run(cursor, {"ids": self._backend.list_value(ids)})
            rows = {row[0]: row for row in cursor.fetchall()}
            computed = self._gather(cursor, fetching, rows)
        ordered = [rows[row_id] for row_id in ids if row_id in rows]
        first = 1 + fetching.owners
        if not computed:
            return [row[first:] for row in ordered]
        # Computed values come before what ``stored`` adds.
        end = first + len(wanted.keys)
        return [
            (*row[first:end], *(values[row[owner]] for owner, values in computed), *row[end:])
            for row in ordered
        ]

    def _steered(self, cursor: DBAPICursor, conditions: Sequence[Condition]) -> Sequence[Condition]:
        """Keep SQLite from going through years of studies where there is a name to begin with.

        It takes every range for equally narrow, and one range for narrower than those of a
        name's three groups.
        """
        if not any(
            condition.shape.level is Level.PATIENT and uses_prefix(condition.shape.form)
            for condition in conditions
        ):
            return conditions
        return [
            as_span(condition)
            if condition.shape.form == _STUDY_DATES and self._is_wide(cursor, condition)
            else condition
            for condition in conditions
        ]

    def _is_wide(self, cursor: DBAPICursor, dates: Condition) -> bool:
        first, last = dates.values
        self._dates.run(cursor, {"first": first, "last": last})
        return bool(cursor.fetchall())

    def _gather(
        self, cursor: DBAPICursor, fetching: _Fetching, rows: dict[int, Row]
    ) -> list[tuple[int, Values]]:
        """Return the computed values, each with the place of its owner's id in a row."""
        found: dict[int, tuple[int, Values]] = {}
        for owner, places, gather in fetching.gathers:
            owners = self._backend.list_value({row[owner] for row in rows.values()})
            values = gather(cursor, owners)
            found.update(zip(places, ((owner, each) for each in values), strict=True))
        return [found[place] for place in sorted(found)]

    def _make_matching(self, level: Level, shapes: tuple[Shape, ...]) -> Question:
        own = TABLES[level].c.id
        builder = Builder(self._backend)
        conditions = [builder.build(shape) for shape in shapes]
        residual = [TABLES[shape.level].c[name] for shape in shapes for name in shape.residual]
        levels = {level, *(shape.within or shape.level for shape in shapes)}
        statement = select(own, *residual).select_from(_joined(levels)).where(*conditions)
        return Question(statement, self._backend.reader)

    def _make_fetching(self, wanted: Wanted) -> _Fetching:
        levels = sorted({_owner(key) for key in wanted.computed}, key=_LEVELS.index)
        own = TABLES[wanted.level].c.id
        owners = [TABLES[level].c.id for level in levels]
        columns = [TABLES[key.level].c[key.column] for key in wanted.keys]
        statement = (
            select(own, *owners, *columns, *(_STORED if wanted.stored else ()))
            .select_from(_joined({wanted.level, *levels, *(key.level for key in wanted.keys)}))
            .where(self._backend.among(own, "ids"))
        )
        made = [
            (place, tuple(map(wanted.computed.index, keys)), gather)
            for place, level in enumerate(levels, 1)
            for keys, gather in gathers(
                self._backend, [key for key in wanted.computed if _owner(key) is level]
            )
        ]
        return _Fetching(Question(statement, self._backend.reader), tuple(made), len(levels))


def _owner(key: Key) -> Level:
    """Return the level whose entities a computed key belongs to."""
    return Level.STUDY if key.level is Level.SERIES and key.column in series.c else key.level


def _tests(conditions: Sequence[Condition]) -> list[Callable[[Row], bool]]:
    """Return what decides on the residual columns of a row, which follow its id."""
    tests: list[Callable[[Row], bool]] = []
    at = 1
    for condition in conditions:
        count = len(condition.shape.residual)
        if condition.accepts is not None:
            tests.append(_test(condition.accepts, slice(at, at + count)))
        at += count
    return tests


def _test(accepts: Callable[[Sequence[Any]], bool], place: slice) -> Callable[[Row], bool]:
    return lambda row: accepts(row[place])


def _joined(levels: set[Level]) -> FromClause:
    """Return the tables from the highest of ``levels`` to the lowest."""
    places = [_LEVELS.index(level) for level in levels]
    first, *rest = (TABLES[level] for level in _LEVELS[min(places) : max(places) + 1])
    joined: FromClause = first
    for table in rest:
        joined = joined.join(table)
    return joined
