"""pydicom's files de-identified: DCMTK and pydicom open every copy, pixels are the same bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from dicomnode.deidentification.files import deidentify
from dicomnode.deidentification.options import Dates, Options
from dicomnode.errors import NotDeidentified
from tests.deidentification.originals import PROJECT
from tests.programs import find_program

FILES = sorted(
    path
    for path in (Path(pydicom.__file__).parent / "data").rglob("*")
    if path.is_file() and path.name.partition(".")[2] in ("dcm", "")
)
OPTIONS = [
    Options(allow_burned_in=True, allow_recognizable=True),
    Options(
        allow_burned_in=True,
        allow_recognizable=True,
        dates=Dates.SHIFTED,
        clean_descriptors=True,
        retain_device_identity=True,
        retain_institution_identity=True,
        retain_patient_characteristics=True,
    ),
]
# Compressed, and without VRs.
NOT_FOR_DCMTK = ("SC_rgb_jpeg.dcm",)
EXPECTED_COPIES = 150


def names_in(data_set: Dataset) -> set[str]:
    """Return every value of a name that a patient or a person has there."""
    found = set()
    for element in data_set.iterall():
        if element.VR == "PN" and element.value:
            found.add(str(element.value))
    return found


@pytest.fixture(scope="module", params=OPTIONS, ids=["basic", "options"])
def copies(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Path, Path]]:
    """Every file that can be de-identified, and its copy."""
    folder = tmp_path_factory.mktemp("copies")
    made = []
    for number, path in enumerate(FILES):
        target = folder / f"{number}.dcm"
        try:
            deidentify(path, lambda names, to=target: to, PROJECT, request.param)
        except NotDeidentified:
            assert not target.exists()
        else:
            made.append((path, target))
    return made


def test_most_files_can_be_copied(copies: list[tuple[Path, Path]]) -> None:
    assert len(copies) >= EXPECTED_COPIES


def test_copies_have_the_same_pixels_and_no_name_of_the_original(
    copies: list[tuple[Path, Path]],
) -> None:
    for path, target in copies:
        before, after = pydicom.dcmread(path), pydicom.dcmread(target)
        assert after.get("PixelData") == before.get("PixelData"), path
        assert after.PatientIdentityRemoved == "YES"
        names = names_in(after)
        assert not names & names_in(before), path
        assert names <= {str(after.get("PatientName", "")), "ANONYMIZED"}
        assert not [element for element in after.iterall() if element.tag.is_private]


@pytest.mark.interop("dcmdump", "dcmftest")
def test_dcmtk_reads_every_copy(copies: list[tuple[Path, Path]]) -> None:
    targets = [target for path, target in copies if path.name not in NOT_FOR_DCMTK]
    for program in ("dcmftest", "dcmdump"):
        command = find_program(program)
        assert command
        ended = subprocess.run([command, *targets], capture_output=True, timeout=60)
        assert ended.returncode == 0, ended.stderr[-500:]
