"""Makes worklist items of what a RIS says: checked, and completed (PS3.4 Table K.6-1).

What a modality needs and only the RIS knows must be there; identifiers that are missing are made
from what is there, so that they are the same whenever it is taken in again.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Final

from dicomnode.errors import DicomnodeError, UnreadableAttributes
from dicomnode.index.worklist import NewItem
from dicomnode.storage.json_checks import check_attributes
from dicomnode.storage.json_model import (
    Attributes,
    items_of,
    key_of,
    name_of,
    text_of,
)

MAX_BYTES: Final = 1024 * 1024
"""No item is written longer than this, in a file or over HTTP."""

MAX_STEPS: Final = 100
"""No source has more scheduled procedure steps."""

_SEQUENCE: Final = "ScheduledProcedureStepSequence"
_REQUIRED: Final = ("PatientName", "PatientID")
_REQUIRED_OF_STEP: Final = (
    "ScheduledStationAETitle",
    "ScheduledProcedureStepStartDate",
    "ScheduledProcedureStepStartTime",
    "Modality",
)
# Searches and identifiers rest on these, wherever an item comes from.
_CHECKED: Final = (*_REQUIRED, "StudyInstanceUID", "AccessionNumber", "RequestedProcedureID")
_CHECKED_OF_STEP: Final = (*_REQUIRED_OF_STEP, "ScheduledProcedureStepID")
# Return keys of type 2 (PS3.4 Table K.6-1): there, even when they have no value.
_EMPTY_OF_STEP: Final[Mapping[str, str]] = {
    "ScheduledPerformingPhysicianName": "PN",
    "ScheduledStationName": "SH",
    "ScheduledProcedureStepLocation": "SH",
}
_EMPTY: Final[Mapping[str, str]] = {
    "AccessionNumber": "SH",
    "ReferringPhysicianName": "PN",
    "ReferencedStudySequence": "SQ",
    "ReferencedPatientSequence": "SQ",
    "PatientBirthDate": "DA",
    "PatientSex": "CS",
    "PatientWeight": "DS",
    "MedicalAlerts": "LO",
    "Allergies": "LO",
    "PregnancyStatus": "US",
    "RequestingPhysician": "PN",
    "AdmissionID": "LO",
    "SpecialNeeds": "LO",
    "CurrentPatientLocation": "LO",
    "PatientState": "LO",
    "RequestedProcedurePriority": "SH",
    "PatientTransportArrangements": "LO",
    "ConfidentialityConstraintOnPatientDataDescription": "LO",
}
# For identifiers that are made; any fixed UUID would do.
_NAMESPACE: Final = uuid.UUID("6f1f6e0c-7b0a-5d5c-9a53-2d2f4f3b8f11")


class Unfit(StrEnum):
    """Why an item is left out; a label of the metrics."""

    UNREADABLE = "unreadable"
    INCOMPLETE = "incomplete"
    INVALID = "invalid"
    DUPLICATE = "duplicate"
    TOO_LONG = "too long"
    MISPLACED = "misplaced"


class UnfitItem(DicomnodeError):
    """An item cannot be served; the message is a sentence without patient data."""

    def __init__(self, reason: Unfit, words: str) -> None:
        super().__init__(words)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Source:
    """Where items come from; the fields are those of ``NewItem``.

    The values of optional attributes are checked too when ``strict``. Files are written for other
    servers as well, and those hand them out as they are.
    """

    key: str
    origin: str
    fingerprint: str = ""
    called_ae_title: str = ""
    strict: bool = True


def new_items(data_sets: Sequence[Attributes], source: Source) -> list[NewItem]:
    """Return an item for each scheduled procedure step; raises UnfitItem.

    The first has the key of the source, further ones the same with ``#2`` and so on.
    """
    found = [each for data_set in data_sets for each in _single_steps(data_set)]
    if len(found) > MAX_STEPS:
        raise UnfitItem(Unfit.TOO_LONG, f"has more than {MAX_STEPS} scheduled procedure steps")
    items = []
    for number, attributes in enumerate(found, start=1):
        key = source.key if number == 1 else f"{source.key}#{number}"
        _check(attributes, strict=source.strict)
        items.append(
            NewItem(
                key=key,
                origin=source.origin,
                fingerprint=source.fingerprint,
                called_ae_title=source.called_ae_title,
                attributes=_completed(attributes, source.key, key),
            )
        )
    return items


def data_sets_of(value: Any) -> list[Attributes]:
    """Return the data sets of JSON: one object, or an array of them. Raises UnfitItem."""
    values = value if isinstance(value, list) else [value]
    if len(values) > MAX_STEPS:
        raise UnfitItem(Unfit.TOO_LONG, f"has more than {MAX_STEPS} data sets")
    if not values:
        raise UnfitItem(Unfit.UNREADABLE, "has no data set")
    try:
        return [check_attributes(each) for each in values]
    except UnreadableAttributes as error:
        raise UnfitItem(Unfit.UNREADABLE, str(error)) from None


def _single_steps(attributes: Attributes) -> Iterator[Attributes]:
    """Yield the data set once for each of its scheduled procedure steps."""
    steps = items_of(attributes, _SEQUENCE)
    if not steps:
        raise UnfitItem(Unfit.INCOMPLETE, f"{name_of(key_of(_SEQUENCE))} is missing or empty")
    for step in steps:
        yield attributes | {key_of(_SEQUENCE): {"vr": "SQ", "Value": [step]}}


# -- checking --------------------------------------------------------------------------------------


def _check(attributes: Attributes, *, strict: bool) -> None:
    (step,) = items_of(attributes, _SEQUENCE)
    for held, required in ((attributes, _REQUIRED), (step, _REQUIRED_OF_STEP)):
        for keyword in required:
            if not text_of(held, keyword).strip(" \\^="):
                key = key_of(keyword)
                raise UnfitItem(Unfit.INCOMPLETE, f"{name_of(key)} {_tag(key)} is missing or empty")
    for held, checked in ((attributes, _CHECKED), (step, _CHECKED_OF_STEP)):
        for keyword in checked:
            _check_form(held, keyword)
    if strict:
        _check_all(attributes)


def _check_form(attributes: Attributes, keyword: str) -> None:
    """Check an attribute that the node itself works with: its VR, one value, and that value."""
    key = key_of(keyword)
    held = attributes.get(key)
    if held is None:
        return
    vr = _VRS[keyword]
    if held["vr"] != vr:
        raise UnfitItem(
            Unfit.INVALID, f"{name_of(key)} {_tag(key)} has VR {held['vr']} and must have {vr}"
        )
    if keyword != "ScheduledStationAETitle" and len(held.get("Value", ())) > 1:
        raise UnfitItem(Unfit.INVALID, f"{name_of(key)} {_tag(key)} must have one value")
    _check_values(key, held)


def _check_all(attributes: Attributes) -> None:
    for key, attribute in attributes.items():
        if attribute["vr"] == "SQ":
            for item in attribute.get("Value", ()):
                _check_all(item)
        else:
            _check_values(key, attribute)


def _check_values(key: str, attribute: Mapping[str, Any]) -> None:
    if (rule := _FORMS.get(attribute["vr"])) is None:
        return
    is_valid, words = rule
    for value in attribute.get("Value", ()):
        if value is not None and not is_valid(value):
            raise UnfitItem(Unfit.INVALID, f"{name_of(key)} {_tag(key)} must be {words}")


def _tag(key: str) -> str:
    return f"({key[:4]},{key[4:]})"


_DATE: Final = re.compile(r"(\d{4})(\d\d)(\d\d)\Z", re.ASCII)
_TIME: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?\Z", re.ASCII)
_DATE_TIME: Final = re.compile(r"\d{4,14}(\.\d{1,6})?([+-]\d{4})?\Z", re.ASCII)
_UID: Final = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+\Z", re.ASCII)


def _is_date(value: str) -> bool:
    if (found := _DATE.match(value)) is None:
        return False
    try:
        date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return False
    return True


def is_ae_title(value: str) -> bool:
    """Tell whether a value is an AE title (PS3.5 §6.2)."""
    return (
        1 <= len(value.strip(" ")) <= 16
        and len(value) <= 16
        and all(" " <= character <= "~" and character != "\\" for character in value)
    )


# What PS3.5 Table 6.2-1 says of a value, and the words for it.
_FORMS: Final[Mapping[str, tuple[Callable[[str], bool], str]]] = {
    "AE": (is_ae_title, "an AE title of 1 to 16 characters"),
    "CS": (
        lambda value: re.fullmatch(r"[A-Z0-9 _]{1,16}", value) is not None,
        "1 to 16 capital letters, digits, spaces or underscores",
    ),
    "DA": (_is_date, "a date such as 20261121"),
    "DT": (
        lambda value: len(value) <= 26 and _DATE_TIME.match(value) is not None,
        "a date and time such as 20261121093000",
    ),
    "LO": (lambda value: len(value) <= 64, "64 characters or fewer"),
    "SH": (lambda value: len(value) <= 16, "16 characters or fewer"),
    "TM": (lambda value: _TIME.match(value) is not None, "a time such as 093000"),
    "UI": (lambda value: len(value) <= 64 and _UID.match(value) is not None, "a UID"),
}
_VRS: Final[Mapping[str, str]] = {
    "PatientName": "PN",
    "PatientID": "LO",
    "StudyInstanceUID": "UI",
    "AccessionNumber": "SH",
    "RequestedProcedureID": "SH",
    "ScheduledStationAETitle": "AE",
    "ScheduledProcedureStepStartDate": "DA",
    "ScheduledProcedureStepStartTime": "TM",
    "Modality": "CS",
    "ScheduledProcedureStepID": "SH",
}


# -- completing ------------------------------------------------------------------------------------


def _completed(attributes: Attributes, source_key: str, key: str) -> Attributes:
    """Return the attributes with identifiers made where missing, and empty keys of type 2.

    Steps of one requested procedure get the same Study Instance UID, whatever they come in; those
    of one source are of one procedure unless it says otherwise.
    """
    (step,) = items_of(attributes, _SEQUENCE)
    whole, single = dict(attributes), dict(step)
    patient = text_of(whole, "PatientID"), text_of(whole, "IssuerOfPatientID")
    accession = text_of(whole, "AccessionNumber")
    made = _short("R", source_key, *patient)
    procedure = text_of(whole, "RequestedProcedureID") or accession or made
    study = text_of(whole, "StudyInstanceUID") or _uid(accession, procedure, *patient)
    step_id = text_of(single, "ScheduledProcedureStepID") or _short("S", key, study)
    _set(whole, "RequestedProcedureID", procedure)
    _set(whole, "StudyInstanceUID", study)
    _set(single, "ScheduledProcedureStepID", step_id)
    for held, absent in ((whole, _EMPTY), (single, _EMPTY_OF_STEP)):
        for keyword, vr in absent.items():
            held.setdefault(key_of(keyword), {"vr": vr})
    whole[key_of(_SEQUENCE)] = {"vr": "SQ", "Value": [single]}
    return whole


def _set(attributes: Attributes, keyword: str, value: str) -> None:
    attributes[key_of(keyword)] = {"vr": _VRS[keyword], "Value": [value]}


def _uid(*parts: str) -> str:
    """Return the UID of a UUID (PS3.5 §B.2), always the same for the same parts."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(parts)).int}"


def _short(prefix: str, *parts: str) -> str:
    """Return an identifier of 16 characters, always the same for the same parts."""
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return prefix + digest[:15].upper()
