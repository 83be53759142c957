"""What becomes of an object: identifiers, moments, references, statements; and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicomnode.deidentification.files import deidentify
from dicomnode.deidentification.options import Dates, Options
from dicomnode.deidentification.project import Project
from dicomnode.errors import NotDeidentified
from dicomnode.storage.encoding import EXPLICIT_LITTLE, IMPLICIT_LITTLE, UNDEFINED
from tests.deidentification.originals import (
    CT,
    PROJECT,
    ROOT,
    appended,
    copied,
    original,
    refused,
    written,
)

SHIFTED = Options(dates=Dates.SHIFTED)
KEPT = Options(dates=Dates.KEPT)
GRAPHICS = (0x5000, 0x6000)
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"


def item(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
def test_a_copy_says_who_it_is_not_of_and_how_that_was_done(tmp_path: Path, syntax: str) -> None:
    made, path, _ = copied(tmp_path, original(), syntax=syntax)
    assert made.file_meta.TransferSyntaxUID == syntax
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert "SourceApplicationEntityTitle" not in made.file_meta
    assert made.preamble == bytes(128)
    assert made.PatientIdentityRemoved == "YES"
    assert made.LongitudinalTemporalInformationModified == "REMOVED"
    assert [code.CodeValue for code in made.DeidentificationMethodCodeSequence] == ["113100"]
    assert {code.CodingSchemeDesignator for code in made.DeidentificationMethodCodeSequence} == {
        "DCM"
    }
    assert made.PatientID == made.PatientName and made.PatientID.startswith("TRIAL-")
    assert made.PatientBirthDate == made.StudyDate == made.StudyTime == made.PatientSex == ""
    assert made.Modality == "CT" and made.InstanceNumber == 1
    assert b"Doe" not in path.read_bytes() and b"4711" not in path.read_bytes()


def test_options_are_told_by_their_codes(tmp_path: Path) -> None:
    options = Options(
        retain_uids=True,
        dates=Dates.KEPT,
        clean_descriptors=True,
        retain_device_identity=True,
        retain_institution_identity=True,
        retain_patient_characteristics=True,
    )
    plain = original(
        StationName="CT01",
        InstitutionName="General Hospital",
        PatientAge="093Y",
        SeriesDescription="Brain of Doe AX",
        DeviceSerialNumber="12",
    )
    made, _, _ = copied(tmp_path, plain, options)
    codes = {code.CodeValue for code in made.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113105", "113106", "113108", "113109", "113110", "113112"}
    assert made.LongitudinalTemporalInformationModified == "UNMODIFIED"
    assert made.SOPInstanceUID == plain.SOPInstanceUID
    assert (made.StationName, made.DeviceSerialNumber) == ("CT01", "12")
    assert made.InstitutionName == "General Hospital"
    assert (made.PatientAge, made.PatientSex) == ("090Y", "F")
    assert made.SeriesDescription == "Brain AX"
    assert (made.StudyDate, made.StudyTime) == ("20200229", "235959")


def test_a_patient_stays_one_over_years_however_the_id_is_padded_or_encoded(
    tmp_path: Path,
) -> None:
    ids = [
        original(PatientID="PID-4711 ", StudyDate="20100101"),
        original(PatientID=" PID-4711", PatientName="Miller^Jane", StudyDate="20200101"),
    ]
    umlauts = [
        original(SpecificCharacterSet="ISO_IR 100", PatientID="M\u00fc 1"),
        original(SpecificCharacterSet="ISO_IR 192", PatientID="M\u00fc 1"),
        original(SpecificCharacterSet="ISO_IR 192", PatientID="Mu\u0308 1"),
    ]
    assert len({copied(tmp_path, each)[0].PatientID for each in ids}) == 1
    assert len({copied(tmp_path, each)[0].PatientID for each in umlauts}) == 1
    shifted = {
        copied(tmp_path, each, SHIFTED)[2].names.patient_id: copied(tmp_path, each, SHIFTED)[0]
        for each in ids
    }
    assert len(shifted) == 1


def test_two_patients_never_become_one(tmp_path: Path) -> None:
    entity = item(UniversalEntityID="1.2.3", UniversalEntityIDType="ISO")
    others = [
        original(),
        original(PatientID="pid-4711"),
        original(PatientID="0PID-4711"),
        original(IssuerOfPatientID="WEST"),
        original(IssuerOfPatientID="EAST"),
        original(IssuerOfPatientIDQualifiersSequence=Sequence([entity])),
        original(PatientID="", StudyInstanceUID=f"{ROOT}.1.7"),
        original(PatientID="", StudyInstanceUID=f"{ROOT}.1.8"),
        original(PatientID=None, StudyInstanceUID=f"{ROOT}.1.9"),
    ]
    copies = [copied(tmp_path, each) for each in others]
    assert len({report.names.patient_id for _, _, report in copies}) == len(others)
    # Those that had no ID have one, or whoever gets the copies would take them for one patient.
    assert len({made.PatientID for made, _, _ in copies}) == len(others)
    assert all(made.PatientName == made.PatientID for made, _, _ in copies)


def test_two_ids_that_cannot_be_read_are_not_the_same_for_that(tmp_path: Path) -> None:
    names = set()
    for number, value in enumerate((b"M\xfc1 ", b"M\xe41 ", b"M\xfc1 ")):
        folder = tmp_path / str(number)
        folder.mkdir()
        utf8 = original(SpecificCharacterSet="ISO_IR 192", PatientID=None)
        source = appended(folder, utf8, (0x00100020, b"LO", value))
        target = folder / "copy.dcm"
        names.add(deidentify(source, lambda _, to=target: to, PROJECT, Options()).names.patient_id)
    assert len(names) == 2


def test_what_is_of_no_patient_gets_none(tmp_path: Path) -> None:
    palette = Dataset()
    palette.SOPClassUID = "1.2.840.10008.5.1.4.39.1"
    palette.SOPInstanceUID = f"{ROOT}.9"
    made, _, _ = copied(tmp_path, palette)
    assert "PatientID" not in made and made.PatientIdentityRemoved == "YES"


def test_an_issuer_can_be_given_for_ids_that_come_without(tmp_path: Path) -> None:
    said = copied(tmp_path, original(IssuerOfPatientID="WEST"))[0].PatientID
    assert copied(tmp_path, original(), Options(issuer="WEST"))[0].PatientID == said
    east = copied(tmp_path, original(IssuerOfPatientID="EAST"), Options(issuer="WEST"))[0]
    assert east.PatientID != said


def test_another_key_makes_another_patient(tmp_path: Path) -> None:
    other = Project("TRIAL", bytes([7] * 32))
    one, another = original(), original()
    assert (
        copied(tmp_path, one)[0].PatientID != copied(tmp_path, another, project=other)[0].PatientID
    )


def test_references_between_copies_stay_good_at_any_depth(tmp_path: Path) -> None:
    first = original()
    reference = item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=first.SOPInstanceUID)
    deep = item(ReferencedImageSequence=Sequence([reference]), SeriesInstanceUID=f"{ROOT}.2.1")
    second = original(
        ReferencedImageSequence=Sequence([reference]),
        ReferencedSeriesSequence=Sequence([deep]),
        FrameOfReferenceUID="1.2.840.10008.1.4.1.1",  # the Talairach brain atlas
    )
    one, _, _ = copied(tmp_path, first)
    two, _, _ = copied(tmp_path, second)
    for holder in (two, two.ReferencedSeriesSequence[0]):
        referenced = holder.ReferencedImageSequence[0]
        assert referenced.ReferencedSOPInstanceUID == one.SOPInstanceUID != first.SOPInstanceUID
        assert referenced.ReferencedSOPClassUID == CT
    assert two.ReferencedSeriesSequence[0].SeriesInstanceUID == one.SeriesInstanceUID
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert two.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"


def test_dates_of_a_patient_are_all_shifted_by_the_same_days(tmp_path: Path) -> None:
    nested = item(ScheduledProcedureStepStartDate="20200201")
    first = original(
        SeriesDate="20200301",
        AcquisitionDateTime="20200229235959.5+0100",
        TimezoneOffsetFromUTC="+0100",
        PerformedProcedureStepStartDate="20200228",
        RequestAttributesSequence=Sequence([nested]),
    )
    later = original(StudyDate="20250101")
    one, _, _ = copied(tmp_path, first, SHIFTED)
    two, _, _ = copied(tmp_path, later, SHIFTED)
    days = PROJECT.days("", "PID-4711")
    moved = [
        (pydicom.valuerep.DA("20200229"), one.StudyDate),
        (pydicom.valuerep.DA("20200301"), one.SeriesDate),
        (pydicom.valuerep.DA("20200228"), one.PerformedProcedureStepStartDate),
        (pydicom.valuerep.DA("20250101"), two.StudyDate),
    ]
    for before, after in moved:
        assert before is not None
        assert (pydicom.valuerep.DA(after) - before).days == days
    assert one.AcquisitionDateTime == f"{one.StudyDate}235959.5+0100"
    assert one.TimezoneOffsetFromUTC == "+0100"
    assert one.StudyTime == "235959"
    assert one.PatientBirthDate == ""
    assert one.LongitudinalTemporalInformationModified == "MODIFIED"


def test_what_is_no_date_is_not_taken_for_one(tmp_path: Path) -> None:
    text = original()
    text.add_new(0x00080020, "LO", "Doe, Jane")
    text.add_new(0x00080030, "LO", "Doe, Jane")
    made, _, _ = copied(tmp_path, text, SHIFTED)
    assert made.StudyDate == made.StudyTime == ""


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_private_elements_curves_overlays_and_unknown_ones_go(tmp_path: Path, syntax: str) -> None:
    full = original()
    block = full.private_block(0x0029, "DOE COMPANY", create=True)
    block.add_new(0x01, "LO", "Doe^Jane")
    block.add_new(0x02, "SQ", Sequence([item(PatientName="Doe^Jane")]))
    full.add_new(0x50000005, "US", 1)
    full.add_new(0x60000010, "US", 1)
    full.add_new(0x60000022, "LO", "Doe^Jane")
    full.add_new(0x60003000, "OW", b"DoeJane!")
    full.add_new(0x00081233, "LO", "Doe^Jane")
    full.add_new(0xFFFCFFFC, "OB", b"Doe^Jane")
    made, path, _ = copied(tmp_path, full, syntax=syntax)
    assert not [each for each in made if each.tag.is_private or each.tag.group in GRAPHICS]
    assert 0x00081233 not in made and 0xFFFCFFFC not in made
    assert b"Doe" not in path.read_bytes()


@pytest.mark.parametrize("is_known", [True, False])
def test_sequences_hidden_in_un_are_looked_into(tmp_path: Path, is_known: bool) -> None:
    # PS3.5 §6.2.2: items without VRs, of known or unknown length.
    name = IMPLICIT_LITTLE.header(0x00100010, b"PN", 8) + b"Doe^Jane"
    items = IMPLICIT_LITTLE.tag_and_length(0xFFFEE000, len(name)) + name
    source = appended(tmp_path, original(), (0x00081115, b"UN", items))
    if not is_known:
        content = source.read_bytes()
        head = EXPLICIT_LITTLE.header(0x00081115, b"UN", len(items))
        assert content.count(head) == 1
        content = content.replace(head, EXPLICIT_LITTLE.header(0x00081115, b"UN", UNDEFINED))
        source.write_bytes(content + EXPLICIT_LITTLE.tag_and_length(0xFFFEE0DD, 0))
    target = tmp_path / "copy.dcm"
    deidentify(source, lambda names: target, PROJECT, Options())
    made = pydicom.dcmread(target)
    assert made.ReferencedSeriesSequence[0].PatientName == ""
    assert b"Doe" not in target.read_bytes()


def test_identifiers_are_found_behind_a_vr_that_is_not_theirs(tmp_path: Path) -> None:
    source = appended(
        tmp_path,
        original(PatientName=None, ReferringPhysicianName=None),
        (0x00080080, b"UT", b"St. Doe "),
        (0x00080090, b"OB", b"Quacksalber "),
        (0x00100010, b"UN", b"Doe^Jane"),
    )
    target = tmp_path / "copy.dcm"
    deidentify(source, lambda names: target, PROJECT, Options())
    made = pydicom.dcmread(target)
    assert made.PatientName == made.PatientID and made[0x00100010].VR == "PN"
    assert made[0x00080090].VR == "PN"
    assert b"Doe" not in target.read_bytes() and b"Quack" not in target.read_bytes()


def test_pixels_and_values_that_stay_are_the_same_bytes(tmp_path: Path) -> None:
    pixels = bytes(range(256)) * 8192
    image = original(Rows=1024, Columns=1024, BitsAllocated=16, ConvolutionKernel="STANDARD")
    image.add_new(0x7FE00010, "OW", pixels)
    made, path, report = copied(tmp_path, image)
    assert made.PixelData == pixels
    assert b"\x18\x00\x10\x12SH\x08\x00STANDARD" in path.read_bytes()
    assert report.warnings == ["nothing says whether annotation is burned into the pixels"]


def test_different_objects_keep_being_different_where_a_dummy_stands(tmp_path: Path) -> None:
    slides = [original(ContainerIdentifier=name) for name in ("S1", "S2", "S1")]
    made = [copied(tmp_path, slide)[0] for slide in slides]
    names = [each.ContainerIdentifier for each in made]
    assert names[0] == names[2] != names[1] and "S1" not in names
    assert len({each.AccessionNumber for each in made}) == 1
    assert len(made[0].AccessionNumber) == 16 and made[0].AccessionNumber != "ACC00777"


def test_cleaned_sequences_keep_published_codes_and_known_words(tmp_path: Path) -> None:
    published = item(
        CodeValue="69536005", CodingSchemeDesignator="SCT", CodeMeaning="Head structure"
    )
    published.ProtocolContextSequence = Sequence([item(ValueType="NUMERIC")])
    own = item(CodeValue="DOE1", CodingSchemeDesignator="99WARD", CodeMeaning="Doe of Head")
    request = item(
        ScheduledProcedureStepDescription="Brain MR for Mrs. Unknown",
        ScheduledProcedureStepID="ST-1",
        ScheduledProtocolCodeSequence=Sequence([published, own]),
    )
    asked = original(RequestAttributesSequence=Sequence([request]))
    kept = copied(tmp_path, asked, Options(clean_descriptors=True))[0].RequestAttributesSequence[0]
    assert kept.ScheduledProcedureStepDescription == "Brain MR"
    codes = kept.ScheduledProtocolCodeSequence
    assert (codes[0].CodeValue, codes[0].CodeMeaning) == ("69536005", "Head structure")
    assert codes[0].ProtocolContextSequence[0].ValueType == "NUMERIC"
    assert (codes[1].CodeValue, codes[1].CodeMeaning) == ("", "Head")
    assert "RequestAttributesSequence" not in copied(tmp_path, asked)[0]


def image(**attributes: Any) -> Dataset:
    made = original(**attributes)
    made.add_new(0x7FE00010, "OW", bytes(64))
    return made


def test_pixels_that_say_that_they_hold_text_or_faces_are_refused_unless_allowed(
    tmp_path: Path,
) -> None:
    burned_in = image(BurnedInAnnotation="YES")
    assert "Burned In Annotation (0028,0301) is YES" in refused(tmp_path, burned_in)
    made, _, report = copied(tmp_path, burned_in, Options(allow_burned_in=True))
    assert made.BurnedInAnnotation == "YES" and "may show who" in report.warnings[0]
    face = image(RecognizableVisualFeatures="YES", BurnedInAnnotation="NO")
    assert "Recognizable" in refused(tmp_path, face, Options(allow_burned_in=True))
    assert copied(tmp_path, face, Options(allow_recognizable=True))[2].warnings == []


@pytest.mark.parametrize(
    "attributes",
    [
        {"SOPClassUID": ULTRASOUND},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.4"},
        {"ConversionType": "WSD"},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    ],
)
def test_kinds_of_images_that_often_have_text_must_say_that_they_have_none(
    tmp_path: Path, attributes: dict[str, Any]
) -> None:
    assert "does not say NO" in refused(tmp_path, image(**attributes))
    copied(tmp_path, image(**attributes, BurnedInAnnotation="NO"))
    copied(tmp_path, image(**attributes), Options(allow_burned_in=True))


def test_an_overlay_in_the_bits_of_the_pixels_is_refused(tmp_path: Path) -> None:
    hidden = image(BurnedInAnnotation="NO")
    hidden.add_new(0x60000100, "US", 16)
    hidden.add_new(0x60000102, "US", 12)
    assert "overlay" in refused(tmp_path, hidden)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"ContentSequence": Sequence([item(TextValue="Doe")])}, "structured report"),
        ({"EncapsulatedDocument": b"%PDF"}, "document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.9.4.2"}, "voice"),
        ({"SOPInstanceUID": None}, "no SOP Class UID, or no SOP Instance UID"),
        ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "DICOMDIR"),
    ],
)
def test_what_cannot_be_made_safe_is_refused(
    tmp_path: Path, attributes: dict[str, Any], reason: str
) -> None:
    allowed = Options(allow_burned_in=True, allow_recognizable=True)
    assert reason in refused(tmp_path, original(**attributes), allowed)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("Manufacturer", "Scanner of Jane"),
        ("Manufacturer", "DOE imaging"),
        ("ConvolutionKernel", "quacksalber"),
        ("SoftwareVersions", ["1", "for PID-4711"]),
        ("ConvolutionKernel", "born 31.01.1970"),
        ("FilterType", "acc00777"),
        ("BodyPartExamined", "DOE"),
        ("AcquisitionNumber", "12"),
    ],
)
def test_a_copy_that_still_holds_a_name_or_number_is_not_handed_out(
    tmp_path: Path, keyword: str, value: Any
) -> None:
    if keyword == "AcquisitionNumber":
        copied(tmp_path, original(AcquisitionNumber="12"))
        return
    reason = refused(tmp_path, original(**{keyword: value}))
    assert f"still holds a name or number of the original in {keyword}" in reason
    for secret in ("jane", "doe", "quack", "4711", "1970", "777"):
        assert secret not in reason.lower()


def test_names_are_found_without_their_marks_and_in_other_scripts(tmp_path: Path) -> None:
    for name, text in (
        ("M\u00fcller^Eva", "Kernel Mueller"),
        ("M\u00fcller^Eva", "Kernel Muller"),
        ("Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "\u5c71\u7530\u69d8"),
    ):
        held = original(SpecificCharacterSet="ISO_IR 192", PatientName=name, ConvolutionKernel=text)
        assert "ConvolutionKernel" in refused(tmp_path, held)


def test_the_name_of_a_project_is_no_excuse_for_a_name_elsewhere(tmp_path: Path) -> None:
    project = Project("DOE", bytes(32))
    made, _, _ = copied(tmp_path, original(), project=project)
    assert str(made.PatientName).startswith("DOE-")
    source = written(original(ConvolutionKernel="of Doe"), tmp_path / "a.dcm")
    with pytest.raises(NotDeidentified, match="ConvolutionKernel"):
        deidentify(source, lambda names: tmp_path / "copy.dcm", project, Options())


def test_a_uid_that_is_made_of_the_patients_id_is_not_retained(tmp_path: Path) -> None:
    telling = original(PatientID="47114711", FrameOfReferenceUID="1.2.3.47114711.1")
    assert "FrameOfReferenceUID" in refused(tmp_path, telling, Options(retain_uids=True))
    assert copied(tmp_path, telling)[0].FrameOfReferenceUID.startswith("2.25.")


def test_a_name_is_found_wherever_it_stands_in_a_long_text(tmp_path: Path) -> None:
    # Read in pieces of 1 MiB, it stands across the end of the first.
    code = item(LongCodeValue="x " * 524_286 + "Quacksalber")
    long = original(AnatomicRegionSequence=Sequence([code]))
    assert "LongCodeValue" in refused(tmp_path, long)


def test_a_word_of_the_standard_is_nobodys_name_in_a_code_string(tmp_path: Path) -> None:
    made, _, _ = copied(tmp_path, original(PatientName="Hand^Left", BodyPartExamined="HAND"))
    assert made.BodyPartExamined == "HAND"


def test_the_same_copy_is_made_again_and_another_replaces_nothing(tmp_path: Path) -> None:
    source = written(original(), tmp_path / "a.dcm")
    target = tmp_path / "copy.dcm"
    assert not deidentify(source, lambda names: target, PROJECT, Options()).was_there
    before = hashlib.sha256(target.read_bytes()).digest()
    assert deidentify(source, lambda names: target, PROJECT, Options()).was_there
    with pytest.raises(FileExistsError):
        deidentify(source, lambda names: target, PROJECT, KEPT)
    assert hashlib.sha256(target.read_bytes()).digest() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.dcm", "copy.dcm"]


@pytest.mark.parametrize("cut", [0, 100, 140, 300, -1, -9])
def test_what_is_cut_short_is_refused_and_leaves_nothing(tmp_path: Path, cut: int) -> None:
    source = written(original(), tmp_path / "a.dcm")
    source.write_bytes(source.read_bytes()[:cut])
    with pytest.raises(NotDeidentified):
        deidentify(source, lambda names: tmp_path / "copy.dcm", PROJECT, Options())
    assert [path.name for path in tmp_path.iterdir()] == ["a.dcm"]


def test_the_report_tells_what_was_done_and_nothing_of_the_patient(tmp_path: Path) -> None:
    _, _, report = copied(tmp_path, original(InstitutionName="General Hospital"), SHIFTED)
    told = report.to_json()
    done = {(each["keyword"], each["done"]) for each in told["attributes"]}
    assert {
        ("PatientName", "replaced"),
        ("InstitutionName", "removed"),
        ("StudyDate", "shifted"),
        ("PatientSex", "emptied"),
    } <= done
    for secret in ("Doe", "4711", "General", "20200229", ROOT):
        assert secret not in str(told)
