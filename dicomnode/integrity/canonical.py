"""JSON that can be written in one way only, so that every byte of it counts."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


def encode(value: Any) -> bytes:
    """Return a JSON value in UTF-8: keys sorted, no blanks, nothing escaped that need not be.

    Raises ValueError, of which a lone surrogate's UnicodeEncodeError is one.
    """
    return _ENCODER.encode(value).encode()


def decode(data: bytes) -> Any:
    """Return the value of canonical JSON of unknown origin; ValueError for anything else."""
    try:
        value = json.loads(data.decode(), parse_constant=_refuse)
        same = encode(value) == data
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not same:
        raise ValueError("it is not written as it was")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
