"""Wild card matching in bounded time (PS3.4 §C.2.2.2.4): ``*`` any characters, ``?`` any one."""

from __future__ import annotations

import re
from typing import Final

_STARS: Final = re.compile(r"\*\*+")
_ESCAPE: Final = "\\"
_SPECIAL_IN_LIKE: Final = re.compile(r"[\\%_]")


def is_wild(text: str) -> bool:
    """Tell whether ``text`` has wild cards."""
    return "*" in text or "?" in text


def simplified(pattern: str) -> str:
    """Return ``pattern`` with each run of ``*`` as one."""
    return _STARS.sub("*", pattern)


def like(pattern: str) -> str:
    """Return the pattern for LIKE with the escape character ``\\``, whose meaning is the same."""
    escaped = _SPECIAL_IN_LIKE.sub(lambda found: _ESCAPE + found[0], pattern)
    return escaped.replace("*", "%").replace("?", "_")


def prefix(pattern: str) -> str:
    """Return what every match begins with."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def successor(text: str) -> str | None:
    """Return the least string above all that begin with ``text``, None when there is none.

    In the order of code points, which is that of UTF-8.
    """
    for at in range(len(text) - 1, -1, -1):
        code = ord(text[at])
        if code < 0x10FFFF:
            return text[:at] + chr(0xE000 if code + 1 == 0xD800 else code + 1)
    return None


class Wild:
    """A pattern; each step over a value is one of ``str``'s own searches, none goes back."""

    __slots__ = ("_first", "_last", "_middle", "_pattern")

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        first, *rest = (_Segment(part) for part in simplified(pattern).split("*"))
        self._first = first
        self._last = rest.pop() if rest else None
        self._middle = rest

    def __repr__(self) -> str:
        return f"Wild({self._pattern!r})"

    def accepts(self, value: str) -> bool:
        """Tell whether all of ``value`` matches."""
        first, last = self._first, self._last
        if last is None:
            return len(value) == first.length and first.is_at(value, 0)
        position, end = first.length, len(value) - last.length
        if end < position or not (first.is_at(value, 0) and last.is_at(value, end)):
            return False
        for segment in self._middle:
            found = segment.find(value, position, end)
            if found < 0:
                return False
            position = found + segment.length
        return True


class _Segment:
    """A part of a pattern without ``*``: literal pieces at offsets, anything between them."""

    __slots__ = ("_pieces", "length")

    def __init__(self, text: str) -> None:
        self.length = len(text)
        self._pieces = [(found.start(), found[0]) for found in re.finditer(r"[^?]+", text)]

    def is_at(self, value: str, position: int) -> bool:
        return all(value.startswith(text, position + at) for at, text in self._pieces)

    def find(self, value: str, start: int, end: int) -> int:
        """Return the first position of the segment within ``start`` and ``end``, or -1."""
        if not self._pieces:
            return start if start + self.length <= end else -1
        offset, text = self._pieces[0]
        position = start
        while position + self.length <= end:
            found = value.find(text, position + offset, end)
            if found < 0 or found - offset + self.length > end:
                return -1
            position = found - offset
            if self.is_at(value, position):
                return position
            position += 1
        return -1
