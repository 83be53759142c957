"""What a modality performed procedure step must have and may change (PS3.4 Table F.7.2-1).

Type 1 attributes that are missing refuse a request. Type 2 attributes that are left out are added
without a value: many modalities leave some out, and nothing depends on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import dictionary_VR

from dicomnode.dimse.status import Status
from dicomnode.errors import StatusError
from dicomnode.index.moments import Kind, interval
from dicomnode.index.worklist import State
from dicomnode.storage.json_model import Attributes, items_of, key_of, name_of, text_of

MAY_NO_LONGER_BE_UPDATED: Final = 0xA710

_STATUS: Final = "PerformedProcedureStepStatus"
_SCHEDULED: Final = "ScheduledStepAttributesSequence"
_SERIES: Final = "PerformedSeriesSequence"
_REFERENCES: Final = (
    "ReferencedImageSequence",
    "ReferencedNonImageCompositeSOPInstanceSequence",
)

# Type 1 of N-CREATE.
_REQUIRED: Final = (
    _STATUS,
    _SCHEDULED,
    "PerformedProcedureStepID",
    "PerformedStationAETitle",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "Modality",
)
# Type 2 of N-CREATE.
_EXPECTED: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "ReferencedPatientSequence",
    "PerformedStationName",
    "PerformedLocation",
    "PerformedProcedureStepDescription",
    "PerformedProcedureTypeDescription",
    "ProcedureCodeSequence",
    "PerformedProcedureStepEndDate",
    "PerformedProcedureStepEndTime",
    "StudyID",
    "PerformedProtocolCodeSequence",
    _SERIES,
)
_EXPECTED_OF_SCHEDULED: Final = (
    "ReferencedStudySequence",
    "AccessionNumber",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "ScheduledProcedureStepID",
    "ScheduledProcedureStepDescription",
    "ScheduledProtocolCodeSequence",
)
# Protocol Name is of type 1; who has none leaves it out, and the series is told apart by its UID.
_EXPECTED_OF_SERIES: Final = (
    "PerformingPhysicianName",
    "ProtocolName",
    "OperatorsName",
    "SeriesDescription",
    "RetrieveAETitle",
    *_REFERENCES,
)
_REQUIRED_AT_THE_END: Final = (
    "PerformedProcedureStepEndDate",
    "PerformedProcedureStepEndTime",
    _SERIES,
)
_MOMENTS: Final[Mapping[str, Kind]] = {
    "PerformedProcedureStepStartDate": "DA",
    "PerformedProcedureStepStartTime": "TM",
    "PerformedProcedureStepEndDate": "DA",
    "PerformedProcedureStepEndTime": "TM",
}
# What N-SET is not allowed to have.
_CREATED_ONCE: Final = tuple(
    map(
        key_of,
        (
            _SCHEDULED,
            "PatientName",
            "PatientID",
            "IssuerOfPatientID",
            "IssuerOfPatientIDQualifiersSequence",
            "OtherPatientIDsSequence",
            "PatientBirthDate",
            "PatientSex",
            "ReferencedPatientSequence",
            "AdmissionID",
            "IssuerOfAdmissionIDSequence",
            "ServiceEpisodeID",
            "IssuerOfServiceEpisodeIDSequence",
            "ServiceEpisodeDescription",
            "PerformedProcedureStepID",
            "PerformedStationAETitle",
            "PerformedStationName",
            "PerformedLocation",
            "PerformedProcedureStepStartDate",
            "PerformedProcedureStepStartTime",
            "Modality",
            "StudyID",
        ),
    )
)

# Each is looked up within the transaction that all writing waits for.
_MOST_SCHEDULED: Final = 128
_UID: Final = re.compile(r"[0-9.]{1,64}\Z")


class InvalidValue(StatusError):
    """0106H: ``attributes`` are those with invalid values, for the response's Attribute List."""

    status = Status.INVALID_ATTRIBUTE_VALUE

    def __init__(self, comment: str, attributes: Attributes) -> None:
        super().__init__(comment)
        self.attributes = attributes


@dataclass(frozen=True, slots=True)
class Checked:
    """A step as it is to be held.

    ``given`` are the attributes that this request gave it. ``lacking`` names attributes that should
    be there and are not, ``unchanged`` are the tags of those that an N-SET may not change and would
    have changed.
    """

    status: State
    attributes: Attributes
    given: Attributes
    lacking: tuple[str, ...] = ()
    unchanged: tuple[int, ...] = ()


def is_uid(value: str) -> bool:
    """Tell whether a value can be a UID (PS3.5 §9.1)."""
    return _UID.match(value) is not None


def check_creation(attributes: Attributes) -> Checked:
    """Check the attributes of an N-CREATE (PS3.4 §F.7.2.1) and complete them.

    Raises StatusError: 0120H, 0121H, 0106H, 0213H.
    """
    _require(attributes, (_STATUS,))
    _check_status(attributes, (State.IN_PROGRESS,))
    _require(attributes, _REQUIRED)
    scheduled = items_of(attributes, _SCHEDULED)
    if len(scheduled) > _MOST_SCHEDULED:
        comment = f"more than {_MOST_SCHEDULED} scheduled steps in one performed step"
        raise StatusError(comment, status=Status.RESOURCE_LIMITATION)
    _require_uids(scheduled, ("StudyInstanceUID",))
    _check_moments(attributes)
    _check_series(attributes)
    lacking = [*_completed(attributes, _EXPECTED)]
    for item in scheduled:
        lacking += _completed(item, _EXPECTED_OF_SCHEDULED)
    lacking += _completed_series(attributes)
    return Checked(State.IN_PROGRESS, attributes, attributes, tuple(dict.fromkeys(lacking)))


