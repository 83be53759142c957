"""Data sets in another transfer syntax, against pydicom and DCMTK as oracles."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from dicomnode.errors import ConversionFailed
from dicomnode.storage.transcode import can_convert, convert
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
    read,
    read_file_meta_offset,
    stored_file,
    test_file,
)

GE = "1.2.840.113619.5.2"

UNCOMPRESSED_FILES = (
    *("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"),
    *("image_dfl.dcm", "rtplan.dcm", "rtdose.dcm", "rtdose_1frame.dcm"),
    *("reportsi.dcm", "test-SR.dcm", "waveform_ecg.dcm", "priv_SQ.dcm", "nested_priv_SQ.dcm"),
    *("UN_sequence.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm"),
    *("liver_1frame.dcm", "liver_expb_1frame.dcm", "examples_overlay.dcm", "examples_palette.dcm"),
    *("empty_charset_LEI.dcm", "ExplVR_BigEnd.dcm", "SC_ybr_full_422_uncompressed.dcm"),
)
LOSSLESS_FILES = (
    *("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    *("SC_rgb_rle.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_rle_32bit.dcm"),
    *("rtdose_rle.dcm", "rtdose_rle_1frame.dcm", "GDCMJ2K_TextGBR.dcm", "693_J2KI.dcm"),
    *("J2K_pixelrep_mismatch.dcm", "JPGExtended.dcm", "JPEG2000.dcm", "examples_jpeg2k.dcm"),
    *("JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_jpeg_dcmtk.dcm"),
    *("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_lossy_gdcm.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm"),
    *("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_small_odd_jpeg.dcm", "SC_rgb_gdcm_KY.dcm"),
    *("examples_ybr_color.dcm", "SC_rgb_jls_lossy_line.dcm"),
)


def values(ds: Dataset) -> dict[int, Any]:
    """Every value but group lengths; numbers and text as they are, sequences as lists."""
    found: dict[int, Any] = {}
    for element in ds:
        if element.tag.element == 0:
            continue
        if element.VR == "SQ":
            found[int(element.tag)] = [values(item) for item in element.value]
        elif element.VR in ("OW", "OB", "OW or OB") or element.tag.is_private:
            continue  # bytes, in the byte order of the file; compared elsewhere
        else:
            value = element.value
            found[int(element.tag)] = "" if value is None or value == b"" else str(value)
    return found


@pytest.mark.parametrize("wanted", TARGETS, ids=NAMES.get)
@pytest.mark.parametrize("name", UNCOMPRESSED_FILES)
def test_values_and_pixels_are_the_same_in_every_uncompressed_syntax(
    name: str, wanted: str
) -> None:
    before = pydicom.dcmread(test_file(name))
    after = read(converted(test_file(name), wanted), wanted)
    assert values(after) == values(before)
    # Of pixels of 32 bits in big endian pydicom thinks otherwise than PS3.5 and DCMTK.
    if before.get("BitsAllocated", 32) <= 16 or wanted != BIG:
        same_pixels(after, before)


def same_pixels(after: Dataset, before: Dataset) -> None:
    if "BitsAllocated" not in before or "PixelData" not in before:
        return
    raw = pydicom.pixels.pixel_array(after, raw=True), pydicom.pixels.pixel_array(before, raw=True)
    if str(after.PhotometricInterpretation) == str(before.PhotometricInterpretation):
        assert np.array_equal(*raw)
    else:
        assert np.array_equal(after.pixel_array, before.pixel_array)


@pytest.mark.parametrize("name", UNCOMPRESSED_FILES)
def test_what_was_converted_there_and_back_is_what_a_direct_conversion_gives(
    name: str, tmp_path: Path
) -> None:
    direct = converted(test_file(name), EXPLICIT)
    path = tmp_path / "between.dcm"
    for between in (EXPLICIT, BIG, DEFLATED):
        path.write_bytes(part10(converted(test_file(name), between), between))
        assert converted(path, EXPLICIT) == direct


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("dcmconv") is None, reason="DCMTK is not installed")
@pytest.mark.parametrize("wanted", TARGETS, ids=NAMES.get)
@pytest.mark.parametrize(
    "name", ("CT_small.dcm", "rtdose.dcm", "rtplan.dcm", "MR_small_bigendian.dcm")
)
def test_dcmtk_reads_the_same_from_it_as_from_its_own_conversion(
    name: str, wanted: str, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.dcm", tmp_path / "theirs.dcm"
    ours.write_bytes(part10(converted(test_file(name), wanted), wanted))
    flag = {IMPLICIT: "+ti", EXPLICIT: "+te", BIG: "+tb", DEFLATED: "+td"}[wanted]
    common = ["-g", "-e"]
    subprocess.run(["dcmconv", flag, *common, test_file(name), theirs], check=True)
    again = tmp_path / "again.dcm"
    subprocess.run(["dcmconv", flag, *common, ours, again], check=True)
    size = read_file_meta_offset(again), read_file_meta_offset(theirs)
    assert again.read_bytes()[size[0] :] == theirs.read_bytes()[size[1] :]


@pytest.mark.parametrize("wanted", TARGETS, ids=NAMES.get)
@pytest.mark.parametrize("name", LOSSLESS_FILES)
def test_compressed_pixels_become_what_pydicom_decodes(name: str, wanted: str) -> None:
    before = pydicom.dcmread(test_file(name))
    after = read(converted(test_file(name), wanted), wanted)
    assert not after["PixelData"].is_undefined_length
    if before.BitsAllocated > 16 and wanted == BIG:
        return  # see above
    same_pixels(after, before)
    changed = {0x00280004, 0x00280006, 0x7FE00010}
    kept = {tag: value for tag, value in values(before).items() if tag not in changed}
    assert {t: v for t, v in values(after).items() if t not in changed} == kept


@pytest.mark.interop
@pytest.mark.skipif(shutil.which("dcmdjpeg") is None, reason="DCMTK is not installed")
@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("dcmdrle", "MR_small_RLE.dcm"),
        ("dcmdrle", "SC_rgb_rle_2frame.dcm"),
        ("dcmdjpeg", "SC_rgb_jpeg_gdcm.dcm"),
        ("dcmdjpls", "MR_small_jpeg_ls_lossless.dcm"),
    ],
)
def test_lossless_pixels_are_identical_to_dcmtks(tool: str, name: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.dcm"
    subprocess.run([tool, test_file(name), theirs], check=True)
    ours = read(converted(test_file(name), EXPLICIT), EXPLICIT)
    assert np.array_equal(ours.pixel_array, pydicom.dcmread(theirs).pixel_array)


def test_rgb_is_made_of_ybr_after_lossy_jpeg_and_nothing_is_made_of_it_after_rle() -> None:
    lossy = read(converted(test_file("SC_rgb_dcmtk_+eb+cy+np.dcm"), EXPLICIT), EXPLICIT)
    assert (lossy.PhotometricInterpretation, lossy.PlanarConfiguration) == ("RGB", 0)
    before = pydicom.dcmread(test_file("SC_rgb_rle.dcm"))
    after = read(converted(test_file("SC_rgb_rle.dcm"), EXPLICIT), EXPLICIT)
    assert after.PhotometricInterpretation == before.PhotometricInterpretation


def test_the_sop_instance_uid_and_the_lossy_flags_stay() -> None:
    before = pydicom.dcmread(test_file("JPEG2000.dcm"))
    after = read(converted(test_file("JPEG2000.dcm"), IMPLICIT), IMPLICIT)
    for keyword in ("SOPInstanceUID", "LossyImageCompression", "LossyImageCompressionRatio"):
        assert after.get(keyword) == before.get(keyword)


@pytest.mark.parametrize("wanted", (EXPLICIT, BIG), ids=NAMES.get)
def test_the_vr_of_us_or_ss_follows_the_pixel_representation_around(
    wanted: str, tmp_path: Path
) -> None:
    ds = Dataset()
    inner = Dataset()
    inner.SmallestImagePixelValue = 0  # decided by the data set around
    inner["SmallestImagePixelValue"].VR = "US"
    ds.ReferencedImageSequence = Sequence([inner])
    ds.PixelRepresentation = 1
    ds.add_new("SmallestImagePixelValue", "SS", -5)
    ds.add_new("LUTDescriptor", "SS", [256, -5, 16])
    after = read(converted(stored_file(tmp_path, ds, IMPLICIT), wanted), wanted)
    assert after["SmallestImagePixelValue"].VR == "SS"
    assert after.SmallestImagePixelValue == -5
    assert after.ReferencedImageSequence[0]["SmallestImagePixelValue"].VR == "SS"


def test_a_value_too_long_for_its_vr_is_written_as_un(tmp_path: Path) -> None:
    ds = Dataset()
    ds.add_new(0x00081030, "LO", "x" * 70_000)
    after = read(converted(stored_file(tmp_path, ds, IMPLICIT), EXPLICIT), EXPLICIT)
    assert after.get_item(0x00081030).VR == "UN"
    assert after.get_item(0x00081030).length == 70_000


def test_private_elements_of_an_implicit_data_set_are_un_and_their_creators_lo(
    tmp_path: Path,
) -> None:
    ds = Dataset()
    ds.private_block(0x0009, "ACME", create=True).add_new(0x01, "UN", b"\1\2\3\4")
    data = converted(stored_file(tmp_path, ds, IMPLICIT), EXPLICIT)
    assert data == b"\x09\0\x10\0LO\x04\0ACME" + b"\x09\0\x01\x10UN\0\0\x04\0\0\0\1\2\3\4"


def test_empty_sequences_items_and_values_stay_empty(tmp_path: Path) -> None:
    ds = Dataset()
    ds.PatientName = ""
    ds.ReferencedStudySequence = Sequence([])
    ds.ReferencedImageSequence = Sequence([Dataset(), Dataset()])
    for wanted in TARGETS:
        after = read(converted(stored_file(tmp_path, ds, EXPLICIT), wanted), wanted)
        assert after.PatientName == ""
        assert list(after.ReferencedStudySequence) == []
        assert [len(item) for item in after.ReferencedImageSequence] == [0, 0]


def test_un_of_undefined_length_is_read_as_an_implicit_sequence(tmp_path: Path) -> None:
    inner = struct.pack("<HHI", 0x0009, 0x1001, 4) + b"abcd"
    items = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = b"\x09\0\x02\x10UN\0\0\xff\xff\xff\xff" + items + end
    path = tmp_path / "un.dcm"
    path.write_bytes(part10(data, EXPLICIT))
    for wanted in (IMPLICIT, BIG, EXPLICIT):
        after = read(converted(path, wanted), wanted)
        assert after[0x0009, 0x1002].VR == "SQ" or wanted == IMPLICIT
        assert after[0x0009, 0x1002].value[0][0x0009, 0x1001].value == b"abcd"


def test_group_lengths_and_odd_lengths_do_not_survive(tmp_path: Path) -> None:
    data = struct.pack("<HH2sHI", 8, 0, b"UL", 4, 99) + struct.pack("<HH2sH", 8, 0x60, b"CS", 3)
    path = tmp_path / "odd.dcm"
    path.write_bytes(part10(data + b"ABC", EXPLICIT))
    assert converted(path, EXPLICIT) == struct.pack("<HH2sH", 8, 0x60, b"CS", 4) + b"ABC "
    path.write_bytes(part10(struct.pack("<HH2sH", 8, 0x18, b"UI", 3) + b"1.2", EXPLICIT))
    assert converted(path, IMPLICIT) == struct.pack("<HHI", 8, 0x18, 4) + b"1.2\0"


def test_ge_pixels_are_turned_round(tmp_path: Path) -> None:
    ds = pydicom.dcmread(test_file("MR_small_implicit.dcm"))
    expected = ds.pixel_array.copy()
    ds.PixelData = expected.astype(">i2").tobytes()
    path = stored_file(tmp_path, ds, IMPLICIT)
    for wanted in TARGETS:
        after = read(converted(path, wanted, stored=GE), wanted)
        assert np.array_equal(after.pixel_array, expected)


def test_a_compressed_icon_is_decoded_too(tmp_path: Path) -> None:
    ds = pydicom.dcmread(test_file("MR_small_RLE.dcm"))
    icon = Dataset()
    for keyword in (
        *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("SamplesPerPixel", "PhotometricInterpretation", "PixelData"),
    ):
        icon[keyword] = ds[keyword]
    ds.IconImageSequence = Sequence([icon])
    path = stored_file(tmp_path, ds, str(RLELossless))
    after = read(converted(path, BIG), BIG)
    icon_after = after.IconImageSequence[0]
    assert icon_after.PixelData == after.PixelData
    assert np.array_equal(after.pixel_array, pydicom.dcmread(path).pixel_array)


def test_an_object_without_pixels_in_a_compressed_syntax_is_only_written_anew(
    tmp_path: Path,
) -> None:
    ds = Dataset()
    ds.PatientID = "P1"
    path = stored_file(tmp_path, ds, str(JPEGBaseline8Bit))
    assert read(converted(path, IMPLICIT), IMPLICIT).PatientID == "P1"


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (EXPLICIT, str(JPEGBaseline8Bit)),
        ("1.2.840.10008.1.2.4.100", EXPLICIT),
        ("1.2.3", EXPLICIT),
        (EXPLICIT, GE),
    ],
)
def test_what_cannot_be_converted_is_known_beforehand(stored: str, wanted: str) -> None:
    assert not can_convert(stored, wanted)
    with pytest.raises(ConversionFailed, match="cannot be converted"):
        converted(test_file("CT_small.dcm"), wanted, stored=stored)


def test_the_file_position_does_not_matter(tmp_path: Path) -> None:
    path = test_file("CT_small.dcm")
    with path.open("rb") as file:
        os.lseek(file.fileno(), 77, os.SEEK_SET)
        target = io.BytesIO()
        offset = read_file_meta_offset(path)
        size = path.stat().st_size - offset
        convert(file.fileno(), offset, size, EXPLICIT, IMPLICIT, target, max_bytes=MANY)
    assert read(target.getvalue(), IMPLICIT).PatientID


def encapsulated(ds: Dataset, *frames: bytes, fragments: int = 1) -> Dataset:
    ds.PixelData = pydicom.encaps.encapsulate(list(frames), fragments_per_frame=fragments)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return ds


def image(bits_stored: int, *, signed: bool = False, number_of_frames: int = 1) -> Dataset:
    """Return what describes an image of 64 x 64 pixels of 16 bits, without the pixels."""
    ds = Dataset()
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.NumberOfFrames = number_of_frames
    ds.Rows = ds.Columns = 64
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(signed)
    return ds


def test_overlays_in_the_bits_above_those_stored_stay(tmp_path: Path) -> None:
    pixels = np.arange(64 * 64, dtype="<u2") * 16 + 5
    encoder = pydicom.pixels.get_encoder(RLELossless)
    ds = image(16)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    ds = encapsulated(image(12), encoder.encode(ds))
    after = read(converted(stored_file(tmp_path, ds, str(RLELossless)), EXPLICIT), EXPLICIT)
    assert after.PixelData == pixels.tobytes()


@pytest.mark.parametrize("signed", (False, True))
def test_pixels_that_the_codec_gives_a_byte_have_what_is_allocated(
    signed: bool, tmp_path: Path
) -> None:
    pixels = np.arange(64 * 64).astype("i1" if signed else "u1")
    narrow = image(8, signed=signed)
    narrow.BitsAllocated = 8
    narrow.PixelData = pixels.tobytes()
    narrow["PixelData"].VR = "OB"
    frame = pydicom.pixels.get_encoder(JPEGLSLossless).encode(narrow)
    ds = encapsulated(image(8, signed=signed), frame)
    path = stored_file(tmp_path, ds, str(JPEGLSLossless))
    for wanted in (EXPLICIT, BIG):
        after = read(converted(path, wanted), wanted)
        expected = pixels.astype("i2").astype("<i2" if wanted == EXPLICIT else ">i2")
        assert after.PixelData == expected.tobytes()


def test_no_frames_are_one_frame(tmp_path: Path) -> None:
    ds = pydicom.dcmread(test_file("MR_small_RLE.dcm"))
    ds.NumberOfFrames = 0
    after = read(converted(stored_file(tmp_path, ds, str(RLELossless)), EXPLICIT), EXPLICIT)
    assert len(after.PixelData) == 64 * 64 * 2
