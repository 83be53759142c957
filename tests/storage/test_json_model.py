"""The DICOM JSON model (PS3.18 Annex F): from data sets and to data sets."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from dicomnode.errors import UnreadableAttributes
from dicomnode.storage.encoding import Elements, deflated
from dicomnode.storage.json_model import (
    MAX_BULK_BYTES,
    decode_attributes,
    encode_attributes,
    items_of,
    name_of,
    text_of,
)
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT, encoded

UTF8 = ("utf8",)
SYNTAXES = [EXPLICIT, IMPLICIT, BIG]


def example() -> Dataset:
    """Return a data set with values of every kind of VR."""
    ds, step, code = Dataset(), Dataset(), Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.StudyDate, ds.StudyTime = "20261121", "0930"
    ds.AccessionNumber = "A1"
    ds.ReferringPhysicianName = ""
    ds.PatientName = "Müller^Jörg=山田^太郎=やまだ^たろう"
    ds.OtherPatientNames = ["A^B", "", "C^D"]
    ds.PatientWeight = "71.50"
    ds.PregnancyStatus = 4
    ds.AdditionalPatientHistory = "one \\ two\r\nthree"
    ds.StudyInstanceUID = "1.2.3.4"
    ds.FrameIncrementPointer = [0x00181063, 0x00181065]
    ds.RecommendedDisplayFrameRateInFloat = 1.5
    ds.add_new(0x00189073, "FD", [0.25, -3.0])
    ds.EncapsulatedDocument = b"\x01\x02\x03\x04"
    code.CodeValue, code.CodeMeaning = "HIP", "Hüfte"
    step.ScheduledStationAETitle = ["CT_1", "CT_2"]
    step.ScheduledProtocolCodeSequence = [code]
    ds.ScheduledProcedureStepSequence = [step]
    ds.ReferencedStudySequence = []
    return ds


def values(*given: Any, vr: str = "LO") -> dict[str, Any]:
    return {"vr": vr, "Value": list(given)}


# -- data sets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_data_set_is_read_as_pydicom_reads_it(syntax: str) -> None:
    ds = example()
    found = decode_attributes(encoded(ds, syntax), syntax)
    del ds.SpecificCharacterSet
    assert found.pop("00080090") == {"vr": "PN"}  # pydicom says this with an empty name
    del ds.ReferringPhysicianName
    del ds.OtherPatientNames  # and fails on these
    assert found.pop("00101001") == values(
        {"Alphabetic": "A^B"}, None, {"Alphabetic": "C^D"}, vr="PN"
    )
    assert found.pop("00101030") == values("71.50", vr="DS")
    del ds.PatientWeight
    expected = ds.to_json_dict()
    assert found.pop("00081110") == values(vr="SQ")
    expected.pop("00081110")
    if syntax == IMPLICIT:
        # Without VR what PS3.6 says: OB.
        assert found["00420011"]["InlineBinary"] == expected["00420011"]["InlineBinary"]
    assert found == expected


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("read_as", SYNTAXES)
def test_what_was_read_can_be_written_in_every_transfer_syntax(syntax: str, read_as: str) -> None:
    attributes = decode_attributes(encoded(example(), read_as), read_as)
    data = encode_attributes(attributes, Elements(syntax), UTF8)
    assert decode_attributes(data, syntax) == attributes
    ds = read_dataset(DicomBytesIO(data), syntax == IMPLICIT, syntax != BIG)
    assert list(ds.keys()) == sorted(ds.keys())
    assert ds.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == ["CT_1", "CT_2"]
    assert ds.FrameIncrementPointer == [0x00181063, 0x00181065]


def test_a_deflated_data_set_is_read(syntax: str = EXPLICIT) -> None:
    data = encoded(example(), syntax)
    assert decode_attributes(deflated(data), DEFLATED) == decode_attributes(data, syntax)


@pytest.mark.parametrize(
    ("character_set", "name", "raw"),
    [
        ("ISO_IR 100", "Müller", b"M\xfcller"),
        ("ISO_IR 101", "Łukasz", b"\xa3ukasz"),
        ("\\ISO 2022 IR 87", "山田", b"\x1b$B;3ED\x1b(B"),
        ("", "Muller", b"Muller"),
    ],
)
def test_text_is_unicode_whatever_the_character_set(
    character_set: str, name: str, raw: bytes
) -> None:
    data = element(0x00080005, b"CS", character_set.encode()) + element(0x00100010, b"PN", raw)
    assert text_of(decode_attributes(data, EXPLICIT), "PatientName") == name


def test_an_item_may_have_a_character_set_of_its_own() -> None:
    inner = element(0x00080005, b"CS", b"ISO_IR 192") + element(0x00080104, b"LO", "Hüfte".encode())
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
    data = element(0x00080005, b"CS", b"ISO_IR 100") + element(0x00321064, b"SQ", item)
    data += element(0x00321060, b"LO", b"H\xfcfte")
    attributes = decode_attributes(data, EXPLICIT)
    assert text_of(items_of(attributes, "RequestedProcedureCodeSequence")[0], "CodeMeaning") == (
        "Hüfte"
    )
    assert text_of(attributes, "RequestedProcedureDescription") == "Hüfte"


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"SQ", b"OB", b"UN", b"OW", b"UT"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def test_what_says_only_how_a_data_set_was_written_is_left_out() -> None:
    data = (
        element(0x00080000, b"UL", b"\x10\0\0\0")
        + element(0x00080005, b"CS", b"ISO_IR 100")
        + element(0x00100020, b"LO", b"1")
        + element(0x00110010, b"LO", b"CREATOR")
        + element(0x00111001, b"SH", b"kept")
        + element(0x00111002, b"UN", b"unknown")
        + element(0x7FE00010, b"OB", b"\0\0")
        + element(0xFFFCFFFC, b"OB", b"\0\0")
    )
    assert list(decode_attributes(data, EXPLICIT)) == ["00100020", "00110010", "00111001"]


def test_an_unknown_vr_of_a_known_attribute_is_read_as_the_standard_says() -> None:
    # PS3.5 §6.2.2: UN is in Implicit VR Little Endian.
    data = element(0x00100020, b"UN", b"4711") + element(0x001021C0, b"UN", b"\x04\0")
    attributes = decode_attributes(data, EXPLICIT)
    assert attributes == {"00100020": values("4711"), "001021C0": values(4, vr="US")}


def test_a_sequence_of_unknown_vr_is_a_sequence() -> None:
    item = struct.pack("<HHI4s", 0x0008, 0x0100, 4, b"HIP ")
    data = element(0x00321064, b"UN", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)
    (code,) = items_of(decode_attributes(data, EXPLICIT), "RequestedProcedureCodeSequence")
    assert code == {"00080100": values("HIP", vr="SH")}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (element(0x00080005, b"CS", b"ISO_IR 999"), "Specific Character Set is not known"),
        (element(0x00100020, b"LO", b"4711")[:-1], "the data set is cut short"),
        (b"not a data set at all", "cut short"),
        (b"\x10\0\xc0\x21US\x03\0abc", "Pregnancy Status has 3 bytes, which no US has"),
        (element(0x00420011, b"OB", bytes(MAX_BULK_BYTES + 2)), "Encapsulated Document: more than"),
        (element(0x00104000, b"UT", b"x" * 0x10000), "Patient Comments is too long"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(data: bytes, words: str) -> None:
    with pytest.raises(UnreadableAttributes, match=words):
        decode_attributes(data, EXPLICIT)


def test_a_small_deflated_data_set_that_is_huge_inflated_is_refused() -> None:
    compressor = zlib.compressobj(wbits=-15)
    bomb = compressor.compress(bytes(64 * 1024 * 1024)) + compressor.flush()
    with pytest.raises(UnreadableAttributes, match="inflated"):
        decode_attributes(bomb, DEFLATED)


def nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = b"\x40\x00\x08\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" + data
        data += b"\xfe\xff\r\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return data


def test_nesting_is_bounded() -> None:
    decode_attributes(nested(16), EXPLICIT)
    for depth in (17, 100, 10_000):
        with pytest.raises(UnreadableAttributes, match="nested"):
            decode_attributes(nested(depth), EXPLICIT)


@given(st.binary(max_size=200), st.sampled_from([*SYNTAXES, DEFLATED]))
def test_any_bytes_are_attributes_or_unreadable(data: bytes, syntax: str) -> None:
    try:
        attributes = decode_attributes(data, syntax)
    except UnreadableAttributes:
        return
    json.dumps(attributes, allow_nan=False)
    encode_attributes(attributes, Elements(EXPLICIT), UTF8)


@given(st.integers(0, len(encoded(example())) - 1), st.sampled_from([EXPLICIT, IMPLICIT]))
def test_a_data_set_cut_anywhere_is_attributes_or_unreadable(at: int, syntax: str) -> None:
    try:
        decode_attributes(encoded(example(), syntax)[:at], syntax)
    except UnreadableAttributes:
        return


def test_characters_that_a_character_set_does_not_have_are_not_written() -> None:
    attributes = {"00100010": values({"Alphabetic": "山田"}, vr="PN")}
    with pytest.raises(UnicodeEncodeError):
        encode_attributes(attributes, Elements(EXPLICIT), ("latin_1",))


def test_bytes_that_no_code_string_has_can_be_written_all_the_same() -> None:
    attributes = decode_attributes(element(0x00080060, b"CS", b"C\xe9"), EXPLICIT)
    data = encode_attributes(attributes, Elements(EXPLICIT), UTF8)
    assert data == element(0x00080060, b"CS", b"C?")


# -- values ------------------------------------------------------------------------------------


def test_values_are_joined_as_a_data_set_joins_them() -> None:
    attributes = decode_attributes(encoded(example()), EXPLICIT)
    assert text_of(attributes, "PatientName") == "Müller^Jörg=山田^太郎=やまだ^たろう"
    assert text_of(attributes, 0x00101001) == "A^B\\\\C^D"
    assert text_of(attributes, "ReferringPhysicianName", "nobody") == "nobody"
    assert text_of(attributes, "PatientID", "none") == "none"
    assert text_of(attributes, "PregnancyStatus") == "4"
    (step,) = items_of(attributes, 0x00400100)
    assert text_of(step, "ScheduledStationAETitle") == "CT_1\\CT_2"
    assert items_of(attributes, "ReferencedStudySequence") == []
    assert items_of(attributes, "PatientName") == []


def test_attributes_are_called_by_the_standards_names() -> None:
    assert name_of("00400001") == "Scheduled Station AE Title"
    assert name_of("00091001") == "(0009,1001)"
    with pytest.raises(KeyError):
        text_of({}, "NoKeyword")
