"""What is to be synchronized: studies by keys, dates and modality, and in which direction."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import Final

from dicomnode.index.keys import BY_KEYWORD, COMPUTED_KEYS, Level
from dicomnode.scu.keys import Keys, name_of

_DATE: Final = re.compile(r"\d{8}")
_MODALITY: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
# Between these all studies lie that have a date, when there are too many to be told at once.
_EARLIEST, _LATEST = date(1900, 1, 1), date(2099, 12, 31)
_LEVELS: Final = {key.tag: key.level for key in BY_KEYWORD.values()} | {
    key.tag: key.level for key in COMPUTED_KEYS
}


class Direction(StrEnum):
    """Where objects go that one side lacks."""

    PULL = "pull"
    PUSH = "push"
    BOTH = "both"

    @property
    def pulls(self) -> bool:
        """Whether objects come here."""
        return self is not Direction.PUSH

    @property
    def pushes(self) -> bool:
        """Whether objects go to the peer."""
        return self is not Direction.PULL


@dataclass(frozen=True, slots=True)
class Span:
    """Study Dates from ``first`` to ``last``, both included; None where there is no bound."""

    first: date | None = None
    last: date | None = None

    def __str__(self) -> str:
        if self.first is not None and self.first == self.last:
            return f"{self.first:%Y%m%d}"
        return "-".join(f"{each:%Y%m%d}" if each else "" for each in (self.first, self.last))

    @property
    def is_bounded(self) -> bool:
        """Whether it leaves anything out: studies without a date are in the other one alone."""
        return self.first is not None or self.last is not None

    def includes(self, written: str) -> bool:
        """Tell whether a Study Date lies in it; one that is no date is left to the peer."""
        try:
            on = date.fromisoformat(written.replace(".", ""))
        except ValueError:
            return True
        return (self.first or on) <= on <= (self.last or on)

    def halves(self) -> tuple[Span, Span] | None:
        """Return its two halves, None for a single day."""
        first, last = self.first or _EARLIEST, self.last or _LATEST
        if first >= last:
            return None
        middle = first + (last - first) // 2
        return Span(self.first, middle), Span(middle + timedelta(days=1), self.last)


def read_span(written: str) -> Span:
    """Read ``20261101``, ``20261101-``, ``-20261130`` or ``20261101-20261130``.

    Raises ValueError.
    """
    parts = written.strip().split("-")
    if len(parts) > 2 or not any(parts) or not all(_DATE.fullmatch(part) for part in parts if part):
        raise ValueError(f"{written!r} is no date such as 20261101, nor a range such as 20261101-")
    try:
        days = [date.fromisoformat(part) if part else None for part in parts]
    except ValueError:
        raise ValueError(f"{written!r} has a day that is in no calendar") from None
    span = Span(days[0], days[-1])
    if span.first is not None and span.last is not None and span.first > span.last:
        raise ValueError(f"{written!r} ends before it begins")
    return span


@dataclass(frozen=True, slots=True)
class Wish:
    """The studies that ``keys`` match, each ``KEY=VALUE`` of a patient or study.

    ``modality``, "" for any, is one of those in the study, all of which is meant.
    """

    keys: tuple[str, ...] = ()
    span: Span = Span()
    modality: str = ""

    def query(self, span: Span) -> list[str]:
        """Return the keys for the studies of ``span``."""
        dates = f"StudyDate={span}" if span.is_bounded else "StudyDate"
        return [*self.keys, dates, f"ModalitiesInStudy={self.modality}"]


def make_wish(keys: Iterable[str], dates: str = "", modality: str = "") -> Wish:
    """Return what is meant by keys as they are written. Raises ValueError."""
    kept = list(_checked(keys))
    for key in [key for key in kept if key.startswith("StudyDate=")]:
        if dates:
            raise ValueError("StudyDate and a range of dates exclude each other")
        kept.remove(key)
        dates = key.partition("=")[2]
    if modality and not _MODALITY.fullmatch(modality):
        raise ValueError(f"{modality!r} is no modality such as CT")
    return Wish(tuple(kept), read_span(dates) if dates else Span(), modality)


def _checked(written: Iterable[str]) -> Iterator[str]:
    keys = Keys()
    for key in written:
        keys.add(key)
    for path in keys.paths:
        name, text = name_of(path[0]), keys.text(path)
        if len(path) > 1 or _LEVELS.get(path[0]) in (Level.SERIES, Level.INSTANCE):
            raise ValueError(f"{name} is no attribute of a patient or a study")
        if name in ("QueryRetrieveLevel", "ModalitiesInStudy"):
            raise ValueError(f"{name} cannot be given here; there is a setting for modalities")
        if not text:
            raise ValueError(f"{name} has no value")
        yield f"{name}={text}"
