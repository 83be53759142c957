"""What a query of the worklist asks for: keys to match, attributes to return (PS3.4 §K.2.2, §K.6).

Every attribute of the worklist's entities can be matched, required keys and optional ones alike,
as deep as sequences go. Other attributes are returned if items have them, but not matched: no item
would be found by what its modality has set of its own. Those that query and retrieval alone have
are not supported; time zone and character set of a request are about the identifier itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag

from dicomnode.errors import StatusError, UnreadableAttributes
from dicomnode.index.matching import BadKey, Empty, Match, Moments, Texts, combined, read_key
from dicomnode.index.moments import Interval
from dicomnode.index.worklist import Narrowed, State
from dicomnode.services.identifier import (
    SPECIFIC_CHARACTER_SET,
    Bounds,
    checked_text,
    mismatch,
    split_values,
)
from dicomnode.storage.header import read_identifier
from dicomnode.storage.json_model import (
    INTEGER_VRS,
    STRING_VRS,
    Attributes,
    decode_attributes,
    items_of,
    key_of,
    name_of,
    text_of,
)
from dicomnode.storage.text import is_known_character_set

SCHEDULED_PROCEDURE_STEP_SEQUENCE: Final = 0x0040_0100
_STEP: Final = key_of(SCHEDULED_PROCEDURE_STEP_SEQUENCE)
START_DATE: Final = key_of("ScheduledProcedureStepStartDate")
START_TIME: Final = key_of("ScheduledProcedureStepStartTime")
STATION_AE_TITLE: Final = key_of("ScheduledStationAETitle")

_TIMEZONE_OFFSET_FROM_UTC: Final = 0x0008_0201
# Of Query/Retrieve alone; some modalities send them here too.
_NOT_OF_THE_WORKLIST: Final = frozenset((0x0008_0052, 0x0008_0054, 0x0008_0056))
# Patient, Imaging Service Request and Requested Procedure, Visit, Scheduled Procedure Step; and
# what of them stands in other groups (PS3.4 Table K.6-1, PS3.3 §C.2 to C.4).
_GROUPS: Final = frozenset((0x0010, 0x0032, 0x0038, 0x0040))
_IN_OTHER_GROUPS: Final = frozenset(
    key_of(keyword)
    for keyword in (
        "AccessionNumber",
        "AdmittingDiagnosesCodeSequence",
        "AdmittingDiagnosesDescription",
        "InstitutionAddress",
        "InstitutionCodeSequence",
        "InstitutionName",
        "IssuerOfAccessionNumberSequence",
        "ReferencedPatientSequence",
        "ReferencedStudySequence",
        "ReferringPhysicianIdentificationSequence",
        "ReferringPhysicianName",
        "StudyInstanceUID",
    )
)
# Each is looked at for every item, or stands in every answer.
_MAX_MATCHED: Final = 64
_MAX_KEYS: Final = 2048
_MAX_NARROWING_VALUES: Final = 500
# Of tags that are not supported, as many are told to logs.
_MAX_TOLD: Final = 64
# Binary numbers are not matched.
_MATCHED_VRS: Final = STRING_VRS | {"AT"}
# Columns of the index, by the key that they hold.
_COLUMNS: Final = {
    key_of("StudyInstanceUID"): "study_instance_uid",
    key_of("AccessionNumber"): "accession_number",
    key_of("RequestedProcedureID"): "requested_procedure_id",
    key_of("PatientID"): "patient_id",
    key_of("PatientName"): "patient_name",
}
_COLUMNS_OF_STEP: Final = {
    key_of("ScheduledProcedureStepID"): "step_id",
    key_of("Modality"): "modality",
    key_of("ScheduledPerformingPhysicianName"): "performing_physician_name",
}


@dataclass(frozen=True, slots=True)
class Key:
    """An attribute that is asked for; ``key`` is its tag as in the JSON model.

    ``match`` is None for universal matching, ``asked`` the value that is matched with. Of a
    sequence ``keys`` are those of its items; none at all asks for the items as they are.
    """

    key: str
    vr: str
    match: Match | None = None
    asked: str = ""
    keys: tuple[Key, ...] = ()
    is_matched: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A query of the worklist, worked out.

    ``moment`` is the range of start date and time taken together, where they are. ``matched`` are
    the keywords that are matched on, ``unsupported`` tags that are not, or not answered.
    ``is_decided`` tells that ``narrowed`` says all that is to be matched.
    """

    keys: tuple[Key, ...]
    moment: Moment | None
    narrowed: Narrowed
    is_decided: bool
    matched: tuple[str, ...]
    unsupported: tuple[int, ...]
    character_set: bytes


