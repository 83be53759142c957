"""Matches as SQL: exact where SQL can say it, else a sieve for what ``matching`` then decides.

A condition's form has no values in it, so that statements of the same form are compiled once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, assert_never

from sqlalchemy import ColumnElement, Table, and_, bindparam, exists, literal_column, or_

from dicomnode.index import wildcards
from dicomnode.index.backend import Backend
from dicomnode.index.keys import Key, Level
from dicomnode.index.matching import (
    Decimals,
    Empty,
    Items,
    Match,
    Moments,
    Names,
    Numbers,
    Texts,
    accepts_combined,
    name_patterns,
)
from dicomnode.index.moments import Interval
from dicomnode.index.schema import TABLES, instance, name_columns, series, study

# More alternatives than this are not put into one statement, but tried one by one.
_MAX_ALTERNATIVES: Final = 64

# No column, so that an index alone may answer.
_ANY: Final[ColumnElement[int]] = literal_column("1")

Accepts = Callable[[Sequence[Any]], bool]


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison of one column; its values come with the condition, in order.

    A "span" is a range for which no index is to be used.
    """

    how: Literal["=", "among", "like", "prefix", "range", "span", "present", "null"]
    column: str


@dataclass(frozen=True, slots=True)
class Either:
    """True when one of its parts is."""

    parts: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Both:
    """True when all of its parts are."""

    parts: tuple[Form, ...]


Form = Compare | Either | Both
Value = str | int | tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a statement must know of a condition.

    ``level`` is whose table has the columns. ``within`` is set for attributes of series and
    objects that a study is asked for: one of the study's must match. ``residual`` are columns that
    ``Condition.accepts`` has to see.
    """

    level: Level
    form: Form
    residual: tuple[str, ...] = ()
    within: Level | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """A shape and its values; ``accepts`` decides on the residual columns, if there are any."""

    shape: Shape
    values: tuple[Value, ...]
    accepts: Accepts | None = None


def condition(key: Key, match: Match, *, within: Level | None = None) -> Condition:
    """Return the condition that ``key`` is accepted by ``match``."""
    form, values, is_exact = _form(key, match)
    if is_exact:
        return Condition(Shape(key.level, form, within=within), values)
    if within is not None:
        raise ValueError(f"{key.keyword} cannot be matched within {within}")

    def accepts(stored: Sequence[Any]) -> bool:
        return match.accepts(stored[0])

    return Condition(Shape(key.level, form, residual=(key.column,)), values, accepts)


def combined_condition(date: Key, time: Key, interval: Interval) -> Condition:
    """Return the condition that a date and its time, taken together, lie in ``interval``."""

    def accepts(stored: Sequence[Any]) -> bool:
        return accepts_combined(interval, stored[0], stored[1])

    form = Compare("range", date.column)
    days = interval.first[:8], interval.last[:8]
    return Condition(Shape(date.level, form, (date.column, time.column)), days, accepts)


def as_span(condition: Condition) -> Condition:
    """Return a condition whose form is a "range" as one that uses no index."""
    form = condition.shape.form
    assert isinstance(form, Compare) and form.how == "range"
    return replace(condition, shape=replace(condition.shape, form=replace(form, how="span")))


def uses_prefix(form: Form) -> bool:
    """Tell whether literal beginnings of values narrow down what may match."""
    match form:
        case Compare(how):
            return how == "prefix"
        case Either(parts):
            return any(map(uses_prefix, parts)) and all(
                uses_prefix(part) or (isinstance(part, Compare) and part.how in ("=", "among"))
                for part in parts
            )
        case Both(parts):
            return any(map(uses_prefix, parts))


# -- forms -------------------------------------------------------------------------------------


def _form(key: Key, match: Match) -> tuple[Form, tuple[Value, ...], bool]:
    """Return a form, its values, and whether it says all that ``match`` does."""
    present = Compare("present", key.column), (), False
    match match:
        case Empty():
            return _empty(key)
        case Numbers(values):
            return *_equal(key.column, values), True
        case Decimals():
            return present
        case Texts(values, patterns, multiple):
            if not multiple:
                likes = [_like(key.column, text) for text in patterns]
                return *_either([*_equal_to_any(key.column, values), *likes]), True
            if len(values) + len(patterns) > _MAX_ALTERNATIVES:
                return present
            return *_either([_contains(key.column, text) for text in (*values, *patterns)]), False
        case Names():
            return _named(key, match)
        case Moments(kind, intervals):
            if kind == "DT":
                return present
            if kind == "DA" and all(interval.first == interval.last for interval in intervals):
                return *_equal(key.column, tuple(interval.first for interval in intervals)), True
            # A stored time may stop at its hour.
            cut = None if kind == "DA" else 2
            ranges = [
                (Compare("range", key.column), (interval.first[:cut], interval.last))
                for interval in intervals
            ]
            return *_either(ranges), kind == "DA"
        case Items(keys):
            return *_both([(Compare("present", key.column), ()), *_in_items(key, keys)]), False
        case _:
            assert_never(match)


_Part = tuple[Form, tuple[Value, ...]]


def _equal(column: str, values: tuple[str | int, ...]) -> _Part:
    if len(values) == 1:
        return Compare("=", column), values
    return Compare("among", column), (values,)


def _equal_to_any(column: str, values: frozenset[str]) -> list[_Part]:
    return [_equal(column, tuple(sorted(values)))] if values else []


def _like(column: str, pattern: str) -> _Part:
    """Compare with a pattern; its literal beginning lets an index be used."""
    matches: _Part = Compare("like", column), (wildcards.like(pattern),)
    begins = wildcards.prefix(pattern)
    beyond = wildcards.successor(begins)
    if beyond is None:
        return matches
    return _both([(Compare("prefix", column), (begins, beyond)), matches])


def _contains(column: str, pattern: str) -> _Part:
    return Compare("like", column), (wildcards.like(wildcards.simplified(f"*{pattern}*")),)


def _either(parts: Sequence[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    return Either(tuple(form for form, _ in parts)), _joined(parts)


def _both(parts: Sequence[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    return Both(tuple(form for form, _ in parts)), _joined(parts)


def _joined(parts: Sequence[_Part]) -> tuple[Value, ...]:
    return tuple(value for _, values in parts for value in values)


def _empty(key: Key) -> tuple[Form, tuple[Value, ...], bool]:
    if key.vr in ("IS", "US"):
        return Compare("null", key.column), (), True
    columns = name_columns(key) if key.vr == "PN" else (key.column,)
    return *_both([(Compare("=", column), ("",)) for column in columns]), True


def _named(key: Key, names: Names) -> tuple[Form, tuple[Value, ...], bool]:
    columns = name_columns(key)
    if not names.multiple:
        equal = [part for column in columns for part in _equal_to_any(column, names.values)]
        patterns = [_name(columns, patterns) for patterns in names.alternatives]
        return *_either([*equal, *patterns]), True
    # Of each alternative one group, and without what may be empty.
    parts = [next(filter(None, patterns)) for patterns in names.alternatives]
    least = [*sorted(names.values), *(name_patterns(part)[-1] for part in parts)]
    if len(least) > _MAX_ALTERNATIVES:
        return Compare("present", key.column), (), False
    return *_either([_contains(columns[0], pattern) for pattern in least]), False


def _name(columns: tuple[str, ...], patterns: tuple[str, ...]) -> _Part:
    if len(patterns) == 1:
        return _either([_group(column, patterns[0]) for column in columns])
    pairs = zip(columns, patterns, strict=False)
    return _both([_group(column, pattern) for column, pattern in pairs if pattern])


def _group(column: str, pattern: str) -> _Part:
    if not wildcards.is_wild(pattern):
        return Compare("=", column), (pattern,)
    return _either([_like(column, shorter) for shorter in name_patterns(pattern)])


def _in_items(key: Key, keys: tuple[tuple[str, Match], ...]) -> Iterator[_Part]:
    """Yield comparisons with the JSON of a sequence's items that let through what may match."""
    for keyword, match in keys:
        if isinstance(match, Texts) and len(match.values) == 1 and not match.patterns:
            (value,) = match.values
            member = json.dumps({keyword: value}, ensure_ascii=False)[1:-1]
            yield Compare("like", key.column), (f"%{wildcards.like(member)}%",)


