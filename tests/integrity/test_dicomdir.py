"""The DICOMDIR of exports, read by pydicom and DCMTK, which wrote none of it."""

import gc
import hashlib
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_palette_files, get_testdata_file
from pydicom.fileset import FileSet

from dicomnode.errors import CannotUnderstand
from dicomnode.integrity.directory_records import describe
from dicomnode.integrity.exporting import Original, export
from tests import peers
from tests.integrity.exports import small_object

# pydicom's file-set has a temporary directory that it does not clean up itself.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

RECORDS = {
    "CT_small.dcm": "IMAGE",
    "MR_small_bigendian.dcm": "IMAGE",
    "image_dfl.dcm": "IMAGE",
    "JPEG2000.dcm": "IMAGE",
    "rtplan.dcm": "RT PLAN",
    "rtdose.dcm": "RT DOSE",
    "test-SR.dcm": "SR DOCUMENT",
    "waveform_ecg.dcm": "WAVEFORM",
}


def exported(files: list[Path], out: Path) -> Path:
    def originals() -> list[Original]:
        contents = [(path, path.read_bytes()) for path in files]
        return [
            Original(path, len(data), hashlib.sha256(data).hexdigest(), "1.2", ())
            for path, data in contents
        ]

    export(originals(), out)
    return out


@pytest.fixture
def files(tmp_path: Path) -> dict[Path, str]:
    """Return files of many SOP classes and transfer syntaxes, and the records that they get."""
    found = {Path(str(get_testdata_file(name))): record for name, record in RECORDS.items()}
    found[Path(get_palette_files("hotiron.dcm")[0])] = "PALETTE"
    private = tmp_path / "private.dcm"
    private.write_bytes(
        small_object().replace(b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.99999.5.1.4.1.1.2")
    )
    found[private] = "PRIVATE"
    return found


@pytest.mark.interop("dcmdump")
def test_each_object_has_the_record_of_its_sop_class(
    files: dict[Path, str], tmp_path: Path
) -> None:
    out = exported(list(files), tmp_path / "out")
    found = FileSet(out / "DICOMDIR")
    by_uid = {each.SOPInstanceUID: each for each in found}
    for path, record in files.items():
        data_set = pydicom.dcmread(path)
        held = by_uid[data_set.SOPInstanceUID]
        assert held.node.record_type == record, path
        assert Path(held.path).read_bytes() == path.read_bytes()
        assert held.SOPClassUID == data_set.SOPClassUID
        assert held.TransferSyntaxUID == data_set.file_meta.TransferSyntaxUID
    dumped = peers.run_tool("dcmdump", "-q", "+E", out / "DICOMDIR")
    assert dumped.returncode == 0, dumped.output
    del found, by_uid, held
    gc.collect()


@pytest.mark.interop("dcmmkdir")
def test_dcmtk_goes_on_with_the_directory_and_knows_what_is_in_it(
    files: dict[Path, str], tmp_path: Path
) -> None:
    out = exported(list(files), tmp_path / "out")
    appended = peers.run_tool(
        *("dcmmkdir", "-v", "+A", "+I", "-W", "-Pgp", "DICOM/ST000001/SE000001/IM000001"),
        directory=out,
    )
    assert appended.returncode == 0, appended.output
    assert "directory record for this SOP instance already exists" in appended.output


def test_patients_and_studies_stand_once_and_in_unicode(tmp_path: Path) -> None:
    paths = []
    for number, (patient, study) in enumerate((("A", 1), ("A", 1), ("A", 2), ("B", 3))):
        image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        image.SpecificCharacterSet = "ISO_IR 100"
        image.PatientName, image.PatientID = f"Müller^{patient}", patient
        image.StudyInstanceUID = image.SeriesInstanceUID = f"1.2.{study}"
        image.SOPInstanceUID = f"1.2.3.{number + 1}"
        image.save_as(tmp_path / f"{number}.dcm")
        paths.append(tmp_path / f"{number}.dcm")
    out = exported(paths, tmp_path / "out")
    records = pydicom.dcmread(out / "DICOMDIR").DirectoryRecordSequence
    assert [each.DirectoryRecordType for each in records] == [
        *("PATIENT", "STUDY", "SERIES", "IMAGE", "IMAGE", "STUDY", "SERIES", "IMAGE"),
        *("PATIENT", "STUDY", "SERIES", "IMAGE"),
    ]
    assert str(records[0].PatientName) == "Müller^A"
    assert records[0].SpecificCharacterSet == "ISO_IR 192"
    files = sorted(str(path.relative_to(out)) for path in out.rglob("IM00000?"))
    assert files == [
        "DICOM/ST000001/SE000001/IM000001",
        "DICOM/ST000001/SE000001/IM000002",
        "DICOM/ST000002/SE000001/IM000001",
        "DICOM/ST000003/SE000001/IM000001",
    ]


def test_a_vr_that_is_not_that_of_the_attribute_does_not_come_into_the_directory(
    tmp_path: Path,
) -> None:
    odd = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for tag in (0x0008_0020, 0x0020_0011, 0x0008_1030):
        odd[tag] = pydicom.DataElement(tag, "UT", "an essay")
    odd.save_as(tmp_path / "odd.dcm")
    out = exported([tmp_path / "odd.dcm"], tmp_path / "out")
    _, study, series, _ = pydicom.dcmread(out / "DICOMDIR").DirectoryRecordSequence
    assert [(each.VR, each.value) for each in (study["StudyDate"], series["SeriesNumber"])] == [
        ("DA", "19000101"),
        ("IS", 0),
    ]
    assert (study["StudyDescription"].VR, study.StudyDescription) == ("LO", "")


def test_what_an_object_lacks_has_a_stand_in_in_the_directory_alone(tmp_path: Path) -> None:
    path = tmp_path / "1.dcm"
    path.write_bytes(small_object())
    out = exported([path], tmp_path / "out")
    _, study, series, image = pydicom.dcmread(out / "DICOMDIR").DirectoryRecordSequence
    assert (study.StudyDate, study.StudyTime, study.StudyID) == ("19000101", "000000", "0")
    assert (series.SeriesNumber, image.InstanceNumber) == (0, 1)
    assert next(out.rglob("IM000001")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [0, 131, 200, 400])
def test_what_is_cut_short_is_described_as_far_as_it_goes_or_refused(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "1.dcm"
    path.write_bytes(small_object()[:size])
    with path.open("rb") as file:
        if size < 400:
            with pytest.raises(CannotUnderstand):
                describe(file.fileno())
        else:
            assert describe(file.fileno()).sop_instance_uid == "1.2.3.1"
