"""Whatever a data set holds, and however deep: nothing that identifies gets into the copy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pydicom
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicomnode.deidentification.files import deidentify
from dicomnode.deidentification.options import Dates, Options
from dicomnode.deidentification.profile import table
from dicomnode.errors import NotDeidentified
from tests.deidentification.originals import PROJECT, ROOT, original, written

SECRET = "Xyzzyq"
SECRET_ID = "QX-778899"
SECRET_DAY = "19330214"
# Where the standard says that there are identifiers: none of these values may get through.
LISTED = {int(tag, 16) for tag in table() if "x" not in tag}
TEXTS = ("LO", "SH", "ST", "LT", "UT", "PN", "UC")
_BY_VR = {
    vr: sorted(
        tag
        for tag, entry in DicomDictionary.items()
        if entry[0] == vr and tag > 0x00080000 and tag not in (0x00080005, 0x0040A730, 0x00420011)
    )
    for vr in (*TEXTS, "UI", "DA", "DT", "SQ")
}
KEPT_KINDS = (
    "Class",
    "TransferSyntax",
    "CodingScheme",
    "ContextUID",
    "MappingResource",
    "GroupExtension",
)


def value_of(vr: str, tag: int) -> str:
    match vr:
        case "UI":
            return f"{ROOT}.99.{tag}"
        case "DA":
            return SECRET_DAY
        case "DT":
            return SECRET_DAY + "101112"
        case "PN":
            return f"{SECRET}^Plugh"
    return f"for {SECRET}" if tag % 2 else SECRET_ID


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 3) -> Dataset:
    made = Dataset()
    for _ in range(draw(st.integers(0, 6))):
        vr = draw(st.sampled_from((*TEXTS, "UI", "DA", "DT")))
        tag = draw(st.sampled_from(_BY_VR[vr]))
        # A free text that the table leaves alone is the leak check's, which refuses.
        if vr in ("PN", "UI", "DA", "DT") or tag in LISTED:
            made.add_new(tag, vr, value_of(vr, tag))
    if draw(st.booleans()):
        block = made.private_block(0x0011, SECRET, create=True)
        block.add_new(draw(st.integers(0, 255)), "LO", SECRET)
    if depth and draw(st.booleans()):
        items = draw(st.lists(data_sets(depth - 1), max_size=2))
        made.add_new(draw(st.sampled_from(_BY_VR["SQ"])), "SQ", Sequence(items))
    return made


@settings(max_examples=100)
@given(
    data_sets(),
    st.sampled_from((ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)),
    st.builds(
        Options,
        dates=st.sampled_from((Dates.REMOVED, Dates.SHIFTED)),
        clean_descriptors=st.booleans(),
    ),
)
def test_no_value_that_identifies_is_in_the_copy(
    data_set: Dataset, syntax: str, options: Options
) -> None:
    whole = original(
        PatientName=f"{SECRET}^Plugh", PatientID=SECRET_ID, PatientBirthDate=SECRET_DAY
    )
    whole.update({each.tag: each for each in data_set if each.tag not in whole})
    with tempfile.TemporaryDirectory() as folder:
        source = written(whole, Path(folder) / "original.dcm", syntax)
        target = Path(folder) / "copy.dcm"
        deidentify(source, lambda names: target, PROJECT, options)
        content = target.read_bytes().lower()
        for secret in (SECRET, "Plugh", SECRET_ID, SECRET_DAY):
            assert secret.lower().encode() not in content
        left = [
            element
            for element in pydicom.dcmread(target).iterall()
            if element.VR == "UI" and ROOT in str(element.value)
        ]
        assert [e for e in left if not any(kind in e.keyword for kind in KEPT_KINDS)] == []


@settings(max_examples=100)
@given(st.data())
def test_text_that_the_table_leaves_alone_is_refused_if_it_holds_a_name(
    data: st.DataObject,
) -> None:
    vr = data.draw(st.sampled_from(TEXTS[:5]))
    tag = data.draw(st.sampled_from(_BY_VR[vr]))
    whole = original(PatientName=f"{SECRET}^Plugh")
    whole.add_new(tag, vr, f"of {SECRET}, A.")
    with tempfile.TemporaryDirectory() as folder:
        source = written(whole, Path(folder) / "original.dcm")
        target = Path(folder) / "copy.dcm"
        try:
            deidentify(source, lambda names: target, PROJECT, Options(clean_descriptors=True))
        except NotDeidentified as error:
            assert "still holds" in str(error) and SECRET not in str(error)
            assert not target.exists()
        else:
            assert SECRET.lower().encode() not in target.read_bytes().lower()


@settings(max_examples=120)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_no_bytes_make_it_fail_otherwise_than_by_a_refusal(noise: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = written(original(StudyDescription="x" * 40), Path(folder) / "original.dcm")
        content = bytearray(source.read_bytes())
        begin = min(300 + at, len(content))
        content[begin : begin + len(noise)] = noise
        source.write_bytes(content)
        target = Path(folder) / "copy.dcm"
        try:
            deidentify(source, lambda names: target, PROJECT, Options(dates=Dates.SHIFTED))
        except NotDeidentified:
            assert not target.exists()