def check_change(held: Attributes, changes: Attributes) -> Checked:
    """Check the attributes of an N-SET (PS3.4 §F.7.2.2) of a step in progress, and apply them.

    Sequences are replaced as a whole. Of what N-SET may not change, the same value again is let
    pass and another is not taken. A step is COMPLETED only with all that the final state requires;
    DISCONTINUED it may be with less: refusing would keep its scheduled step off the worklist.
    Raises StatusError: 0120H, 0121H, 0106H.
    """
    status = State.IN_PROGRESS
    if key_of(_STATUS) in changes:
        _require(changes, (_STATUS,))
        _check_status(changes, (State.IN_PROGRESS, State.COMPLETED, State.DISCONTINUED))
        status = State(text_of(changes, _STATUS))
    _check_moments(changes)
    _check_series(changes)
    for item in items_of(changes, _SCHEDULED):
        _completed(item, _EXPECTED_OF_SCHEDULED)
    lacking = _completed_series(changes)
    unchanged = [key for key in _CREATED_ONCE if key in changes and changes[key] != held.get(key)]
    taken = {key: value for key, value in changes.items() if key not in _CREATED_ONCE}
    attributes = held | taken
    if status is State.COMPLETED:
        _require(attributes, _REQUIRED_AT_THE_END, given=changes)
    elif status is State.DISCONTINUED:
        lacking += [name_of(key_of(each)) for each in _without(attributes, _REQUIRED_AT_THE_END)]
    return Checked(
        status,
        attributes,
        taken,
        tuple(dict.fromkeys(lacking)),
        tuple(int(key, 16) for key in sorted(unchanged)),
    )


def _without(attributes: Attributes, keywords: Iterable[str]) -> list[str]:
    """Return those of the keywords whose attributes have no value or no item."""
    return [each for each in keywords if not _has_value(attributes, each)]


def _has_value(attributes: Attributes, keyword: str) -> bool:
    if dictionary_VR(int(key_of(keyword), 16)) == "SQ":
        return bool(items_of(attributes, keyword))
    return bool(text_of(attributes, keyword))


def _require(
    attributes: Attributes, keywords: Sequence[str], given: Attributes | None = None
) -> None:
    """Raise StatusError unless all have a value; ``given`` is what the peer has sent just now."""
    given = attributes if given is None else given
    empty = [key_of(each) for each in _without(attributes, keywords)]
    missing = [key for key in empty if key not in given]
    if missing:
        raise _lacking(missing, "missing", Status.MISSING_ATTRIBUTE)
    if empty:
        raise _lacking(empty, "without a value", Status.MISSING_ATTRIBUTE_VALUE)


def _lacking(keys: Sequence[str], how: str, status: Status) -> StatusError:
    more = len(keys) - 1
    are = f"and {more} more are" if more else "is"
    return StatusError(
        f"{name_of(keys[0])} {are} {how}",
        status=status,
        identifiers=tuple(int(key, 16) for key in sorted(keys)),
    )


def _check_status(attributes: Attributes, allowed: Sequence[State]) -> None:
    if text_of(attributes, _STATUS) not in allowed:
        raise _invalid(attributes, _STATUS, f"is not {' or '.join(allowed)}")


def _check_moments(attributes: Attributes) -> None:
    for keyword, kind in _MOMENTS.items():
        value = text_of(attributes, keyword)
        if value and not _is_moment(value, kind):
            raise _invalid(attributes, keyword, f"is no {'date' if kind == 'DA' else 'time'}")


def _is_moment(value: str, kind: Kind) -> bool:
    try:
        interval(value, kind)
    except ValueError:
        return False
    # A range is a value of queries only.
    return "-" not in value


def _check_series(attributes: Attributes) -> None:
    """Check what tells series and objects apart."""
    series = items_of(attributes, _SERIES)
    _require_uids(series, ("SeriesInstanceUID",))
    for item in series:
        for sequence in _REFERENCES:
            references = items_of(item, sequence)
            _require_uids(references, ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))


def _require_uids(items: Iterable[Attributes], keywords: Sequence[str]) -> None:
    for item in items:
        _require(item, keywords)
        for keyword in keywords:
            if not is_uid(text_of(item, keyword)):
                raise _invalid(item, keyword, "is no UID")


def _invalid(attributes: Attributes, keyword: str, words: str) -> InvalidValue:
    key = key_of(keyword)
    return InvalidValue(f"{name_of(key)} {words}", {key: attributes[key]})


def _completed_series(attributes: Attributes) -> list[str]:
    lacking: list[str] = []
    for item in items_of(attributes, _SERIES):
        lacking += _completed(item, _EXPECTED_OF_SERIES)
    return lacking


def _completed(attributes: Attributes, keywords: Iterable[str]) -> list[str]:
    """Add the attributes that are not there, without a value; return their names."""
    lacking = [key for key in map(key_of, keywords) if key not in attributes]
    for key in lacking:
        vr = dictionary_VR(int(key, 16))
        attributes[key] = {"vr": vr, "Value": []} if vr == "SQ" else {"vr": vr}
    return [name_of(key) for key in lacking]
