"""Keys of queries: what is written, and what it becomes, with pydicom as the reader."""

import base64
from io import BytesIO

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from dicomnode.scu.keys import Keys, texts_at

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"


def read(query: Keys, syntax: str = EXPLICIT) -> Dataset:
    return read_dataset(BytesIO(query.encoded(syntax).data), syntax == IMPLICIT, True)


def keys(*written: str) -> Keys:
    query = Keys()
    for each in written:
        query.add(each)
    return query


@pytest.mark.parametrize(
    "key", ["PatientName=SMI*", "0010,0010=SMI*", "(0010,0010)=SMI*", "00100010=SMI*"]
)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_key_is_a_keyword_or_a_tag(key: str, syntax: str) -> None:
    assert str(read(keys(key), syntax).PatientName) == "SMI*"


def test_a_path_leads_into_items_of_sequences() -> None:
    step = "ScheduledProcedureStepSequence[0]"
    found = read(keys(f"{step}.Modality=CT", "(0040,0100)[0].0040,0001", "PatientID"))
    item = found.ScheduledProcedureStepSequence[0]
    assert (item.Modality, item.ScheduledStationAETitle) == ("CT", "")
    assert found.PatientID == ""


def test_a_sequence_may_have_no_item_or_an_empty_one() -> None:
    assert len(read(keys("ScheduledProcedureStepSequence")).ScheduledProcedureStepSequence) == 0
    with_item = read(keys("ScheduledProcedureStepSequence[0]"))
    assert len(with_item.ScheduledProcedureStepSequence) == 1


def test_values_stand_as_they_were_written() -> None:
    found = read(keys("StudyDate=20260101-", "StudyInstanceUID=1.2\\1.3", "Rows=512"))
    assert found.StudyDate == "20260101-"
    assert list(found.StudyInstanceUID) == ["1.2", "1.3"]
    assert found.Rows == 512


@pytest.mark.parametrize(
    ("name", "term"), [("Müller*", "ISO_IR 100"), ("山田*", "ISO_IR 192"), ("Doe*", None)]
)
def test_the_character_set_is_the_plainest_that_will_do(name: str, term: str | None) -> None:
    found = read(keys(f"PatientName={name}"))
    assert str(found.PatientName) == name
    assert found.get("SpecificCharacterSet") == term


def test_private_keys_ask_for_what_a_dicomnode_holds() -> None:
    found = read(keys("0099,0010=DICOMNODE", "0099,1001"))
    assert found[0x0099_0010].value == "DICOMNODE"
    assert 0x0099_1001 in found


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("PatientNam=x", "did you mean PatientName?"),
        ("10,10=x", "neither a keyword"),
        ("", "neither a keyword"),
        ("Rows=many", "Rows takes numbers"),
        ("Modality[0].PatientID=1", "is no sequence"),
        ("ScheduledProcedureStepSequence=CT", "has items, and no value"),
        ("ScheduledProcedureStepSequence[3].Modality=CT", "given in order"),
        (".".join(["ReferencedStudySequence"] * 20), "nested too deeply"),
    ],
)
def test_what_is_wrong_with_a_key_is_said(key: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("?", r"\?")):
        keys(key)


def test_what_is_shown_is_asked_for_unless_a_key_asks() -> None:
    for given, all_paths in ((["PatientName=X"], 2), (["PatientName=X", "PatientID"], 2), ([], 1)):
        query = keys(*given)
        query.add_shown(["StudyDate"])
        assert len(query.paths) == all_paths


def test_bytes_are_shown_as_the_text_that_they_are_or_in_base64() -> None:
    for data, shown in ((b"A^B \0", "A^B"), (b"\0\x01", "AAE="), (b"\xe9", "6Q==")):
        inline = base64.b64encode(data).decode()
        held = {"00990010": {"vr": "UN", "InlineBinary": inline}}
        assert list(texts_at(held, (0x0099_0010,))) == [shown]
