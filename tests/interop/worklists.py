"""A day's worklist, as files of DCMTK's layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

MODALITY_WORKLIST = "1.2.840.10008.5.1.4.31"
TITLE = "DICOMNODE"

# Name, Patient ID, birth date, sex, accession number, procedure ID and its priority; then of the
# step: ID, modality, stations, date, time, physician, description, location.
_TABLE = r"""
ADAMS^JOHN^QUINCY|P100|17670711|M|A100|R100|HIGH|S100|CT|CT_1|20261121|0800|HOUSE^G|HEAD|ROOM 1
ADAMS^ABBY|P101|17441122|F|A101|R101|ROUTINE|S101|CT|CT_1\CT_2|20261121|0930|HOUSE^G|THORAX|ROOM 1
BACH^JOHANN|P102|16850331|M|A102|R102|ROUTINE|S102|MR|MR_1|20261121|1015|GREY^M|KNEE LEFT|ROOM 2
BACH^ANNA|P103|17010922|F|A103|R103|STAT|S103|MR|MR_1|20261122|0845|GREY^M|SPINE|ROOM 2
CURIE^MARIE|P104|18671107|F|A104|R104|ROUTINE|S104|CR|CR_1|20261122|1200||THORAX|
CURIE^PIERRE|P105|18590515|M|A105|R105||S105|CR|CR_1|20261123|1600|WHO^DOCTOR|HAND|ROOM 3
DARWIN|P106|18090212|M||R106|LOW|S106|US|US_1|20261120|235959|WHO^DOCTOR|ABDOMEN|ROOM 4
EINSTEIN^ALBERT|P107|18790314|O|A107|R107|ROUTINE|S107|CT|CT_2|20261124|0000|HOUSE^G|HEAD|ROOM 1
"""


def items() -> Iterator[tuple[str, Dataset]]:
    """Yield the name and the data set of each item."""
    for line in _TABLE.strip().splitlines():
        values = [value.strip() for value in line.split("|")]
        yield values[4] or values[1], _item(values)
    yield "umlaut", _named("ISO_IR 100", "MÜLLER^JÖRG", "P108")
    yield "kanji", _named("ISO_IR 192", "YAMADA^TARO=山田^太郎=やまだ^たろう", "P109")
    yield "codes", _coded()


def _item(values: list[str]) -> Dataset:
    ds, step = Dataset(), Dataset()
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = values[:4]
    ds.AccessionNumber, ds.RequestedProcedureID, ds.RequestedProcedurePriority = values[4:7]
    ds.StudyInstanceUID = f"1.2.826.0.1.3680043.9.3811.{values[1][1:]}"
    ds.RequestedProcedureDescription = f"EXAM {values[7]}"
    ds.RequestingPhysician = "PRIMARY^CARE"
    ds.ReferringPhysicianName = ""
    ds.MedicalAlerts = ["ALLERGY", "PACEMAKER"] if values[1] == "P100" else ""
    ds.PatientWeight = "71.5" if values[1] == "P101" else ""
    ds.PregnancyStatus = 4 if values[3] == "F" else None
    step.ScheduledProcedureStepID, step.Modality, stations = values[7:10]
    step.ScheduledStationAETitle = stations.split("\\")
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = values[10:12]
    step.ScheduledPerformingPhysicianName, step.ScheduledProcedureStepDescription = values[12:14]
    step.ScheduledProcedureStepLocation = values[14]
    step.ScheduledStationName = f"{step.Modality} ROOM"
    step.CommentsOnTheScheduledProcedureStep = "fasting\r\nsince \\ midnight"
    ds.ScheduledProcedureStepSequence = [step]
    return ds


def _named(character_set: str, name: str, patient_id: str) -> Dataset:
    values = [name, patient_id, "19700101", "O", f"A{patient_id[1:]}", f"R{patient_id[1:]}", "LOW"]
    ds = _item([*values, f"S{patient_id[1:]}", "NM", "NM_1", "20261121", "140000", "", "BONES", ""])
    ds.SpecificCharacterSet = character_set
    return ds


def _coded() -> Dataset:
    values = ["FRANKLIN^ROSALIND", "P110", "19200725", "F", "A110", "R110", "HIGH"]
    ds = _item([*values, "S110", "DX", "DX_1", "20261121", "150000", "HOUSE^G", "HIP", ""])
    ds.RequestedProcedureCodeSequence = [_code("RP_HIP", "99LOCAL", "Hip, two views")]
    ds.ScheduledProcedureStepSequence[0].ScheduledProtocolCodeSequence = [
        _code("HIP_AP", "99LOCAL", "Hip AP"),
        _code("HIP_LAT", "99LOCAL", "Hip lateral"),
    ]
    reference = Dataset()
    reference.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    reference.ReferencedSOPInstanceUID = "1.2.826.0.1.3680043.9.3811.9110"
    ds.ReferencedStudySequence = [reference]
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def write_files(directory: Path, title: str = TITLE) -> None:
    """Write the items as ``<title>/<name>.wl`` below ``directory``."""
    folder = directory / title
    folder.mkdir(parents=True)
    for number, (name, ds) in enumerate(items()):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MODALITY_WORKLIST
        meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.9.3811.1.{number}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(folder / f"{name}.wl", ds, preamble=bytes(128), file_meta=meta)
        file.save_as(folder / f"{name}.wl", enforce_file_format=True)
