"""What a DICOMDIR says of an object: its directory records (PS3.3 §F.4 and §F.5)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_VR

from dicomnode.errors import CannotUnderstand, UnreadableAttributes
from dicomnode.storage.encoding import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from dicomnode.storage.header import read_elements
from dicomnode.storage.json_model import (
    Attributes,
    decode_attributes,
    items_of,
    key_of,
    text_of,
)
from dicomnode.storage.part10 import FileMeta, read_file_meta

# What stands in for a value that the object lacks and its record must have.
_INVENTED: Final[Mapping[str, str]] = {
    "PatientID": "UNKNOWN",
    "StudyDate": "19000101",
    "StudyTime": "000000",
    "StudyID": "0",
    "Modality": "OT",
    "SeriesNumber": "0",
    "InstanceNumber": "0",
    "ContentDate": "19000101",
    "ContentTime": "000000",
    "PresentationCreationDate": "19000101",
    "PresentationCreationTime": "000000",
    "InstanceCreationDate": "19000101",
    "ContentLabel": "UNKNOWN",
    "StructureSetLabel": "UNKNOWN",
    "RTPlanLabel": "UNKNOWN",
    "DoseSummationType": "PLAN",
    "CompletionFlag": "PARTIAL",
    "VerificationFlag": "UNVERIFIED",
    "MIMETypeOfEncapsulatedDocument": "application/octet-stream",
    "Manufacturer": "UNKNOWN",
    "ImplantName": "UNKNOWN",
    "ImplantPartNumber": "0",
    "ImplantAssemblyTemplateName": "UNKNOWN",
    "ImplantTemplateGroupName": "UNKNOWN",
    "ImplantTemplateGroupIssuer": "UNKNOWN",
    "HangingProtocolCreator": "UNKNOWN",
    "HangingProtocolCreationDateTime": "19000101",
    "NumberOfPriorsReferenced": "0",
}
_CONTENT: Final = "ContentDate ContentTime InstanceNumber"
_LABELLED: Final = f"{_CONTENT} ContentLabel ContentDescription? ContentCreatorName?"
_DOCUMENT: Final = f"{_CONTENT} ConceptNameCodeSequence? ContentSequence?"

# PS3.3 §F.5: the keys of each type of record. "?" marks what need not have a value (type 2), or
# need not be there (type 1C) and then is left out.
_KEYS: Final[Mapping[str, str]] = {
    "PATIENT": "PatientName? PatientID",
    "STUDY": "StudyDate StudyTime StudyDescription? StudyInstanceUID StudyID AccessionNumber?",
    "SERIES": "Modality SeriesInstanceUID SeriesNumber",
    "IMAGE": "InstanceNumber",
    "RT DOSE": "InstanceNumber DoseSummationType",
    "RT STRUCTURE SET": "InstanceNumber StructureSetLabel StructureSetDate? StructureSetTime?",
    "RT PLAN": "InstanceNumber RTPlanLabel RTPlanDate? RTPlanTime?",
    "RT TREAT RECORD": "InstanceNumber TreatmentDate? TreatmentTime?",
    "PRESENTATION": (
        "PresentationCreationDate PresentationCreationTime InstanceNumber ContentLabel"
        " ContentDescription? ContentCreatorName? ReferencedSeriesSequence? BlendingSequence?"
    ),
    "WAVEFORM": _CONTENT,
    "SR DOCUMENT": f"CompletionFlag VerificationFlag VerificationDateTime? {_DOCUMENT}",
    "KEY OBJECT DOC": _DOCUMENT,
    "SPECTROSCOPY": (
        f"ImageType? {_CONTENT} ReferencedImageEvidenceSequence? NumberOfFrames? Rows? Columns?"
        " DataPointRows? DataPointColumns?"
    ),
    "RAW DATA": _CONTENT,
    "REGISTRATION": _LABELLED,
    "FIDUCIAL": _LABELLED,
    "VALUE MAP": _LABELLED,
    "MEASUREMENT": _LABELLED,
    "SURFACE": _LABELLED,
    "TRACT": _LABELLED,
    "ENCAP DOC": (
        "ContentDate? ContentTime? InstanceNumber DocumentTitle? HL7InstanceIdentifier?"
        " ConceptNameCodeSequence? MIMETypeOfEncapsulatedDocument"
    ),
    "STEREOMETRIC": "",
    "PLAN": "",
    "SURFACE SCAN": "ContentDate ContentTime",
    "ASSESSMENT": "InstanceNumber InstanceCreationDate InstanceCreationTime?",
    "RADIOTHERAPY": (
        "InstanceNumber UserContentLabel? UserContentLongLabel? ContentDescription?"
        " ContentCreatorName?"
    ),
    "ANNOTATION": _LABELLED,
    "HANGING PROTOCOL": (
        "HangingProtocolCreator HangingProtocolCreationDateTime NumberOfPriorsReferenced"
        " HangingProtocolDefinitionSequence? HangingProtocolUserIdentificationCodeSequence?"
    ),
    "PALETTE": "ContentLabel ContentDescription?",
    "IMPLANT": "Manufacturer ImplantName ImplantSize? ImplantPartNumber",
    "IMPLANT ASSY": "ImplantAssemblyTemplateName Manufacturer ProcedureTypeCodeSequence?",
    "IMPLANT GROUP": "ImplantTemplateGroupName ImplantTemplateGroupIssuer",
    "PRIVATE": "",
}
# Of no patient: they stand at the top (PS3.3 Table F.4-1).
_OF_NO_PATIENT: Final = frozenset(
    ("HANGING PROTOCOL", "PALETTE", "IMPLANT", "IMPLANT ASSY", "IMPLANT GROUP")
)
# Only these may be left out; other keys without a value are there, and empty.
_CONDITIONAL: Final = frozenset(
    (
        *("ReferencedSeriesSequence", "BlendingSequence", "VerificationDateTime"),
        *("ReferencedImageEvidenceSequence", "HL7InstanceIdentifier", "UserContentLabel"),
        *("UserContentLongLabel", "ImplantSize", "ContentSequence"),
        *("NumberOfFrames", "Rows", "Columns", "DataPointRows", "DataPointColumns"),
    )
)
_IDENTITY: Final = ("SOPClassUID", "SOPInstanceUID", "IssuerOfPatientID")


@dataclass(frozen=True, slots=True)
class Described:
    """An object's records: attributes by type of record, from the patient's down to its own.

    ``patient`` tells one patient from the others. ``invented`` names attributes whose values
    stand in for missing ones.
    """

    records: tuple[tuple[str, Attributes], ...]
    patient: tuple[str, str, str]
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    invented: tuple[str, ...]


def describe(fd: int) -> Described:
    """Read from an open Part 10 file what a DICOMDIR says of it.

    Raises CannotUnderstand for what is no such file. What cannot be read of the data set counts as
    missing: the file stands in the directory all the same.
    """
    meta = read_file_meta(fd)
    attributes = _read(fd, meta)
    sop_class_uid = text_of(attributes, "SOPClassUID") or meta.sop_class_uid
    invented: list[str] = []
    own = _record_type(sop_class_uid, attributes)
    types = [own] if own in _OF_NO_PATIENT else ["PATIENT", "STUDY", "SERIES", own]
    records = tuple((each, _record(each, attributes, invented)) for each in types)
    return Described(
        records=records,
        patient=(
            text_of(attributes, "PatientID"),
            text_of(attributes, "IssuerOfPatientID"),
            text_of(attributes, "PatientName"),
        ),
        study_instance_uid=text_of(attributes, "StudyInstanceUID"),
        series_instance_uid=text_of(attributes, "SeriesInstanceUID"),
        sop_class_uid=sop_class_uid,
        sop_instance_uid=text_of(attributes, "SOPInstanceUID") or meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        invented=tuple(invented),
    )


def _read(fd: int, meta: FileMeta) -> Attributes:
    size = os.fstat(fd).st_size - meta.data_set_offset
    tags = _tags()
    syntax = meta.transfer_syntax_uid
    try:
        data, explicit, little_endian = read_elements(
            fd, meta.data_set_offset, size, syntax, tags, max(tags)
        )
        if not little_endian:
            read_as = EXPLICIT_VR_BIG_ENDIAN
        else:
            read_as = EXPLICIT_VR_LITTLE_ENDIAN if explicit else IMPLICIT_VR_LITTLE_ENDIAN
        return decode_attributes(data, read_as)
    except (CannotUnderstand, UnreadableAttributes):
        return {}


@cache
def _tags() -> frozenset[int]:
    """Return the tags of all that records can have, and of what tells how to read it."""
    names = {name.rstrip("?") for keys in _KEYS.values() for name in keys.split()}
    return frozenset(int(key_of(name), 16) for name in names.union(_IDENTITY)) | {0x0008_0005}


def _record(record_type: str, attributes: Attributes, invented: list[str]) -> Attributes:
    record: Attributes = {}
    for word in _KEYS[record_type].split():
        name = word.removesuffix("?")
        key = key_of(name)
        held = attributes.get(key)
        if name == "ContentSequence":
            held = _modifiers(attributes)
        if held and held.get("vr") not in dictionary_VR(int(key, 16)).split(" or "):
            held = None  # a directory with another VR than that of PS3.6 would be no directory
        if held and (held.get("Value") or held.get("InlineBinary")):
            record[key] = held
        elif name == word:
            vr = dictionary_VR(int(key, 16))
            value = _INVENTED.get(name)
            if value is not None:
                invented.append(name)
                record[key] = {"vr": vr, "Value": [int(value) if vr == "US" else value]}
        elif name not in _CONDITIONAL:
            record[key] = {"vr": dictionary_VR(int(key, 16))}
    return record


def _modifiers(attributes: Attributes) -> dict[str, Any] | None:
    """Return of a document's content what modifies its title (PS3.3 §F.5.23)."""
    items: Sequence[Attributes] = [
        item
        for item in items_of(attributes, "ContentSequence")
        if text_of(item, "RelationshipType") == "HAS CONCEPT MOD"
    ]
    return {"vr": "SQ", "Value": items} if items else None


