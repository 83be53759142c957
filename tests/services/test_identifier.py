"""Identifiers against their information model (PS3.4 §C.4, §C.6)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomnode.errors import StatusError
from dicomnode.index.keys import Level
from dicomnode.services.identifier import Bounds, Identifier, check_query, parse, retrieve_keys
from dicomnode.services.sop_classes import Root
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT, encoded

BOUNDS = Bounds(max_identifier_bytes=100_000, max_list_values=3)


def parsed(level: str, root: Root = Root.PATIENT, **values: Any) -> Identifier:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return parse(encoded(ds), EXPLICIT, root, BOUNDS)


def refusal(
    level: str, root: Root = Root.PATIENT, *, relational: bool = False, **values: Any
) -> Any:
    with pytest.raises(StatusError) as raised:
        retrieve_keys(parsed(level, root, **values), relational=relational)
    assert raised.value.status == 0xA900
    assert 0 < len(raised.value.comment) <= 64
    return raised.value.offending


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_an_identifier_is_read_in_every_transfer_syntax(syntax: str) -> None:
    ds = Dataset()
    ds.QueryRetrieveLevel = "STUDY"
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName = "Müller"
    ds.private_block(0x0099, "DICOMNODE", create=True).add_new(1, "LO", "")
    identifier = parse(encoded(ds, syntax), syntax, Root.STUDY, BOUNDS)
    assert identifier.level is Level.STUDY
    assert identifier.text(0x00100010, "PN") == "Müller"
    assert identifier.header.values[0x00990010].strip() == b"DICOMNODE"


def test_the_unique_keys_of_a_retrieval_are_read_from_the_level_up() -> None:
    assert retrieve_keys(
        parsed("SERIES", PatientID="P", StudyInstanceUID="1.2", SeriesInstanceUID="1.3\\1.4"),
        relational=False,
    ) == (
        Level.SERIES,
        {"PatientID": ["P"], "StudyInstanceUID": ["1.2"], "SeriesInstanceUID": ["1.3", "1.4"]},
    )
    assert retrieve_keys(
        parsed("STUDY", Root.STUDY, StudyInstanceUID="1.2", PatientID="P", PatientName="x*"),
        relational=False,
    ) == (Level.STUDY, {"StudyInstanceUID": ["1.2"]})
    assert retrieve_keys(parsed("PATIENT", PatientID="P"), relational=False) == (
        Level.PATIENT,
        {"PatientID": ["P"]},
    )


def test_a_relational_retrieval_needs_no_keys_above_its_level() -> None:
    identifier = parsed("IMAGE", SOPInstanceUID="1.5", StudyInstanceUID="1.2\\1.3")
    assert retrieve_keys(identifier, relational=True) == (
        Level.INSTANCE,
        {"SOPInstanceUID": ["1.5"], "StudyInstanceUID": ["1.2", "1.3"]},
    )


def test_keys_below_the_level_may_be_there_without_a_value() -> None:
    identifier = parsed("STUDY", Root.STUDY, StudyInstanceUID="1.2", SeriesInstanceUID="")
    assert retrieve_keys(identifier, relational=False)[1] == {"StudyInstanceUID": ["1.2"]}


@pytest.mark.parametrize(
    ("level", "values", "offending"),
    [
        ("STUDY", {"StudyInstanceUID": "1.2"}, 0x00100020),
        ("STUDY", {"PatientID": "P"}, 0x0020000D),
        ("STUDY", {"PatientID": "P", "StudyInstanceUID": ""}, 0x0020000D),
        ("STUDY", {"PatientID": "P\\Q", "StudyInstanceUID": "1.2"}, 0x00100020),
        ("STUDY", {"PatientID": "P*", "StudyInstanceUID": "1.2"}, 0x00100020),
        ("PATIENT", {"PatientID": "*"}, 0x00100020),
        ("PATIENT", {"PatientID": "P?"}, 0x00100020),
        ("PATIENT", {"PatientID": "P", "StudyInstanceUID": "1.2"}, 0x0020000D),
        ("STUDY", {"PatientID": "P", "StudyInstanceUID": "1.*"}, 0x0020000D),
        ("STUDY", {"PatientID": "P", "StudyInstanceUID": "../etc"}, 0x0020000D),
        ("STUDY", {"PatientID": "P", "StudyInstanceUID": "1." * 40 + "1"}, 0x0020000D),
        ("STUDY", {"PatientID": "P", "StudyInstanceUID": "1.2\\1.3\\1.4\\1.5"}, 0x0020000D),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_retrieval_against_the_rules_is_refused(
    level: str, values: dict[str, str], offending: int
) -> None:
    assert refusal(level, **values) == (offending,)


def test_a_query_needs_one_value_of_each_unique_key_above_its_level() -> None:
    check_query(parsed("STUDY", PatientID="P"), relational=False)
    with pytest.raises(StatusError):
        check_query(parsed("STUDY"), relational=False)
    check_query(parsed("STUDY"), relational=True)


@pytest.mark.parametrize(
    ("root", "level"),
    [
        (Root.STUDY, "PATIENT"),
        (Root.PATIENT_STUDY_ONLY, "SERIES"),
        (Root.PATIENT, "study"),
        (Root.PATIENT, "STUDY\\SERIES"),
        (Root.PATIENT, ""),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_level_that_the_root_does_not_have_is_refused(root: Root, level: str) -> None:
    with pytest.raises(StatusError) as raised:
        parsed(level, root)
    assert (raised.value.status, raised.value.offending) == (0xA900, (0x00080052,))


@given(st.binary(max_size=200), st.sampled_from([EXPLICIT, IMPLICIT, BIG, DEFLATED]))
def test_any_bytes_are_an_identifier_or_refused(data: bytes, syntax: str) -> None:
    try:
        identifier = parse(data, syntax, Root.PATIENT, BOUNDS)
        retrieve_keys(identifier, relational=False)
    except StatusError as error:
        assert error.status in (0xA900, 0xC000)
