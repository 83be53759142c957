"""pydicom's own test files that a sender can send, and what a receiver kept of them."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import pydicom
import pydicom.data
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pynetdicom.sop_class import _STORAGE_CLASSES

STORAGE_CLASSES = frozenset(map(str, _STORAGE_CLASSES.values()))


@dataclass(frozen=True, slots=True)
class Sample:
    """A file whose data set names everything that a storage SCP needs.

    ``meta_agrees`` is false where the File Meta names another instance than the data set.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    transfer_syntax_uid: str
    meta_agrees: bool

    @property
    def data_set(self) -> bytes:
        """The encoded data set, as it stands in the file."""
        return data_set_bytes(self.path)

    def stored_path(self, store_directory: Path) -> Path:
        """Return where the node keeps this instance."""
        return stored_path(store_directory, self.study_uid, self.series_uid, self.sop_instance_uid)


def stored_path(store_directory: Path, study_uid: str, series_uid: str, sop_uid: str) -> Path:
    """Return ``objects/<2 hex>/<study>/<series>/<instance>.dcm``."""
    fan_out = sha256(study_uid.encode()).hexdigest()[:2]
    return store_directory / "objects" / fan_out / study_uid / series_uid / f"{sop_uid}.dcm"


def data_set_bytes(path: Path) -> bytes:
    """Return what follows the File Meta of a Part 10 file (PS3.10 §7.1)."""
    content = path.read_bytes()
    assert content[128:132] == b"DICM", path
    at = 132
    while content[at : at + 2] == b"\x02\x00":
        vr = content[at + 4 : at + 6]
        if vr in (b"OB", b"UN"):
            at += 12 + struct.unpack_from("<I", content, at + 8)[0]
        else:
            at += 8 + struct.unpack_from("<H", content, at + 6)[0]
    return content[at:]


@cache
def samples() -> tuple[Sample, ...]:
    """Return every sendable file of pydicom's test data that is on this machine."""
    return _below("test_files")


@cache
def charset_samples() -> tuple[Sample, ...]:
    """Return pydicom's files whose names are in the character sets of the world."""
    return _below("charset_files")


def _below(folder: str) -> tuple[Sample, ...]:
    assert pydicom.data.__file__ is not None
    root = Path(pydicom.data.__file__).parent / folder
    found = (read_sample(path) for path in sorted(root.rglob("*")) if path.is_file())
    return tuple(sample for sample in found if sample is not None)


def read_sample(path: Path) -> Sample | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read = pydicom.dcmread(path, stop_before_pixels=True)
            return _described(path, read)
        except (InvalidDicomError, AttributeError, ValueError, NotImplementedError):
            return None


def _described(path: Path, read: FileDataset) -> Sample | None:
    sample = Sample(
        path,
        str(read.SOPClassUID),
        str(read.SOPInstanceUID),
        str(read.StudyInstanceUID),
        str(read.SeriesInstanceUID),
        str(read.file_meta.TransferSyntaxUID),
        read.file_meta.get("MediaStorageSOPInstanceUID") == read.SOPInstanceUID,
    )
    return sample if sample.sop_class_uid in STORAGE_CLASSES else None
