"""The header reader: against pydicom, against hostile bytes, and within its bounds."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from dicomnode.errors import CannotUnderstand
from dicomnode.index.keys import KEYS, Key
from dicomnode.storage.header import Header, read_front, read_header, read_to_end
from dicomnode.storage.part10 import read_file_meta
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT, data_set, encoded

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def pydicoms_files() -> Iterator[Path]:
    for path in sorted(TEST_FILES.rglob("*")):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            yield path


def read(data: bytes, transfer_syntax_uid: str = EXPLICIT) -> Header:
    fd = os.memfd_create("header")
    try:
        os.write(fd, data)
        return read_header(fd, 0, len(data), transfer_syntax_uid)
    finally:
        os.close(fd)


def as_pydicom_says(ds: Dataset, key: Key) -> object:
    value = ds.get(key.keyword)
    if key.vr == "SQ":
        return len(value or ())
    if key.vr in ("IS", "US"):
        first = value[0] if isinstance(value, MultiValue) else value
        return int(first) if str(first or "").lstrip("-").isdigit() or first == 0 else None
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def as_we_say(header: Header, key: Key) -> object:
    if key.vr == "SQ":
        return len(header.items(key.tag))
    if key.vr in ("IS", "US"):
        return header.integer(key.tag, key.vr)
    return header.text(key.tag, key.vr)


# -- against pydicom ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", list(pydicoms_files()), ids=lambda path: path.name)
def test_every_key_of_pydicoms_files_reads_as_pydicom_reads_it(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = _pydicom(path)
            meta = read_file_meta(fd)
            size = os.fstat(fd).st_size - meta.data_set_offset
            header = read_header(fd, meta.data_set_offset, size, meta.transfer_syntax_uid)
            if expected is None:
                return
            for key in KEYS:
                assert as_we_say(header, key) == as_pydicom_says(expected, key), key.keyword
    except CannotUnderstand:
        assert expected is None or "TransferSyntaxUID" not in expected.file_meta
    finally:
        os.close(fd)


def _pydicom(path: Path) -> Dataset | None:
    """Return the file as pydicom decodes it; None where pydicom cannot either."""
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        ds.walk(lambda _, element: element.value)
    except Exception:
        return None
    return ds


def nested(**more: object) -> Dataset:
    """Return an object with sequences of defined and undefined length around its keys."""
    item = Dataset()
    item.RequestedProcedureID = "RP1"
    item.ScheduledProcedureStepID = "SPS1"
    deep = Dataset()
    deep.ReferencedSOPInstanceUID = "9.9.9"
    deep.PurposeOfReferenceCodeSequence = Sequence([Dataset()])
    middle = Dataset()
    middle.ReferencedSeriesSequence = Sequence([deep, Dataset()])
    ds = data_set(
        RequestAttributesSequence=Sequence([item, Dataset()]),
        ReferencedStudySequence=Sequence([middle, middle]),
        **more,
    )
    for sequence in (ds["ReferencedStudySequence"], middle["ReferencedSeriesSequence"]):
        sequence.is_undefined_length = True
        for each in sequence.value:
            each.is_undefined_length_sequence_item = True
    return ds


@pytest.mark.parametrize("transfer_syntax_uid", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_are_jumped_over_or_kept_in_every_layout(
    transfer_syntax_uid: str, undefined: bool
) -> None:
    ds = nested(Rows=512)
    ds["RequestAttributesSequence"].is_undefined_length = undefined
    for item in ds.RequestAttributesSequence:
        item.is_undefined_length_sequence_item = undefined
    data = encoded(ds, transfer_syntax_uid)
    if transfer_syntax_uid == DEFLATED:
        data = zlib.compress(data, wbits=-15)
    header = read(data, transfer_syntax_uid)
    assert header.sop_instance_uid == "1.2.3.4.1"
    assert header.series_instance_uid == "1.2.3.4"
    assert header.integer(0x00280010, "US") == 512
    first, second = header.items(0x00400275)
    assert first.text(0x00401001, "SH") == "RP1"
    assert first.text(0x00400009, "SH") == "SPS1"
    assert second.values == {}


def test_a_sequence_hidden_in_un_is_read_as_implicit() -> None:
    """PS3.5 §6.2.2 note 2: UN of undefined length is Implicit VR Little Endian inside."""
    inner = encoded(data_set(), IMPLICIT)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner
    item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    private = struct.pack("<HH2sHI", 0x0009, 0x1010, b"UN", 0, 0xFFFFFFFF)
    private += item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    data = private + encoded(data_set())
    assert read(data).sop_instance_uid == "1.2.3.4.1"


@pytest.mark.parametrize(("named", "real"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT)])
def test_a_data_set_in_the_other_little_endian_layout_is_understood(named: str, real: str) -> None:
    assert read(encoded(data_set(), real), named).study_instance_uid == "1.2.3"


def test_an_unknown_vr_of_letters_has_a_long_length() -> None:
    """PS3.5 §7.1.2: VRs to come have a 32-bit length."""
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1010, b"ZZ", 0, 4) + b"abcd"
    assert read(unknown + encoded(data_set())).sop_instance_uid == "1.2.3.4.1"


# -- bounds --------------------------------------------------------------------------------------


def test_a_value_of_three_gigabytes_is_jumped_over(tmp_path: Path) -> None:
    length = 3 * 1024**3
    long = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, length)
    rest = encoded(data_set())
    with open(tmp_path / "sparse", "w+b") as file:
        file.write(b"meta" + long)
        file.seek(length, os.SEEK_CUR)
        file.write(rest)
        file.flush()
        size = len(long) + length + len(rest)
        header = read_header(file.fileno(), 4, size, EXPLICIT)
    assert header.study_instance_uid == "1.2.3"


def test_values_on_window_borders_are_whole() -> None:
    rest = encoded(data_set())
    for filling in range(64 * 1024 - 200, 64 * 1024 + 20, 2):
        long = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, filling) + bytes(filling)
        header = read(long + rest)
        assert header.sop_instance_uid == "1.2.3.4.1"
        assert header.text(0x00100010, "PN") == "Doe^Jane"


def test_a_deflated_header_is_inflated_only_so_far() -> None:
    private = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 40 * 1024**2)
    data = zlib.compress(private + bytes(40 * 1024**2), wbits=-15)
    with pytest.raises(CannotUnderstand, match="too long"):
        read(data, DEFLATED)


def test_what_is_not_deflated_is_not_understood() -> None:
    with pytest.raises(CannotUnderstand):
        read(b"\xff" * 100, DEFLATED)


def test_elements_without_end_are_not_understood() -> None:
    empty = struct.pack("<HH2sH", 0x0009, 0x1010, b"LO", 0)
    with pytest.raises(CannotUnderstand, match="too many"):
        read(empty * 200_001)


def test_many_long_values_are_not_kept() -> None:
    value = struct.pack("<HH2sH", 0x0008, 0x1030, b"LO", 16_000) + bytes(16_000)
    with pytest.raises(CannotUnderstand, match="too long"):
        read(value * 100)


def test_sequences_nested_without_end_are_not_understood() -> None:
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(CannotUnderstand, match="nested"):
        read((sequence + item) * 1000)


# -- damage and hostility ------------------------------------------------------------------------


@pytest.mark.parametrize("transfer_syntax_uid", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_a_cut_at_every_offset_is_a_shorter_header_or_not_understood(
    transfer_syntax_uid: str,
) -> None:
    data = encoded(nested(), transfer_syntax_uid)
    if transfer_syntax_uid == DEFLATED:
        data = zlib.compress(data, wbits=-15)
    whole = read(data, transfer_syntax_uid)
    for length in range(len(data)):
        try:
            header = read(data[:length], transfer_syntax_uid)
        except CannotUnderstand:
            continue
        assert header.values.items() <= whole.values.items()


@given(st.binary(max_size=400), st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED, "1.2.3"]))
def test_any_bytes_are_a_header_or_not_understood(data: bytes, transfer_syntax_uid: str) -> None:
    try:
        header = read(data, transfer_syntax_uid)
    except CannotUnderstand:
        return
    for key in KEYS:
        as_we_say(header, key)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_header_with_damaged_bytes_is_a_header_or_not_understood(data: st.DataObject) -> None:
    transfer_syntax_uid = data.draw(st.sampled_from([EXPLICIT, IMPLICIT, BIG]))
    damaged = bytearray(encoded(nested(), transfer_syntax_uid))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFE, 0xFF, 0x53, 0x51]))
    try:
        header = read(bytes(damaged), transfer_syntax_uid)
    except CannotUnderstand:
        return
    for key in KEYS:
        as_we_say(header, key)


# -- reading early and to the end ------------------------------------------------------------------


def test_the_front_of_an_object_tells_as_much_as_its_file() -> None:
    data = encoded(nested(BitsAllocated=8, PixelData=bytes(200_000)))
    header = read_front(data[:100_000], EXPLICIT, is_whole=False)
    assert header is not None
    assert header.values == read(data).values


def test_a_front_that_ends_before_the_header_does_tells_nothing_yet() -> None:
    private = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 200_000) + bytes(200_000)
    data = private + encoded(data_set())
    assert read_front(data[:100_000], EXPLICIT, is_whole=False) is None


def test_only_a_whole_data_set_reads_to_its_end(tmp_path: Path) -> None:
    data = encoded(data_set(BitsAllocated=8, PixelData=bytes(1000)))
    with open(tmp_path / "data", "w+b") as file:
        file.write(data)
        file.flush()
        header = read_to_end(file.fileno(), 0, len(data), EXPLICIT)
        assert header.sop_instance_uid == "1.2.3.4.1"
        for length in (len(data) - 1, len(data) - 500, 100):
            with pytest.raises(CannotUnderstand):
                read_to_end(file.fileno(), 0, length, EXPLICIT)
