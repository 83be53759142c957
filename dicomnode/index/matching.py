"""What a key of a query matches (PS3.4 §C.2.2.2): the one truth, which SQL must agree with.

``read_key`` makes a match of a key's value; a match accepts stored values or does not. Values
that the standard calls "universal" make no match at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Final, TypeVar, cast

from dicomnode.index import moments
from dicomnode.index.moments import Interval
from dicomnode.index.names import fold, groups
from dicomnode.index.wildcards import Wild, is_wild, simplified

_WILD_VRS: Final = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_WHOLE_VRS: Final = frozenset(("LT", "ST", "UR", "UT"))
_INTEGER_VRS: Final = frozenset(("IS", "US", "UL", "SS", "SL"))
# The index holds no longer values.
_MAX_PATTERN: Final = 1024
_MAX_COMPONENTS: Final = 5
_MAX_GROUPS: Final = 3
# More in one key would make SQL too deep.
_MAX_PATTERNS: Final = 16
# PS3.5 Table 6.2-1, IS and DS.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,12}\Z")
_DECIMAL: Final = re.compile(
    r"[+-]?([0-9]{1,16}(\.[0-9]{0,16})?|\.[0-9]{1,16})([Ee][+-]?[0-9]{1,3})?\Z"
)
# Asks for those that have no value (PS3.4 §C.2.2.2.7).
_EMPTY_VALUE: Final = '""'


class BadKey(ValueError):
    """The value of a key has no meaning; the words are for the peer."""


@dataclass(frozen=True, slots=True)
class Empty:
    """Matches what has no value."""

    def accepts(self, stored: str | int | None) -> bool:
        return stored is None or stored == ""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Matches any of some whole numbers."""

    values: tuple[int, ...]

    def accepts(self, stored: str | int | None) -> bool:
        return stored in self.values


@dataclass(frozen=True, slots=True)
class Decimals:
    """Matches any of some decimal numbers, however they are written."""

    values: frozenset[Decimal]

    def accepts(self, stored: str | int | None) -> bool:
        return any(_decimal(value) in self.values for value in str(stored).split("\\"))


@dataclass(frozen=True, slots=True)
class Texts:
    """Matches any of some values and patterns; of ``multiple`` stored values, one must match."""

    values: frozenset[str]
    patterns: tuple[str, ...]
    multiple: bool

    def accepts(self, stored: str | int | None) -> bool:
        text = str(stored)
        parts = text.split("\\") if self.multiple else [text]
        parts = [part.strip(" ") for part in parts]
        if not self.values.isdisjoint(parts):
            return True
        return any(_wild(pattern).accepts(part) for pattern in self.patterns for part in parts)


@dataclass(frozen=True, slots=True)
class Names:
    """Matches person names.

    ``values`` are single component groups, folded, that any group may be equal to. Each of the
    ``alternatives`` has the patterns of its groups: of one alone any group that is stored may
    match, of several each must match its counterpart ("" matches any).
    """

    values: frozenset[str]
    alternatives: tuple[tuple[str, ...], ...]
    multiple: bool

    def accepts(self, stored: str | int | None) -> bool:
        names = fold(str(stored)).split("\\") if self.multiple else [fold(str(stored))]
        return any(
            not self.values.isdisjoint(groups(name))
            or any(_accepts_name(patterns, name) for patterns in self.alternatives)
            for name in names
        )


@dataclass(frozen=True, slots=True)
class Moments:
    """Matches any of some intervals of dates, times or date-times."""

    kind: moments.Kind
    intervals: tuple[Interval, ...]

    def accepts(self, stored: str | int | None) -> bool:
        if not stored:
            return False
        at = moments.moment(str(stored), self.kind)
        return any(interval.accepts(at) for interval in self.intervals)


@dataclass(frozen=True, slots=True)
class Items:
    """Matches sequences one item of which satisfies all of some keys (PS3.4 §C.2.2.2.6).

    What is stored is the JSON of ``entry``.
    """

    keys: tuple[tuple[str, Match], ...]

    def accepts(self, stored: str | int | None) -> bool:
        items = cast("list[Mapping[str, str]]", json.loads(stored)) if stored else []  # type: ignore[arg-type]
        return any(
            all(match.accepts(item.get(keyword, "")) for keyword, match in self.keys)
            for item in items
        )


_T = TypeVar("_T")
_wild = lru_cache(maxsize=256)(Wild)

Match = Empty | Numbers | Decimals | Texts | Names | Moments | Items


