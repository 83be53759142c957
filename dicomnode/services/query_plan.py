"""What a query comes to: conditions for the index, and how its matches are answered.

PS3.4 §C.4.1.1.3: the identifier of a request says what to match and what to return.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom.datadict import dictionary_VR

from dicomnode.index.catalog import Wanted
from dicomnode.index.conditions import Condition, combined_condition, condition
from dicomnode.index.keys import (
    BY_KEYWORD,
    BY_TAG,
    COMPUTED_KEYS,
    DATES_AND_TIMES,
    ITEM_KEYS,
    SERIES_KEYS_OF_STUDY,
    Key,
    Level,
)
from dicomnode.index.matching import BadKey, Items, Match, combined, read_key
from dicomnode.services.answers import Field, Layout, Repertoire
from dicomnode.services.attributes import can_be_read
from dicomnode.services.identifier import (
    QUERY_RETRIEVE_LEVEL,
    SPECIFIC_CHARACTER_SET,
    Identifier,
    check_query,
    mismatch,
)
from dicomnode.storage.header import Header

RETRIEVE_AE_TITLE: Final = 0x0008_0054
INSTANCE_AVAILABILITY: Final = 0x0008_0056
_ANSWERED_BY_US: Final = (SPECIFIC_CHARACTER_SET, QUERY_RETRIEVE_LEVEL, RETRIEVE_AE_TITLE)
# Of tags that are not supported, as many are told to logs.
_MAX_TOLD: Final = 64
_PLACES: Final = {level: place for place, level in enumerate(Level)}
_COMPUTED_TAGS: Final = frozenset(key.tag for key in COMPUTED_KEYS)
_TAGS_OF_SERIES: Final = frozenset(key.tag for key in SERIES_KEYS_OF_STUDY)

# At the IMAGE level: what was stored, in a private block of this creator.
_CREATOR: Final = b"DICOMNODE"
_SHA_256, _SIZE, _TRANSFER_SYNTAX, _FILE_SHA_256 = 0x01, 0x02, 0x03, 0x04
# Which of a row's values stands in each element, and its VR; see ``Wanted.stored``.
_PRIVATE: Final = {
    _SHA_256: (2, "LO"),
    _SIZE: (3, "DS"),
    _TRANSFER_SYNTAX: (1, "UI"),
    _FILE_SHA_256: (4, "LO"),
}

# Attributes of a study that its series and objects make up, and the key that they are matched by.
_WITHIN_STUDY: Final = {
    "ModalitiesInStudy": BY_KEYWORD["Modality"],
    "SOPClassesInStudy": BY_KEYWORD["SOPClassUID"],
    **{key.keyword: key for key in SERIES_KEYS_OF_STUDY},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """How a query is to be understood and answered, besides what its identifier says.

    ``relational`` and ``combined`` have been negotiated; ``character_set`` is what the requester
    is registered with, b"" for nothing.
    """

    transfer_syntax_uid: str
    retrieve_ae_title: str
    relational: bool = False
    combined: bool = False
    character_set: bytes = b""


@dataclass(frozen=True, slots=True)
class Plan:
    """A query worked out.

    ``conditions`` go with the keyword and value that they are of. ``file_tags`` are attributes
    that only files have, ``private`` the elements of our private block that are asked for: tag
    and VR, and the place of the value among those of ``Wanted.stored``. ``unsupported`` are tags
    that are not answered, or not matched.
    """

    level: Level
    conditions: tuple[tuple[str, str, Condition], ...]
    wanted: Wanted
    layout: Layout
    file_tags: tuple[int, ...]
    private: tuple[tuple[int, str, int], ...]
    unsupported: tuple[int, ...]


@dataclass(slots=True)
class _Draft:
    """A plan in the making; keys with a match, and what is to be returned."""

    matches: dict[Key, tuple[Match, str]] = field(default_factory=dict)
    within: dict[Key, tuple[Match, str]] = field(default_factory=dict)
    keys: list[Key] = field(default_factory=list)
    computed: list[Key] = field(default_factory=list)
    items: dict[int, tuple[tuple[str, int, str], ...]] = field(default_factory=dict)
    file_tags: list[int] = field(default_factory=list)
    unsupported: list[int] = field(default_factory=list)
    availability: bool = False


def make_plan(identifier: Identifier, asked: Asked) -> Plan:
    """Work out what ``identifier`` asks for. Raises StatusError (A900H)."""
    check_query(identifier, relational=asked.relational)
    draft = _Draft()
    private = tuple(_private_elements(identifier))
    ours = {tag for tag, _, _ in private} | set(_creators(identifier.header))
    for tag in sorted(identifier.header.values):
        if tag in _ANSWERED_BY_US or not tag & 0xFFFF or tag in ours:
            continue
        if tag == INSTANCE_AVAILABILITY:
            draft.availability = True
        elif tag in BY_TAG:
            _take_key(draft, identifier, BY_TAG[tag], relational=asked.relational)
        elif identifier.level is Level.INSTANCE and can_be_read(tag):
            draft.file_tags.append(tag)
            if _has_value(identifier.header, tag):
                draft.unsupported.append(tag)
        else:
            draft.unsupported.append(tag)
    stored = bool(draft.file_tags or private)
    return Plan(
        identifier.level,
        tuple(_conditions(draft, asked)),
        Wanted(identifier.level, tuple(draft.keys), tuple(draft.computed), stored),
        _layout(draft, identifier, asked, private),
        tuple(draft.file_tags),
        private,
        tuple(draft.unsupported[:_MAX_TOLD]),
    )


def _take_key(draft: _Draft, identifier: Identifier, key: Key, *, relational: bool) -> None:
    """Add a key that the index knows, where the level of the query allows it."""
    below = _PLACES[key.level] > _PLACES[identifier.level]
    within = _WITHIN_STUDY.get(key.keyword)
    of_series = key.tag in _TAGS_OF_SERIES
    if key.tag in _COMPUTED_TAGS or (of_series and identifier.level is Level.STUDY):
        if below and not of_series:
            draft.unsupported.append(key.tag)
            return
        draft.computed.append(key)
        if within is None:
            # Numbers are returned, not matched (PS3.4 Tables C.6-1 to C.6-3).
            if _has_value(identifier.header, key.tag):
                draft.unsupported.append(key.tag)
        elif found := _match(identifier, within, key.tag):
            draft.within[within] = found
        return
    if below:
        draft.unsupported.append(key.tag)
        if not relational:
            return
    else:
        draft.keys.append(key)
    found = _item_match(draft, identifier, key) if key.vr == "SQ" else _match(identifier, key)
    if found:
        draft.matches[key] = found


def _has_value(header: Header, tag: int) -> bool:
    """Tell whether there is a value, or one in an item, that something would have to match."""
    values = [header.values[tag]]
    if dictionary_VR(tag) == "SQ":
        values = [value for item in header.items(tag) for value in item.values.values()]
    return any(value.strip(b" \0") for value in values)


def _match(identifier: Identifier, key: Key, tag: int | None = None) -> tuple[Match, str] | None:
    """Return what is asked of ``key``, whose value stands in ``tag``, and that value."""
    tag = tag or key.tag
    text = identifier.text(tag, key.vr)
    # "*" alone is universal whatever the VR; some send it with every key.
    if not text or text == "*":
        return None
    try:
        match = read_key(key.vr, identifier.split(tag, key.vr, text), multiple=key.multiple)
    except BadKey as error:
        raise mismatch(f"{BY_TAG[tag].keyword} {error}", tag) from None
    return None if match is None else (match, text)


def _item_match(draft: _Draft, identifier: Identifier, key: Key) -> tuple[Match, str] | None:
    """Return what is asked of a sequence's items; what they are asked for goes into the draft."""
    known = [(keyword, tag, vr) for tag, keyword, vr in ITEM_KEYS[key.tag]]
    items = identifier.header.items(key.tag)
    if not items or not items[0].values:
        draft.items[key.tag] = tuple(known)
        return None
    item = items[0]
    draft.items[key.tag] = tuple(entry for entry in known if entry[1] in item.values)
    if set(item.values) - {tag for _, tag, _ in known}:
        draft.unsupported.append(key.tag)
    matches: list[tuple[str, Match]] = []
    values: list[str] = []
    for keyword, tag, vr in draft.items[key.tag]:
        text = identifier.text(tag, vr, item)
        try:
            match = read_key(vr, identifier.split(tag, vr, text))
        except BadKey as error:
            raise mismatch(f"{keyword} {error}", tag) from None
        if match is not None:
            matches.append((keyword, match))
            values.append(text)
    return (Items(tuple(matches)), ", ".join(values)) if matches else None