def _record_type(sop_class_uid: str, attributes: Attributes) -> str:
    if sop_class_uid in _type_of():
        return _type_of()[sop_class_uid]
    if text_of(attributes, "Rows") and text_of(attributes, "Columns"):
        return "IMAGE"
    return "PRIVATE"


@cache
def _type_of() -> Mapping[str, str]:
    """Return the type of record of each SOP class of the standard that has one (PS3.3 §F.5)."""
    found = {
        _ROOT + suffix: record_type
        for record_type, classes in _CLASSES.items()
        for suffix in classes.split()
    }
    for uid, (name, kind, *_) in UID_dictionary.items():
        if kind == "SOP Class" and uid.startswith(_ROOT) and uid not in found:
            for words, record_type in _NAMED:
                if words in name:
                    found[uid] = record_type
                    break
    return found


_ROOT: Final = "1.2.840.10008.5.1.4."
_CLASSES: Final[Mapping[str, str]] = {
    "RT DOSE": "1.1.481.2",
    "RT STRUCTURE SET": "1.1.481.3",
    "RT PLAN": "1.1.481.5 1.1.481.8",
    "RT TREAT RECORD": "1.1.481.4 1.1.481.6 1.1.481.7 1.1.481.9",
    "RADIOTHERAPY": " ".join(f"1.1.481.{number}" for number in range(10, 26)),
    "PLAN": "34.7 34.10",
    "SPECTROSCOPY": "1.1.4.2",
    "RAW DATA": "1.1.66",
    "REGISTRATION": "1.1.66.1 1.1.66.3",
    "FIDUCIAL": "1.1.66.2",
    "SURFACE": "1.1.66.5",
    "TRACT": "1.1.66.6",
    "VALUE MAP": "1.1.67",
    "SURFACE SCAN": "1.1.68.1 1.1.68.2",
    "STEREOMETRIC": "1.1.77.1.5.3",
    "KEY OBJECT DOC": "1.1.88.59",
    "ASSESSMENT": "1.1.90.1",
    "ANNOTATION": "1.1.91.1",
    "PRESENTATION": "1.1.131",
    "HANGING PROTOCOL": "38.1",
    "PALETTE": "39.1",
    "IMPLANT": "43.1",
    "IMPLANT ASSY": "44.1",
    "IMPLANT GROUP": "45.1",
}
# By what is in the name, for families of SOP classes.
_NAMED: Final = (
    ("Presentation State Storage", "PRESENTATION"),
    ("Waveform Storage", "WAVEFORM"),
    (" SR Storage", "SR DOCUMENT"),
    ("Procedure Log Storage", "SR DOCUMENT"),
    ("Report Storage", "SR DOCUMENT"),
    ("Encapsulated ", "ENCAP DOC"),
    ("Measurements Storage", "MEASUREMENT"),
    ("Image Storage", "IMAGE"),
)
