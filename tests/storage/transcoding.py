"""Data sets to convert and ways to look at what came of them, for the tests of conversion."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode.storage.part10 import file_meta, read_file_meta
from dicomnode.storage.transcode import convert

IMPLICIT = str(ImplicitVRLittleEndian)
EXPLICIT = str(ExplicitVRLittleEndian)
BIG = str(ExplicitVRBigEndian)
DEFLATED = str(DeflatedExplicitVRLittleEndian)
TARGETS = (IMPLICIT, EXPLICIT, BIG, DEFLATED)
NAMES = {IMPLICIT: "implicit", EXPLICIT: "explicit", BIG: "big", DEFLATED: "deflated"}
MANY = 1 << 30


def test_file(name: str) -> Path:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path)


test_file.__test__ = False  # type: ignore[attr-defined]


def converted(path: Path, wanted: str, *, max_bytes: int = MANY, stored: str = "") -> bytes:
    with path.open("rb") as file:
        meta = read_file_meta(file.fileno())
        offset = meta.data_set_offset
        target = io.BytesIO()
        written = convert(
            file.fileno(),
            offset,
            path.stat().st_size - offset,
            stored or meta.transfer_syntax_uid,
            wanted,
            target,
            max_bytes=max_bytes,
        )
    assert written == len(target.getvalue())
    return target.getvalue()


def part10(data: bytes, transfer_syntax: str) -> bytes:
    return file_meta("1.2", "1.2.3", transfer_syntax) + data


def read(data: bytes, transfer_syntax: str) -> Dataset:
    return pydicom.dcmread(io.BytesIO(part10(data, transfer_syntax)))


def stored_file(tmp_path: Path, ds: Dataset, transfer_syntax: str) -> Path:
    buffer = io.BytesIO()
    pydicom.filewriter.write_dataset(
        _writing(buffer, transfer_syntax), ds, parent_encoding="iso8859"
    )
    path = tmp_path / "stored.dcm"
    path.write_bytes(part10(buffer.getvalue(), transfer_syntax))
    return path


def _writing(buffer: io.BytesIO, transfer_syntax: str) -> Any:
    file = pydicom.filebase.DicomFileLike(buffer)
    file.is_implicit_VR = transfer_syntax == IMPLICIT
    file.is_little_endian = transfer_syntax != BIG
    return file


def read_file_meta_offset(path: Path) -> int:
    with path.open("rb") as file:
        return read_file_meta(file.fileno()).data_set_offset
