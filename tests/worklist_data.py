"""Worklist items as a RIS writes them, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.storage.json_model import Attributes, key_of

STEP: dict[str, Any] = {
    "ScheduledStationAETitle": "CT_1",
    "ScheduledProcedureStepStartDate": "20261121",
    "ScheduledProcedureStepStartTime": "093000",
    "Modality": "CT",
    "ScheduledProcedureStepID": "SPS1",
    "ScheduledProcedureStepDescription": "Thorax",
}
WHOLE: dict[str, Any] = {
    "PatientName": "Müller^Änne",
    "PatientID": "P1",
    "AccessionNumber": "A1",
    "RequestedProcedureID": "RP1",
    "StudyInstanceUID": "1.2.3.1",
}


def worklist_data_set(*steps: dict[str, Any], **values: Any) -> Dataset:
    """Return a data set with the values of ``WHOLE`` and ``STEP``; None leaves one out."""
    data_set = _data_set({"SpecificCharacterSet": "ISO_IR 100"} | WHOLE | values)
    data_set.ScheduledProcedureStepSequence = [_data_set(STEP | step) for step in steps or ({},)]
    return data_set


def _data_set(values: dict[str, Any]) -> Dataset:
    data_set = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(data_set, keyword, value)
    return data_set


def worklist_json(*steps: dict[str, Any], **values: Any) -> Attributes:
    """Return the same in the DICOM JSON model, in Unicode."""
    found: Attributes = worklist_data_set(*steps, **values).to_json_dict()
    found.pop(key_of("SpecificCharacterSet"), None)
    return found


def write_worklist_file(path: Path, *steps: dict[str, Any], **values: Any) -> Path:
    """Write a Part 10 file with one data set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data_set = worklist_data_set(*steps, **values)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.276.0.7230010.3.1.0.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    data_set.file_meta = meta
    data_set.save_as(path, enforce_file_format=True)
    return path
