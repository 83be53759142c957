"""Small DICOM objects for the tests of storage, index and recovery."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = str(ExplicitVRLittleEndian)
IMPLICIT = str(ImplicitVRLittleEndian)
BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


def data_set(
    number: int = 1, study: str = "1.2.3", series: str = "1.2.3.4", **more: object
) -> Dataset:
    """Return an object whose SOP Instance UID is ``series`` and ``number``."""
    ds = Dataset()
    ds.SOPClassUID = CT_STORAGE
    ds.SOPInstanceUID = f"{series}.{number}"
    ds.StudyInstanceUID = study
    ds.SeriesInstanceUID = series
    ds.PatientID = "4711"
    ds.PatientName = "Doe^Jane"
    ds.PatientBirthDate = "19700101"
    ds.Modality = "CT"
    ds.InstanceNumber = number
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, transfer_syntax_uid: str = EXPLICIT) -> bytes:
    """Return a data set's bytes, not deflated."""
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian = transfer_syntax_uid != BIG
    buffer.is_implicit_VR = transfer_syntax_uid == IMPLICIT
    write_dataset(buffer, ds)
    return buffer.getvalue()


def open_bytes(directory: Path, data: bytes) -> int:
    """Return a file descriptor of a file that holds ``data``."""
    path = directory / "data"
    path.write_bytes(data)
    return os.open(path, os.O_RDONLY)


def readable(data: bytes) -> Dataset:
    """Return a Part 10 file's data set as pydicom reads it."""
    return pydicom.dcmread(io.BytesIO(data))