def read_key(vr: str, values: Sequence[str], *, multiple: bool = False) -> Match | None:
    """Return what the values of a key match, None for everything (universal matching).

    ``multiple`` tells that stored values may be several. Raises BadKey.
    """
    if vr in _WHOLE_VRS:
        values = ["\\".join(values)]
    values = [value for value in values if value]
    if not values or any(simplified(value) == "*" for value in values):
        return None
    if list(values) == [_EMPTY_VALUE]:
        return Empty()
    if vr in ("DA", "TM", "DT"):
        return _moments(cast(moments.Kind, vr), values)
    if vr in _INTEGER_VRS:
        return Numbers(tuple(_integer(value) for value in values))
    if vr == "DS":
        return Decimals(frozenset(map(_known_decimal, values)))
    if vr not in _WILD_VRS:
        return Texts(frozenset(values), (), multiple)
    if any(len(value) > _MAX_PATTERN for value in map(simplified, values)):
        raise BadKey(f"is longer than {_MAX_PATTERN} characters")
    if vr == "PN":
        return _names(values, multiple)
    return Texts(
        frozenset(value for value in values if not is_wild(value)),
        _few([simplified(value) for value in values if is_wild(value)]),
        multiple,
    )


def combined(dates: Match | None, times: Match | None) -> Interval | None:
    """Return the one range of date and time of two keys, None when they are not that.

    PS3.4 §C.2.2.2.5.4: from the first time of the first date to the last time of the last.
    """
    match dates, times:
        case (
            Moments(intervals=(Interval(first_day, last_day),)),
            Moments(intervals=(Interval(first_time, last_time),)),
        ) if first_day != last_day:
            return Interval(first_day + first_time, last_day + last_time)
    return None


def accepts_combined(interval: Interval, date: str, time: str) -> bool:
    """Tell whether a stored date and time lie in ``interval``; without a time, at midnight."""
    at = moments.moment(time or "00", "TM")
    return bool(date) and interval.accepts(moments.moment(date, "DA") + at)


def name_patterns(pattern: str) -> list[str]:
    """Return ``pattern`` and those without its last components, where these may be empty.

    "DOE^*" matches "DOE" too: trailing empty components and their delimiters mean nothing.
    """
    patterns = [pattern]
    while pattern.endswith("^*") and len(patterns) < _MAX_COMPONENTS:
        pattern = pattern[:-2].rstrip("^")
        patterns.append(pattern)
    return patterns


def _names(values: Sequence[str], multiple: bool) -> Match | None:
    equal: list[str] = []
    alternatives: list[tuple[str, ...]] = []
    for value in values:
        patterns = tuple(
            "" if simplified(group) == "*" else simplified(group)
            for group in fold(value).split("=")[:_MAX_GROUPS]
        )
        if not any(patterns):
            return None
        if len(patterns) == 1 and not is_wild(patterns[0]):
            equal.append(patterns[0])
        else:
            alternatives.append(patterns)
    return Names(frozenset(equal), _few(alternatives), multiple)


def _accepts_name(patterns: Sequence[str], name: str) -> bool:
    if len(patterns) == 1:
        return any(_accepts_group(patterns[0], group) for group in groups(name))
    return all(
        not pattern or _accepts_group(pattern, group)
        for pattern, group in zip(patterns, groups(name), strict=False)
    )


def _accepts_group(pattern: str, group: str) -> bool:
    if not is_wild(pattern):
        return pattern == group
    return any(_wild(shorter).accepts(group) for shorter in name_patterns(pattern))


def _moments(kind: moments.Kind, values: Sequence[str]) -> Moments:
    try:
        intervals = [moments.interval(value, kind) for value in values]
    except ValueError:
        words = {"DA": "date", "TM": "time", "DT": "date-time"}[kind]
        raise BadKey(f"is no {words} or range of {words}s") from None
    return Moments(kind, _few(intervals))


def _few(patterns: list[_T]) -> tuple[_T, ...]:
    """Return ``patterns`` if they are few enough for each to be tried on every stored value."""
    if len(patterns) > _MAX_PATTERNS:
        raise BadKey(f"has more than {_MAX_PATTERNS} patterns or ranges")
    return tuple(patterns)


def _integer(value: str) -> int:
    if not _INTEGER.match(value):
        raise BadKey("is no whole number")
    return int(value)


def _known_decimal(value: str) -> Decimal:
    number = _decimal(value)
    if number is None:
        raise BadKey("is no number")
    return number


def _decimal(value: str) -> Decimal | None:
    value = value.strip(" ")
    return Decimal(value) if _DECIMAL.match(value) else None
