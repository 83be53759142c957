"""Dates, times and ages of data sets, shifted and rounded (PS3.5 §6.2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

# The form of ACR-NEMA with full stops still exists.
_DA: Final = re.compile(r"(\d{4})(\.?)(\d{2})\2(\d{2})\Z", re.ASCII)
_DT: Final = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})((?:\d{2}){0,3}(?:\.\d{1,6})?))?)?([+-]\d{4})?\Z", re.ASCII
)
_AGE: Final = re.compile(r"(\d{3})([DWMY])\Z", re.ASCII)
_A_YEAR: Final = {"D": 365, "W": 52, "M": 12, "Y": 1}
# 45 CFR 164.514(b)(2)(i)(C): all from 90 on are one.
_OLDEST: Final = 90


def shifted_date(text: str, days: int) -> str | None:
    """Return the DA values, or ranges of them, so many days later; None where there are none."""
    return _each(text, lambda one: _range(one, lambda each: _shifted_da(each, days)))


def shifted_date_time(text: str, days: int) -> str | None:
    """Return the DT values so many days later, as exact as they were and in their time zone.

    None where there are none.
    """
    return _each(text, lambda one: _shifted_dt(one, days))


def age_of_group(text: str) -> str | None:
    """Return the AS value, with 90 years for whoever is as old or older; None for no age."""
    found = _AGE.match(text.strip(" \0"))
    if found is None:
        return None
    years = int(found[1]) // _A_YEAR[found[2]]
    return f"{_OLDEST:03}Y" if years >= _OLDEST else found[0]


def _each(text: str, shift: Callable[[str], str | None]) -> str | None:
    shifted = [shift(one) if (one := part.strip(" \0")) else "" for part in text.split("\\")]
    found = [one for one in shifted if one is not None]
    return "\\".join(found) if len(found) == len(shifted) else None


def _range(text: str, shift: Callable[[str], str | None]) -> str | None:
    ends = [shift(end) if end else "" for end in text.split("-")]
    found = [end for end in ends if end is not None]
    return "-".join(found) if len(found) == len(ends) <= 2 else None


def _shifted_da(text: str, days: int) -> str | None:
    found = _DA.match(text)
    moved = _moved(found[1], found[3], found[4], days) if found else None
    if found is None or moved is None:
        return None
    return f"{moved.year:04}{found[2]}{moved.month:02}{found[2]}{moved.day:02}"


def _shifted_dt(text: str, days: int) -> str | None:
    found = _DT.match(text)
    moved = _moved(found[1], found[2] or "01", found[3] or "01", days) if found else None
    if found is None or moved is None:
        return None
    month = f"{moved.month:02}" if found[2] else ""
    day = f"{moved.day:02}" if found[3] else ""
    return f"{moved.year:04}{month}{day}{found[4] or ''}{found[5] or ''}"


def _moved(year: str, month: str, day: str, days: int) -> date | None:
    try:
        return date(int(year), int(month), int(day)) + timedelta(days)
    except (ValueError, OverflowError):
        return None