def _conditions(draft: _Draft, asked: Asked) -> Iterator[tuple[str, str, Condition]]:
    matches = dict(draft.matches)
    for date, time in DATES_AND_TIMES if asked.combined else ():
        if date in matches and time in matches:
            interval = combined(matches[date][0], matches[time][0])
            if interval is not None:
                text = f"{matches.pop(date)[1]} {matches.pop(time)[1]}"
                yield date.keyword, text, combined_condition(date, time, interval)
    for key, (match, text) in matches.items():
        yield key.keyword, text, condition(key, match)
    for key, (match, text) in draft.within.items():
        yield key.keyword, text, condition(key, match, within=Level.STUDY)


def _layout(
    draft: _Draft,
    identifier: Identifier,
    asked: Asked,
    private: Sequence[tuple[int, str, int]],
) -> Layout:
    constants = [
        (QUERY_RETRIEVE_LEVEL, "CS", identifier.level.encode()),
        (RETRIEVE_AE_TITLE, "AE", asked.retrieve_ae_title.encode()),
    ]
    if draft.availability:
        constants.append((INSTANCE_AVAILABILITY, "CS", b"ONLINE"))
    for tag in {tag & 0xFFFF_0000 | (tag & 0xFF00) >> 8 for tag, _, _ in private}:
        constants.append((tag, "LO", _CREATOR))
    said = identifier.header.values.get(SPECIFIC_CHARACTER_SET, b"").strip(b" \0")
    character_set = asked.character_set or said
    return Layout(
        Repertoire(asked.transfer_syntax_uid, character_set, said=bool(character_set)),
        [
            Field(key.tag, key.vr, draft.items.get(key.tag, ()))
            for key in (*draft.keys, *draft.computed)
        ],
        constants,
    )


def _creators(header: Header) -> Iterator[int]:
    """Yield the elements that reserve a private block for us (PS3.5 §7.8.1)."""
    for tag, value in header.values.items():
        if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF and value.strip(b" \0") == _CREATOR:
            yield tag


def _private_elements(identifier: Identifier) -> Iterator[tuple[int, str, int]]:
    """Yield tag, VR and the place of the value of the elements asked for in our private block."""
    if identifier.level is not Level.INSTANCE:
        return
    for creator in _creators(identifier.header):
        block = creator & 0xFFFF_0000 | (creator & 0xFF) << 8
        for element, (place, vr) in _PRIVATE.items():
            if block | element in identifier.header.values:
                yield block | element, vr, place
