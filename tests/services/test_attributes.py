"""Attributes that only files have, against pydicom's own reading of its test files."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import cast

import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicomnode.services.answers import Layout, Repertoire
from dicomnode.services.attributes import can_be_read, read_attributes
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from tests.services.test_answers import read
from tests.storage.objects import BIG, EXPLICIT, IMPLICIT, data_set, encoded

FILES = Path(pydicom.data.__file__).parent / "test_files"
NAMES = [
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "JPEG2000.dcm",
    "rtplan.dcm",
    "rtdose.dcm",
    "reportsi.dcm",
    "nested_priv_SQ.dcm",
    "examples_overlay.dcm",
    "UN_sequence.dcm",
]


class AnyFile:
    """Opens any path as an object of the store."""

    def open_object(self, path: str) -> int:
        return os.open(path, os.O_RDONLY)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_attribute_comes_back_as_it_is_in_the_file(name: str, syntax: str) -> None:
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    path = FILES / name
    expected = dcmread(path, stop_before_pixels=True, force=True)
    expected.decode()
    # Specific Character Set is that of the answer.
    tags = [int(each.tag) for each in expected if each.keyword != "SpecificCharacterSet"]
    tags = [tag for tag in tags if can_be_read(tag)]
    layout = Layout(Repertoire(syntax, b"", said=False), [], [])
    files = cast(FileStore, AnyFile())
    found = read(
        layout.encode((), read_attributes(files, str(path), tags, layout.elements)), syntax
    )
    for tag in tags:
        assert str(found[tag].value) == str(expected[tag].value)


def test_a_file_that_cannot_be_read_gives_attributes_without_values() -> None:
    layout = Layout(Repertoire(EXPLICIT, b"", said=False), [], [])
    path = str(FILES / "no_meta.dcm")
    further = read_attributes(cast(FileStore, AnyFile()), path, [0x00180060], layout.elements)
    assert read(layout.encode((), further), EXPLICIT).KVP is None


def test_bulk_data_private_and_unknown_attributes_are_not_read_from_files() -> None:
    for tag in (0x7FE00010, 0x00080001, 0x00091001, 0x00020010, 0x00420011, 0x60003000):
        assert not can_be_read(tag)
    assert can_be_read(0x00180060)


def test_items_with_a_character_set_of_their_own_and_numbers_without_vr_come_back(
    tmp_path: Path,
) -> None:
    item = Dataset()
    item.SpecificCharacterSet = "ISO_IR 144"
    item.LUTExplanation = "\u041b\u044e\u043a"
    item.LUTDescriptor = [256, 0, 8]
    stored = data_set(1, "1.2", "1.2.3", PixelRepresentation=0, SmallestImagePixelValue=7)
    stored.ModalityLUTSequence = [item]
    path = tmp_path / "implicit.dcm"
    meta = file_meta(str(stored.SOPClassUID), str(stored.SOPInstanceUID), IMPLICIT)
    path.write_bytes(meta + encoded(stored, IMPLICIT))
    layout = Layout(Repertoire(EXPLICIT, b"", said=False), [], [])
    files = cast(FileStore, AnyFile())
    further = read_attributes(files, str(path), [0x00280106, 0x00283000], layout.elements)
    found = read(layout.encode((), further), EXPLICIT)
    assert found.SmallestImagePixelValue == 7
    (answered,) = found.ModalityLUTSequence
    assert answered.LUTDescriptor == [256, 0, 8]
    assert answered.LUTExplanation == item.LUTExplanation
    assert "SpecificCharacterSet" not in answered
