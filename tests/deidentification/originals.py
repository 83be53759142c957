"""Originals for de-identification, written by pydicom, and their copies, read by it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicomnode.deidentification.files import deidentify
from dicomnode.deidentification.options import Options
from dicomnode.deidentification.project import Project
from dicomnode.deidentification.report import Report
from dicomnode.errors import NotDeidentified
from dicomnode.storage.encoding import EXPLICIT_LITTLE

CT = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.10.1666.77"
PROJECT = Project("TRIAL", bytes(32))
_numbers = itertools.count(1)


def original(**attributes: Any) -> Dataset:
    """Return a CT image of Jane Doe; attributes are given by keyword, None leaves one out."""
    made = Dataset()
    values = {
        "SOPClassUID": CT,
        "SOPInstanceUID": f"{ROOT}.3.{next(_numbers)}",
        "StudyDate": "20200229",
        "StudyTime": "235959",
        "AccessionNumber": "ACC00777",
        "Modality": "CT",
        "ReferringPhysicianName": "Quacksalber^Hans",
        "PatientName": "Doe^Jane",
        "PatientID": "PID-4711",
        "PatientBirthDate": "19700131",
        "PatientSex": "F",
        "StudyInstanceUID": f"{ROOT}.1.1",
        "SeriesInstanceUID": f"{ROOT}.2.1",
        "StudyID": "1",
        "InstanceNumber": "1",
    } | attributes
    for keyword, value in values.items():
        if value is not None:
            setattr(made, keyword, value)
    return made


def written(data_set: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a data set as a Part 10 file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = data_set.get("SOPClassUID", CT)
    meta.MediaStorageSOPInstanceUID = data_set.get("SOPInstanceUID", ROOT)
    meta.SourceApplicationEntityTitle = "DOE_WARD"
    data_set.file_meta = meta
    data_set.preamble = b"Doe^Jane" * 16
    pydicom.dcmwrite(path, data_set, enforce_file_format=True)
    return path


def copied(
    directory: Path,
    data_set: Dataset,
    options: Options | None = None,
    *,
    project: Project = PROJECT,
    syntax: str = ExplicitVRLittleEndian,
) -> tuple[pydicom.FileDataset, Path, Report]:
    """De-identify a data set in a directory; return the copy, its path, and the report."""
    number = next(_numbers)
    source = written(data_set, directory / f"original{number}.dcm", syntax)
    target = directory / f"copy{number}.dcm"
    report = deidentify(source, lambda names: target, project, options or Options())
    return pydicom.dcmread(target), target, report


def appended(directory: Path, data_set: Dataset, *elements: tuple[int, bytes, bytes]) -> Path:
    """Write a data set, and elements after it as no library would: (tag, VR, value)."""
    path = written(data_set, directory / "odd.dcm")
    with path.open("ab") as file:
        for tag, vr, value in elements:
            file.write(EXPLICIT_LITTLE.header(tag, vr, len(value)) + value)
    return path


def refused(directory: Path, data_set: Dataset, options: Options | None = None) -> str:
    """De-identify a data set that is refused, of which nothing is left; return why."""
    before = set(directory.iterdir())
    with pytest.raises(NotDeidentified) as caught:
        copied(directory, data_set, options)
    left = {path.name for path in set(directory.iterdir()) - before}
    assert all(name.startswith("original") for name in left)
    return str(caught.value)
