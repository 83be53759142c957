"""JSON from outside in the DICOM JSON model: good is kept, bad is refused with a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicomnode.errors import UnreadableAttributes
from dicomnode.storage.encoding import Elements
from dicomnode.storage.json_checks import check_attributes
from dicomnode.storage.json_model import (
    Attributes,
    decode_attributes,
    encode_attributes,
    text_of,
)
from tests.storage.objects import EXPLICIT, encoded
from tests.storage.test_json_model import UTF8, example, values


def test_attributes_that_were_read_pass_the_check() -> None:
    attributes = decode_attributes(encoded(example()), EXPLICIT)
    assert check_attributes(json.loads(json.dumps(attributes))) == attributes


def test_pydicoms_json_passes_the_check() -> None:
    ds = example()
    del ds.OtherPatientNames
    del ds.ReferringPhysicianName
    checked = check_attributes(json.loads(ds.to_json()))
    assert text_of(checked, "PatientWeight") == "71.5"
    assert "00080005" not in checked
    assert Dataset.from_json(json.dumps(checked)).PatientName == ds.PatientName


@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("00100020", values(" 4711 "), values("4711")),
        ("0040000a", values(vr="SQ"), values(vr="SQ")),
        ("00100020", values(None), {"vr": "LO"}),
        ("00100020", {"vr": "LO"}, {"vr": "LO"}),
        ("00101030", values(70, vr="DS"), values("70", vr="DS")),
        ("00101030", values(70.25, vr="DS"), values("70.25", vr="DS")),
        ("00200013", values(7, vr="IS"), values("7", vr="IS")),
        ("00100010", values({"Alphabetic": "A^B", "Phonetic": ""}, vr="PN"), None),
        ("00280009", values("00181063", vr="AT"), values("00181063", vr="AT")),
        ("00420011", {"vr": "OB", "InlineBinary": "AQI="}, None),
        ("001021B0", values("one \\ two\r\n", vr="LT"), values("one \\ two\r\n", vr="LT")),
    ],
)
def test_good_json_is_kept(key: str, given: dict[str, Any], kept: dict[str, Any] | None) -> None:
    checked = check_attributes({key: given})
    if kept is not None:
        assert checked == {key.upper(): kept}
    encode_attributes(checked, Elements(EXPLICIT), UTF8)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "a data set must be a JSON object"),
        ({"PatientID": values("1")}, "no tag"),
        ({"0010002": values("1")}, "no tag"),
        ({"00100020": "1"}, "Patient ID must be a JSON object"),
        ({"00100020": {"Value": ["1"]}}, "Patient ID has no known vr"),
        ({"00100020": values("1", vr="XX")}, "Patient ID has no known vr"),
        ({"00100020": values("1", vr=["LO"])}, "Patient ID has no known vr"),  # type: ignore[arg-type]
        ({"00100020": {"vr": "LO", "Value": "1"}}, "array called Value"),
        ({"00100020": {"vr": "LO", "BulkDataURI": "http://x"}}, "BulkDataURI, which is not taken"),
        ({"00100020": values(1)}, "Patient ID has a value that is no string"),
        ({"00100020": values("1\x00")}, "control character"),
        ({"00100020": values("1\ud800")}, "control character"),
        ({"00080060": values("C\nT", vr="CS")}, "Modality has a control character"),
        ({"00100020": values("A\\B")}, "backslash"),
        ({"00100020": values("x" * 65)}, "longer than 64"),
        ({"00080060": values("é", vr="CS")}, "characters that no CS has"),
        ({"00100010": values("A^B", vr="PN")}, "Patient's Name must have names as objects"),
        ({"00100010": values({"Alphabetic": "A=B"}, vr="PN")}, '"="'),
        ({"001021C0": values("4", vr="US")}, "no number"),
        ({"001021C0": values(True, vr="US")}, "no number"),
        ({"001021C0": values(70_000, vr="US")}, "no US can hold"),
        ({"001021C0": values(1.5, vr="US")}, "no US can hold"),
        ({"00189073": values(10**400, vr="FD")}, "no FD can hold"),
        ({"00280009": values("0018", vr="AT")}, "no tag"),
        ({"00420011": {"vr": "OB", "InlineBinary": "*"}}, "Base64"),
        ({"00420011": {"vr": "OB", "InlineBinary": "A" * 70_000}}, "too long"),
        ({"00420011": values("x", vr="OB")}, "InlineBinary"),
        ({"001021B0": values("a", "b", vr="LT")}, "too many values"),
        ({"00400001": values(*["A" * 16] * 4000, vr="AE")}, "too long"),
        ({"00400100": values("x", vr="SQ")}, "a data set must be a JSON object"),
    ],
)
def test_bad_json_is_refused_with_a_sentence(value: object, words: str) -> None:
    with pytest.raises(UnreadableAttributes, match=words):
        check_attributes(value)


def test_nesting_of_json_is_bounded() -> None:
    attributes: Attributes = {}
    for _ in range(16):
        attributes = {"00400008": values(attributes, vr="SQ")}
    assert check_attributes(attributes) == attributes
    with pytest.raises(UnreadableAttributes, match="nested deeper than 16"):
        check_attributes({"00400008": values(attributes, vr="SQ")})