# -- SQL ---------------------------------------------------------------------------------------


class Builder:
    """Makes SQL of shapes; parameters are named after their place."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._count = 0

    def build(self, shape: Shape) -> ColumnElement[bool]:
        """Return the condition of ``shape``; its parameters follow those built before."""
        built = self._form(TABLES[shape.level], shape.form)
        if shape.within is None:
            return built
        if shape.level is Level.SERIES:
            return exists(_ANY).where(series.c.study == study.c.id, built).correlate(study)
        of_study = and_(series.c.study == study.c.id, instance.c.series == series.c.id)
        return exists(_ANY).where(of_study, built).correlate(study)

    def _form(self, table: Table, form: Form) -> ColumnElement[bool]:
        match form:
            case Either(parts):
                return or_(*(self._form(table, part) for part in parts))
            case Both(parts):
                return and_(*(self._form(table, part) for part in parts))
            case Compare(how, name):
                return self._compare(how, table.c[name])

    def _compare(self, how: str, column: ColumnElement[Any]) -> ColumnElement[bool]:
        match how:
            case "=":
                return and_(column == self._next())
            case "among":
                return self._backend.among(column, self._name())
            case "like":
                return column.like(self._next(), escape="\\")
            case "prefix":
                return and_(column >= self._next(), column < self._next())
            case "range":
                return and_(column >= self._next(), column <= self._next())
            case "span":
                plain = self._backend.without_index(column)
                return and_(plain >= self._next(), plain <= self._next())
            case "present":
                return and_(column != "")
            case _:
                return column.is_(None)

    def _next(self) -> Any:
        return bindparam(self._name())

    def _name(self) -> str:
        self._count += 1
        return f"p{self._count}"


def parameters(backend: Backend, conditions: Sequence[Condition]) -> dict[str, object]:
    """Return the values of ``conditions`` by the names that a ``Builder`` gives them."""
    values = (value for condition in conditions for value in condition.values)
    return {
        f"p{number}": backend.list_value(value) if isinstance(value, tuple) else value
        for number, value in enumerate(values, 1)
    }
