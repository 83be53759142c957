"""Identifiers of answers as bytes, against pydicom's reader."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from dicomnode.services.answers import Field, Layout, Repertoire
from dicomnode.storage.encoding import Elements
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT

LEVEL = (0x00080052, "CS", b"STUDY")


def read(data: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        assert len(data) % 2 == 0
        data = zlib.decompressobj(-15).decompress(data)
    ds = read_dataset(DicomBytesIO(data), syntax == IMPLICIT, syntax != BIG)
    ds.decode()
    return ds


def layout(syntax: str, *fields: Field, character_set: bytes = b"", said: bool = False) -> Layout:
    return Layout(Repertoire(syntax, character_set, said=said), fields, [LEVEL])


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
@given(name=st.text("aé山^", max_size=6), rows=st.one_of(st.none(), st.integers(0, 65535)))
def test_values_come_back(syntax: str, name: str, rows: int | None) -> None:
    made = layout(syntax, Field(0x00280010, "US"), Field(0x00100010, "PN"))
    ds = read(made.encode((rows, name)), syntax)
    assert ds.QueryRetrieveLevel == "STUDY"
    assert ds.Rows == rows
    assert str(ds.PatientName or "") == name


@pytest.mark.parametrize(
    ("row", "values"),
    [((None, ""), (None, "")), ((7, "1.2"), (7, "1.2")), ((-7, "1.23"), (-7, "1.23"))],
)
def test_numbers_and_uids_are_padded_as_their_vr_is(
    row: tuple[Any, ...], values: tuple[Any, ...]
) -> None:
    made = layout(EXPLICIT, Field(0x00200011, "IS"), Field(0x0020000D, "UI"))
    ds = read(made.encode(row), EXPLICIT)
    assert (ds.SeriesNumber, ds.StudyInstanceUID) == values


def test_a_value_that_its_length_field_cannot_tell_is_cut_between_values() -> None:
    uids = "\\".join(["1.2.840.10008.5.1.4.1.1.2"] * 5000)
    ds = read(layout(EXPLICIT, Field(0x00080062, "UI")).encode((uids,)), EXPLICIT)
    assert len(uids) > 65535
    assert set(ds.SOPClassesInStudy) == {"1.2.840.10008.5.1.4.1.1.2"}
    ds = read(layout(IMPLICIT, Field(0x00080062, "UI")).encode((uids,)), IMPLICIT)
    assert len(ds.SOPClassesInStudy) == 5000


def test_the_character_set_is_said_where_it_is_needed_or_wanted() -> None:
    name = Field(0x00100010, "PN")

    def told(character_set: bytes, said: bool, value: str) -> object:
        made = layout(EXPLICIT, name, character_set=character_set, said=said)
        return read(made.encode((value,)), EXPLICIT).get("SpecificCharacterSet")

    assert told(b"", False, "Doe") is None
    assert told(b"", False, "é") == "ISO_IR 192"
    assert told(b"ISO_IR 100", True, "Doe") == "ISO_IR 100"
    assert told(b"ISO_IR 100", True, "é") == "ISO_IR 100"
    assert told(b"ISO_IR 100", True, "山") == "ISO_IR 192"
    assert told(b"\\ISO 2022 IR 87", True, "山") == ["", "ISO 2022 IR 87"]


def test_elements_of_one_answer_alone_take_their_place() -> None:
    made = layout(EXPLICIT, Field(0x00100010, "PN"))
    kvp = made.elements.element(0x00180060, "DS", b"120")
    early = made.elements.element(0x00080008, "CS", b"ORIGINAL")
    data = made.encode(
        ("Doe",), [(0x00180060, lambda encodings: kvp), (0x00080008, lambda encodings: early)]
    )
    ds = read(data, EXPLICIT)
    assert [element.keyword for element in ds] == [
        "ImageType",
        "QueryRetrieveLevel",
        "PatientName",
        "KVP",
    ]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_a_sequence_has_an_item_for_each(syntax: str) -> None:
    elements = Elements(syntax)
    items = [elements.element(0x00080100, "SH", value) for value in (b"1", b"22")]
    ds = read(elements.items(0x00081032, items), syntax)
    assert [item.CodeValue for item in ds.ProcedureCodeSequence] == ["1", "22"]
