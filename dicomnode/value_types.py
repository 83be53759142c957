"""Types of values in settings and registry files, for pydantic."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KIB": 1024,
    "MIB": 1024**2,
    "GIB": 1024**3,
    "TIB": 1024**4,
}
_SIZE = re.compile(r"(\d{1,18})\s*([A-Za-z]*)")


def size(value: object) -> object:
    """Turn ``"256 MiB"`` or ``"2GB"`` into bytes; raises ValueError for text that is no size."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('must be a size such as 1048576, "256MB" or "64 MiB"')
    if isinstance(value, int):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError('must be a size such as 1048576, "256MB" or "64 MiB"')
    return int(found[1]) * _UNITS[found[2].upper()]


def number(value: object) -> object:
    """Pass ``value`` on; raises ValueError for true and false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number such as 30")
    return value


Size = Annotated[int, BeforeValidator(size)]
Number = Annotated[int, BeforeValidator(number)]
Seconds = Annotated[float, BeforeValidator(number)]
