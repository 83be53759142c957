"""Identifiers of queries and retrievals: read, and checked against their information model.

PS3.4 §C.4.1.2, §C.4.2.2 and §C.6 say which unique keys an identifier must have. What breaks them
is answered with A900H, the Offending Element, and a comment for whoever looks into it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dicomnode.errors import StatusError
from dicomnode.index.keys import UNIQUE_KEYS, Key, Level
from dicomnode.services.sop_classes import Root
from dicomnode.storage.header import Header, read_identifier
from dicomnode.storage.text import is_known_character_set

SPECIFIC_CHARACTER_SET: Final = 0x0008_0005
QUERY_RETRIEVE_LEVEL: Final = 0x0008_0052

_LEVELS: Final = {
    Root.PATIENT: tuple(Level),
    Root.STUDY: (Level.STUDY, Level.SERIES, Level.INSTANCE),
    Root.PATIENT_STUDY_ONLY: (Level.PATIENT, Level.STUDY),
}
_DOES_NOT_MATCH: Final = 0xA900
_UID: Final = re.compile(r"[0-9.]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings that bound identifiers (``limits``)."""

    max_identifier_bytes: int
    max_list_values: int


@dataclass(frozen=True, slots=True)
class Identifier:
    """An identifier whose level is one of its information model."""

    header: Header
    root: Root
    level: Level
    bounds: Bounds

    @property
    def higher_levels(self) -> tuple[Level, ...]:
        """The levels of the information model above the query's, the highest first."""
        levels = _LEVELS[self.root]
        return levels[: levels.index(self.level)]

    @property
    def lower_levels(self) -> tuple[Level, ...]:
        """The levels of the information model below the query's."""
        levels = _LEVELS[self.root]
        return levels[levels.index(self.level) + 1 :]

    def text(self, tag: int, vr: str, item: Header | None = None) -> str:
        """Return a value of the identifier, or of one of its items, in Unicode.

        Raises StatusError when its bytes are none of the character set.
        """
        return checked_text((item or self.header).text(tag, vr), tag)

    def split(self, tag: int, vr: str, text: str) -> list[str]:
        """Return the values in ``text``; see ``split_values``."""
        return split_values(text, tag, vr, self.bounds.max_list_values)

    def values(self, key: Key) -> list[str]:
        """Return the values of ``key``, [] for none. Raises StatusError, as ``split`` does."""
        text = self.text(key.tag, key.vr)
        return self.split(key.tag, key.vr, text) if text else []


def checked_text(text: str, tag: int) -> str:
    """Return a value; raises StatusError when its bytes were none of the character set given."""
    if "\ufffd" in text:
        comment = f"{_named(tag)} is not in the character set given"
        raise mismatch(comment, SPECIFIC_CHARACTER_SET, tag)
    return text


def split_values(text: str, tag: int, vr: str, most: int) -> list[str]:
    """Return the values in ``text`` without padding; UIDs are checked to be some.

    Raises StatusError, also for more than ``most``.
    """
    if text.count("\\") >= most:
        raise mismatch(f"more values than limits.max_list_values ({most})", tag)
    values = [value.strip(" ") for value in text.split("\\")]
    if vr == "UI":
        values = [value.strip("\0") for value in values if value]
        if not all(map(_UID.match, values)):
            raise mismatch(f"{_named(tag)} is no UID", tag)
    return values


def parse(data: bytes, transfer_syntax_uid: str, root: Root, bounds: Bounds) -> Identifier:
    """Read an identifier and its Query/Retrieve Level (0008,0052).

    Raises StatusError: C000H for what is no data set, A900H for a level that is none here or a
    character set that is not known.
    """
    header = read_identifier(data, transfer_syntax_uid, bounds.max_identifier_bytes)
    word = header.text(QUERY_RETRIEVE_LEVEL, "CS")
    levels = _LEVELS[root]
    if not word:
        raise mismatch("Query/Retrieve Level is missing", QUERY_RETRIEVE_LEVEL)
    if word not in levels:
        known = " or ".join(levels)
        raise mismatch(f"Query/Retrieve Level must be {known}", QUERY_RETRIEVE_LEVEL)
    if not is_known_character_set(header.values.get(SPECIFIC_CHARACTER_SET, b"")):
        raise mismatch("Specific Character Set is not known", SPECIFIC_CHARACTER_SET)
    return Identifier(header, root, Level(word), bounds)


def check_query(identifier: Identifier, *, relational: bool) -> None:
    """Check the unique keys of a query (PS3.4 §C.4.1.2.1, §C.4.1.3.1.1). Raises StatusError."""
    if relational:
        return
    for _ in _higher_keys(identifier):
        pass
    for level in identifier.lower_levels:
        key = UNIQUE_KEYS[level]
        # "*" alone asks for nothing: some send it with every key.
        if identifier.text(key.tag, key.vr) not in ("", "*"):
            raise mismatch(f"{key.keyword} is below the {identifier.level} level", key.tag)


def retrieve_keys(
    identifier: Identifier, *, relational: bool
) -> tuple[Level, dict[str, list[str]]]:
    """Return the level of a retrieval and the values of its unique keys by keyword.

    PS3.4 §C.4.2.1.4, §C.4.2.2.1: one value for each level above, unless relational, and one or
    more for the level itself. Attributes that are no unique keys are passed over. Raises
    StatusError.
    """
    keys: dict[str, list[str]] = {}
    if relational:
        for level in identifier.higher_levels:
            if values := identifier.values(UNIQUE_KEYS[level]):
                keys[UNIQUE_KEYS[level].keyword] = values
    else:
        for key, value in _higher_keys(identifier):
            keys[key.keyword] = [value]
    own = UNIQUE_KEYS[identifier.level]
    values = [value for value in identifier.values(own) if value]
    if not values:
        raise mismatch(f"{own.keyword} is missing", own.tag)
    keys[own.keyword] = values
    for level in identifier.lower_levels:
        lower = UNIQUE_KEYS[level]
        if identifier.values(lower):
            raise mismatch(f"{lower.keyword} is below the {identifier.level} level", lower.tag)
    if wild := next((k for k, v in keys.items() if _is_wild(k, v)), None):
        raise mismatch(f"{wild} has wild cards in a retrieval", UNIQUE_KEYS[Level.PATIENT].tag)
    return identifier.level, keys


def mismatch(comment: str, *offending: int) -> StatusError:
    """Return the error for an identifier that does not match its SOP class (A900H)."""
    return StatusError(comment, status=_DOES_NOT_MATCH, offending=offending)


def _higher_keys(identifier: Identifier) -> Iterator[tuple[Key, str]]:
    """Yield the unique keys above the level, which need one value each, and that value."""
    for level in identifier.higher_levels:
        key = UNIQUE_KEYS[level]
        values = identifier.values(key)
        if not values or not values[0]:
            raise mismatch(f"{key.keyword} is missing above {identifier.level}", key.tag)
        if len(values) > 1 or _is_wild(key.keyword, values):
            raise mismatch(f"{key.keyword} must have one value above {identifier.level}", key.tag)
        yield key, values[0]


def _is_wild(keyword: str, values: list[str]) -> bool:
    """Tell whether an identifier that could have wild cards, Patient ID alone, has some."""
    return keyword == "PatientID" and any("*" in value or "?" in value for value in values)


def _named(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
