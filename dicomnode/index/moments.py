"""Dates, times and date-times as intervals (PS3.4 §C.2.2.2.1, §C.2.2.2.5; PS3.5 Table 6.2-1).

A value that stops early, as "1030" or "2024", stands for the whole of its minute or year. Bounds
are digits of full precision, so that they compare as strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

Kind = Literal["DA", "TM", "DT"]

_DA: Final = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)\Z", re.ASCII)
_TM: Final = re.compile(
    r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(?:\.(\d{1,6}))?)?)?\Z", re.ASCII
)
_DT: Final = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,6}))?)?)?)?)?)?([+-]\d{4})?\Z",
    re.ASCII,
)
_LATEST: Final = {"TM": "235960.999999", "DT": "99991231235960.999999"}
_EARLIEST: Final = {"TM": "000000.000000", "DT": "00000101000000.000000"}


@dataclass(frozen=True, slots=True)
class Interval:
    """From the first moment to the last; what is stored matches when it begins in between."""

    first: str
    last: str

    def accepts(self, moment: str) -> bool:
        """Tell whether a moment (see ``moment``) lies within."""
        return self.first <= moment <= self.last


def moment(stored: str, kind: Kind) -> str:
    """Return the first moment of a stored value, "" when it has no meaning."""
    if kind == "DA":
        return stored.replace(".", "")
    try:
        return _interval(stored, kind).first
    except ValueError:
        return ""


def interval(key: str, kind: Kind) -> Interval:
    """Read the value of a key: one moment, or a range that may be open at an end.

    Raises ValueError.
    """
    lowest, highest = ("0", "99999999") if kind == "DA" else (_EARLIEST[kind], _LATEST[kind])
    at = _hyphen(key, kind)
    if at < 0:
        return _interval(key, kind)
    first, last = key[:at].strip(" "), key[at + 1 :].strip(" ")
    if not first and not last:
        raise ValueError(f"{key!r} has no value")
    return Interval(
        _interval(first, kind).first if first else lowest,
        _interval(last, kind).last if last else highest,
    )


def _hyphen(key: str, kind: Kind) -> int:
    """Return where the hyphen of a range stands, -1 when there is none.

    A date-time may end with a hyphen and its offset from UTC (PS3.5 §6.2): taken for such where
    the rest still is a range or a single value.
    """
    places = [at for at, character in enumerate(key) if character == "-"]
    if kind != "DT" or not places:
        return places[0] if places else -1
    if len(places) == 1:
        # "2024-0500" is a value with an offset, as the standard says for ambiguous cases.
        return -1 if re.fullmatch(r"\d{4,14}(\.\d{1,6})?-\d{4}", key) else places[0]
    # "A-0500-B" and "A-0500-B-0500", or "A-B-0500".
    offset_first = re.match(r"[\d.]+-\d{4}-", key) is not None
    return places[1] if offset_first else places[0]


def _interval(value: str, kind: Kind) -> Interval:
    match kind:
        case "DA":
            found = _DA.match(value)
            if found is None:
                raise ValueError(f"{value!r} is no date")
            return Interval(day := "".join(found.groups()), day)
        case "TM":
            found = _TM.match(value)
            if found is None:
                raise ValueError(f"{value!r} is no time")
            return _filled("".join(found.groups("")[:3]), found[4] or "", kind)
        case "DT":
            found = _DT.match(value)
            if found is None:
                raise ValueError(f"{value!r} is no date-time")
            whole = _filled("".join(found.groups("")[:6]), found[7] or "", kind)
            return _in_utc(whole, found[8]) if found[8] else whole


def _filled(digits: str, fraction: str, kind: Kind) -> Interval:
    """Return the interval of a value of less than full precision."""
    earliest, latest = _EARLIEST[kind].partition(".")[0], _LATEST[kind].partition(".")[0]
    return Interval(
        f"{digits}{earliest[len(digits) :]}.{fraction:0<6}",
        f"{digits}{latest[len(digits) :]}.{fraction:9<6}",
    )


def _in_utc(local: Interval, offset: str) -> Interval:
    east = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
    shift = east if offset[0] == "+" else -east
    return Interval(_shifted(local.first, shift), _shifted(local.last, shift))


def _shifted(moment: str, shift: timedelta) -> str:
    """Return ``moment`` less ``shift``; raises ValueError for one that no calendar has."""
    day = min(int(moment[6:8]), 28)
    known = datetime.strptime(f"{moment[:6]}{day:02}{moment[8:12]}", "%Y%m%d%H%M")
    try:
        shifted = known + timedelta(days=int(moment[6:8]) - day) - shift
    except OverflowError:
        raise ValueError(f"{moment!r} is out of range") from None
    return shifted.strftime("%Y%m%d%H%M") + moment[12:]
