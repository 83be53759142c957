"""``dicomnode deidentify`` and ``deidentify-key``: what they write and say."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from tests.cli.commands import CT, run
from tests.deidentification.originals import original, written


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "trial.key"
    assert run("deidentify-key", path, "--project", "TRIAL-7").code == 0
    return path


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A folder of three patients, with a screen shot and a file of another kind."""
    folder = tmp_path / "ward"
    folder.mkdir()
    shutil.copy(CT, folder / "DOE_JANE.dcm")
    for number in ("1", "2"):
        plain = original(PatientID="PID-1", StudyInstanceUID=f"1.2.3.{number}")
        written(plain, folder / f"{number}.dcm")
    written(original(BurnedInAnnotation="YES"), folder / "3.dcm")
    screen = original(SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    screen.add_new(0x7FE00010, "OW", bytes(8))
    written(screen, folder / "DOE_SCREEN.dcm")
    (folder / "notes.txt").write_text("no DICOM")
    return folder


def test_a_key_is_for_its_owner_and_never_replaced(tmp_path: Path, key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_text()
    ended = run("deidentify-key", key, "--project", "OTHER")
    assert ended.code == 1 and "a key is never replaced" in ended.err
    assert key.read_text() == before
    ended = run("deidentify-key", tmp_path / "other", "--project", "ä")
    assert ended.code == 1 and "A-Z" in ended.err


def test_a_folder_is_copied_refusals_are_told_and_a_second_run_changes_nothing(
    tmp_path: Path, key: Path, ward: Path
) -> None:
    to = tmp_path / "copies"
    command = ("deidentify", ward, "--to", to, "--project", key, "--shift-dates")
    ended = run(*command)
    assert ended.code == 1
    assert "objects 4, patients 3, studies 4, refused 1, there already 0" in ended.out
    assert ended.err.count("not copied") == 1 and "DOE_SCREEN.dcm" in ended.err
    assert "--allow-burned-in" in ended.err
    files = sorted(to.rglob("*.dcm"))
    assert len(files) == 4 and not [path for path in to.rglob(".*")]
    for path in files:
        made = pydicom.dcmread(path)
        parts = [made.PatientID, made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID]
        assert path.relative_to(to).with_suffix("").parts == tuple(parts)
        assert str(made.PatientID).startswith("TRIAL-7-")
    before = {path: path.read_bytes() for path in files}
    assert "there already 4" in run(*command).out
    assert {path: path.read_bytes() for path in sorted(to.rglob("*.dcm"))} == before
    allowed = run(*command, "--allow-burned-in")
    assert allowed.code == 0 and "objects 5" in allowed.out
    assert "the pixels may show who the patient is" in allowed.out


def test_json_tells_what_was_done_and_neither_names_nor_files(
    tmp_path: Path, key: Path, ward: Path
) -> None:
    ended = run("deidentify", ward, "--to", tmp_path / "copies", "--project", key, "--json")
    told = [json.loads(line) for line in ended.out.splitlines()]
    assert len(told) == 5
    assert [each["refused"] for each in told if "refused" in each]
    assert {"tag": "00100010", "keyword": "PatientName", "done": "replaced", "count": 1} in told[0][
        "attributes"
    ]
    for secret in ("DOE", "Doe", "PID-1", "CompressedSamples", str(ward)):
        assert secret not in ended.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shift-dates", "--keep-dates"), "exclude each other"),
        (("--project", "nowhere"), "nowhere: No such file"),
        (("--project", CT), "is no key of a project"),
    ],
)
def test_mistakes_are_told_in_a_line(
    tmp_path: Path, key: Path, ward: Path, arguments: tuple[object, ...], words: str
) -> None:
    to = tmp_path / "copies"
    ended = run("deidentify", ward, "--to", to, "--project", key, *arguments)
    assert ended.code == 1 and words in ended.err
    assert len(ended.err.splitlines()) == 1 and not to.exists()


def test_copies_never_go_among_the_originals(key: Path, ward: Path) -> None:
    ended = run("deidentify", ward, "--to", ward / "copies", "--project", key)
    assert ended.code == 1 and "would be copied" in ended.err


def test_a_folder_without_dicom_is_told(tmp_path: Path, key: Path) -> None:
    (tmp_path / "empty").mkdir()
    ended = run("deidentify", tmp_path / "empty", "--to", tmp_path / "to", "--project", key)
    assert ended.code == 1 and "there is no DICOM file" in ended.err


def test_a_key_that_others_can_read_is_noted(tmp_path: Path, key: Path) -> None:
    key.chmod(0o644)
    ended = run("deidentify", CT, "--to", tmp_path / "to", "--project", key)
    assert ended.code == 0 and "chmod 600" in ended.err


def test_what_a_library_warns_of_is_not_put_among_the_commands_own_words(
    tmp_path: Path, key: Path
) -> None:
    odd = original()
    odd.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    odd.add_new(0x00081030, "OB", b"\x1b(ZX ")
    path = written(odd, tmp_path / "odd.dcm")
    path.write_bytes(
        path.read_bytes().replace(b"\x08\x00\x30\x10OB\0\0", b"\x08\x00\x30\x10UT\0\0")
    )
    command = (sys.executable, "-m", "dicomnode", "deidentify", path, "--to", tmp_path / "copies")
    options = ("--project", key, "--clean-descriptors")
    ended = subprocess.run([*command, *options], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