@dataclass(frozen=True, slots=True)
class Moment:
    """A range of Scheduled Procedure Step Start Date and Time, taken together (Table K.6-1)."""

    interval: Interval
    asked: str


@dataclass(frozen=True, slots=True)
class Asked:
    """How a query is to be understood, besides what its identifier says."""

    transfer_syntax_uid: str
    called_ae_title: str
    states: tuple[State, ...]


@dataclass(slots=True)
class _Draft:
    max_values: int
    number: int = 0
    unsupported: list[int] = field(default_factory=list)


def make_plan(data: bytes, asked: Asked, bounds: Bounds) -> Plan:
    """Work out what an identifier asks for.

    Raises StatusError: C000H for what is no data set, A900H for what has no meaning here.
    """
    said, attributes = _read(data, asked.transfer_syntax_uid, bounds)
    draft = _Draft(bounds.max_list_values)
    keys = tuple(_unmatched(draft, key) for key in _keys(draft, attributes))
    if not keys:
        raise mismatch("the identifier asks for nothing")
    matched = tuple(keyword_for_tag(int(key, 16)) or name_of(key) for key in _matched(keys))
    if len(matched) > _MAX_MATCHED:
        raise mismatch(f"more than {_MAX_MATCHED} keys to match")
    step = next((key.keys for key in keys if key.key == _STEP), ())
    moment, found = _moment(step), _narrowing(keys, step)
    return Plan(
        tuple(_without_moment(key) if moment and key.key == _STEP else key for key in keys),
        moment,
        Narrowed(
            asked.called_ae_title,
            asked.states,
            found.columns,
            found.stations,
            found.dates,
            found.sieves,
        ),
        found.decided == len(matched),
        matched,
        tuple(draft.unsupported[:_MAX_TOLD]),
        said,
    )


def _read(data: bytes, transfer_syntax_uid: str, bounds: Bounds) -> tuple[bytes, Attributes]:
    """Return the Specific Character Set of an identifier, and its attributes."""
    header = read_identifier(data, transfer_syntax_uid, bounds.max_identifier_bytes)
    said = header.values.get(SPECIFIC_CHARACTER_SET, b"").strip(b" \0")
    if not is_known_character_set(said):
        raise mismatch("Specific Character Set is not known", SPECIFIC_CHARACTER_SET)
    try:
        return said, decode_attributes(data, transfer_syntax_uid)
    except UnreadableAttributes as error:
        raise StatusError(str(error)[:64], status=0xC000) from None


def _keys(draft: _Draft, attributes: Attributes) -> Iterator[Key]:
    """Yield what a data set, or an item, asks for, in the order of tags."""
    for key in sorted(attributes):
        tag, vr = int(key, 16), attributes[key]["vr"]
        draft.number += 1
        if draft.number > _MAX_KEYS:
            raise mismatch(f"more than {_MAX_KEYS} keys")
        if tag == _TIMEZONE_OFFSET_FROM_UTC:
            continue
        if tag in _NOT_OF_THE_WORKLIST:
            draft.unsupported.append(tag)
            continue
        if dictionary_has_tag(tag):
            vr = dictionary_VR(tag).partition(" or ")[0]
        yield _sequence(draft, attributes, key) if vr == "SQ" else _key(draft, attributes, key, vr)


def _unmatched(draft: _Draft, key: Key) -> Key:
    """Return ``key`` as one that is only returned, where no entity of the worklist has it."""
    tag = int(key.key, 16)
    if not key.is_matched or tag >> 16 in _GROUPS or key.key in _IN_OTHER_GROUPS:
        return key
    draft.unsupported.append(tag)
    return _only_returned(key)


def _only_returned(key: Key) -> Key:
    keys = tuple(map(_only_returned, key.keys))
    return replace(key, match=None, keys=keys, is_matched=False)


