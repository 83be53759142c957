"""Data sets cut, changed, broken or meant to do harm, in another transfer syntax."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import RLELossless

from dicomnode.errors import ConversionFailed
from tests.storage.transcoding import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    MANY,
    NAMES,
    TARGETS,
    converted,
    part10,
    read_file_meta_offset,
    stored_file,
    test_file,
)


@pytest.mark.parametrize("name", ("CT_small.dcm", "rtplan.dcm", "MR_small_RLE.dcm"))
def test_a_data_set_cut_anywhere_fails_with_a_reason_or_ends_at_an_element(
    name: str, tmp_path: Path
) -> None:
    whole = test_file(name).read_bytes()
    offset = read_file_meta_offset(test_file(name))
    path = tmp_path / "cut.dcm"
    for end in range(offset, len(whole), max(1, (len(whole) - offset) // 97)):
        path.write_bytes(whole[:end])
        try:
            converted(path, IMPLICIT)
        except ConversionFailed as error:
            assert str(error)


def test_every_byte_changed_gives_a_data_set_or_a_reason(tmp_path: Path) -> None:
    path = test_file("nested_priv_SQ.dcm")
    whole, offset = path.read_bytes(), read_file_meta_offset(path)
    changed = tmp_path / "changed.dcm"
    for position in range(offset, len(whole)):
        for value in (0x00, 0xFF, whole[position] ^ 0x55):
            changed.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                converted(changed, BIG)
            except ConversionFailed as error:
                assert str(error)


def test_a_deflated_bomb_is_given_up(tmp_path: Path) -> None:
    deflater = zlib.compressobj(9, wbits=-15)
    bomb = deflater.compress(bytes(50_000_000)) + deflater.flush()
    path = tmp_path / "bomb.dcm"
    path.write_bytes(part10(bomb, DEFLATED))
    with pytest.raises(ConversionFailed, match="more than 1000000 bytes"):
        converted(path, EXPLICIT, max_bytes=1_000_000)


def test_an_image_that_would_be_too_large_is_not_begun(tmp_path: Path) -> None:
    ds = pydicom.dcmread(test_file("MR_small_RLE.dcm"))
    ds.NumberOfFrames = 1_000_000
    path = stored_file(tmp_path, ds, str(RLELossless))
    with pytest.raises(ConversionFailed, match="decoded it would have"):
        converted(path, EXPLICIT)
    ds.NumberOfFrames, ds.Rows, ds.Columns = 1, 65535, 65535
    path = stored_file(tmp_path, ds, str(RLELossless))
    with pytest.raises(ConversionFailed, match="too large to decode"):
        converted(path, EXPLICIT, max_bytes=1 << 40)


def test_broken_pixel_data_gives_the_decoders_reason(tmp_path: Path) -> None:
    ds = pydicom.dcmread(test_file("MR_small_RLE.dcm"))
    ds.PixelData = pydicom.encaps.encapsulate([b"nonsense" * 20])
    with pytest.raises(ConversionFailed, match="cannot be decoded"):
        converted(stored_file(tmp_path, ds, str(RLELossless)), EXPLICIT)


def test_fewer_frames_than_promised_are_a_failure(tmp_path: Path) -> None:
    ds = pydicom.dcmread(test_file("SC_rgb_rle_2frame.dcm"))
    ds.NumberOfFrames = 3
    with pytest.raises(ConversionFailed):
        converted(stored_file(tmp_path, ds, str(RLELossless)), EXPLICIT)


def test_sequences_nested_without_end_are_refused(tmp_path: Path) -> None:
    level = struct.pack("<HHI", 8, 0x1140, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, MANY)
    level = level[:-4] + b"\xff\xff\xff\xff"
    path = tmp_path / "deep.dcm"
    path.write_bytes(part10(level * 10_000, IMPLICIT))
    with pytest.raises(ConversionFailed, match="too deeply"):
        converted(path, EXPLICIT)


SOP_INSTANCE_UID = struct.pack("<HH2sH", 8, 0x18, b"UI", 4) + b"1.2\0"
AN_ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
A_SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def sequence(value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    return struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, length) + value


def an_item(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value) if length is None else length) + value


@pytest.mark.parametrize("wanted", TARGETS, ids=NAMES.get)
@pytest.mark.parametrize(
    "data",
    [
        sequence(an_item(SOP_INSTANCE_UID + AN_ITEM_END)),
        sequence(an_item(SOP_INSTANCE_UID + AN_ITEM_END) + A_SEQUENCE_END, 0xFFFFFFFF),
        sequence(an_item(SOP_INSTANCE_UID) + A_SEQUENCE_END),
    ],
    ids=("item", "item of a sequence without length", "sequence"),
)
def test_a_superfluous_delimiter_is_not_written_again(
    data: bytes, wanted: str, tmp_path: Path
) -> None:
    path, clean = tmp_path / "stored.dcm", tmp_path / "clean.dcm"
    path.write_bytes(part10(data, EXPLICIT))
    clean.write_bytes(part10(sequence(an_item(SOP_INSTANCE_UID)), EXPLICIT))
    assert converted(path, wanted) == converted(clean, wanted)


@pytest.mark.parametrize(
    "data",
    [
        SOP_INSTANCE_UID + AN_ITEM_END,
        SOP_INSTANCE_UID + A_SEQUENCE_END + SOP_INSTANCE_UID,
        sequence(an_item(SOP_INSTANCE_UID, 0xFFFFFFFF) + A_SEQUENCE_END, 0xFFFFFFFF),
        sequence(an_item(AN_ITEM_END + SOP_INSTANCE_UID)),
    ],
)
def test_a_delimiter_where_none_may_be_is_a_failure(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "stored.dcm"
    path.write_bytes(part10(data, EXPLICIT))
    with pytest.raises(ConversionFailed, match="delimiter"):
        converted(path, IMPLICIT)


@pytest.mark.parametrize("zeros", (1, 7, 8, 15))
def test_zeros_that_even_out_the_end_are_no_element(zeros: int, tmp_path: Path) -> None:
    path = tmp_path / "stored.dcm"
    path.write_bytes(part10(SOP_INSTANCE_UID + bytes(zeros), EXPLICIT))
    assert converted(path, EXPLICIT) == SOP_INSTANCE_UID


def test_compressed_pixels_of_defined_length_are_not_taken_for_native_ones(tmp_path: Path) -> None:
    ds = pydicom.dcmread(test_file("MR_small_RLE.dcm"))
    ds["PixelData"].is_undefined_length = False
    with pytest.raises(ConversionFailed, match="defined length"):
        converted(stored_file(tmp_path, ds, str(RLELossless)), EXPLICIT)