def _matched(keys: tuple[Key, ...]) -> Iterator[str]:
    """Yield the keys that are matched on, of items too."""
    for key in keys:
        if key.match is not None:
            yield key.key
        yield from _matched(key.keys)


def _sequence(draft: _Draft, attributes: Attributes, key: str) -> Key:
    items = items_of(attributes, int(key, 16))
    if len(items) > 1:
        # PS3.4 §C.2.2.2.6
        raise mismatch(f"{name_of(key)} has more than one item"[:64], int(key, 16))
    keys = tuple(_keys(draft, items[0])) if items else ()
    return Key(key, "SQ", keys=keys, is_matched=any(each.is_matched for each in keys))


def _key(draft: _Draft, attributes: Attributes, key: str, vr: str) -> Key:
    tag = int(key, 16)
    text = checked_text(text_of(attributes, tag), tag)
    # "*" alone is universal whatever the VR; some send it with every key. Of a binary number 0 is
    # sent where there is no value.
    if text in ("", "*") or (vr in INTEGER_VRS and text == "0"):
        if "InlineBinary" in attributes[key]:
            draft.unsupported.append(tag)
        return Key(key, vr)
    if vr not in _MATCHED_VRS:
        draft.unsupported.append(tag)
        return Key(key, vr)
    values = split_values(text, tag, vr, draft.max_values)
    multiple = not dictionary_has_tag(tag) or dictionary_VM(tag) != "1"
    try:
        match = read_key(vr, values, multiple=multiple)
    except BadKey as error:
        raise mismatch(f"{keyword_for_tag(tag)} {error}"[:64], tag) from None
    if match is None:
        return Key(key, vr)
    return Key(key, vr, match, text, is_matched=True)


def _moment(step: tuple[Key, ...]) -> Moment | None:
    """Return the range of date and time together, where both keys are ranges (Table K.6-1)."""
    found = {key.key: key for key in step if key.key in (START_DATE, START_TIME)}
    if len(found) < 2 or not all("-" in key.asked for key in found.values()):
        return None
    date, time = found[START_DATE], found[START_TIME]
    interval = combined(date.match, time.match)
    return Moment(interval, f"{date.asked} {time.asked}") if interval is not None else None


def _without_moment(step: Key) -> Key:
    """Return the step's keys, its date and time only returned: they are matched together."""
    keys = tuple(
        _only_returned(key) if key.key in (START_DATE, START_TIME) else key for key in step.keys
    )
    return replace(step, keys=keys, is_matched=any(key.is_matched for key in keys))


@dataclass(slots=True)
class _Narrowing:
    """What SQL can say of the keys, and how many of them it says all of."""

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sieves: dict[str, Match] = field(default_factory=dict)
    stations: tuple[str, ...] = ()
    dates: tuple[str, str] | None = None
    decided: int = 0

    def take(self, key: Key, columns: Mapping[str, str]) -> None:
        """Take what a key's match says of one of ``columns``."""
        if key.match is None or key.key not in columns:
            return
        self.decided += 1
        if values := _values(key.match):
            self.columns[columns[key.key]] = values
        else:
            self.sieves[columns[key.key]] = key.match

    def take_step(self, key: Key) -> None:
        """Take what the match of a step's key says of station or date."""
        match key.match:
            case Texts() if key.key == STATION_AE_TITLE:
                self.stations = _values(key.match)
                self.decided += bool(self.stations)
            case Moments(intervals=intervals) if key.key == START_DATE:
                first = min(interval.first for interval in intervals)
                self.dates = first, max(interval.last for interval in intervals)
                self.decided += len(intervals) == 1


def _narrowing(keys: tuple[Key, ...], step: tuple[Key, ...]) -> _Narrowing:
    narrowing = _Narrowing()
    for key in keys:
        narrowing.take(key, _COLUMNS)
    for key in step:
        narrowing.take(key, _COLUMNS_OF_STEP)
        narrowing.take_step(key)
    return narrowing


def _values(match: Match | None) -> tuple[str, ...]:
    """Return the values of which a stored one must be one, () where that cannot be said."""
    match match:
        case Texts(values=values, patterns=()) if len(values) <= _MAX_NARROWING_VALUES:
            return tuple(sorted(values))
        case Empty():
            return ("",)
        case _:
            return ()
