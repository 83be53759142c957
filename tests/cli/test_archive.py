"""``dicomnode reindex``."""

import hashlib
import os
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from dicomnode.cli import app
from dicomnode.storage.files import FileStore


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def arguments(tmp_path: Path, directory: Path) -> list[str]:
    file = tmp_path / "dicomnode.toml"
    file.write_text(f'[storage]\ndirectory = "{directory}"\ndurability = "relaxed"\n')
    return ["reindex", "--config", str(file)]


def test_the_index_is_built_from_the_stored_files(directory: Path, arguments: list[str]) -> None:
    source = get_testdata_file("CT_small.dcm")
    assert isinstance(source, str)
    image = pydicom.dcmread(source)
    study = hashlib.sha256(image.StudyInstanceUID.encode()).hexdigest()[:2]
    series = directory / "objects" / study / image.StudyInstanceUID / image.SeriesInstanceUID
    series.mkdir(parents=True)
    (series / f"{image.SOPInstanceUID}.dcm").write_bytes(Path(source).read_bytes())
    for _ in range(2):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert "the index holds: patients 1, studies 1, series 1, objects 1\n" in result.stdout


def test_reindexing_under_a_running_node_is_refused(directory: Path, arguments: list[str]) -> None:
    files = FileStore(directory, durability="relaxed")
    files.open()
    try:
        result = CliRunner().invoke(app, arguments)
    finally:
        files.close()
    assert result.exit_code == 1
    assert result.stderr == (
        f"dicomnode: a node is running on {directory}; stop it, then run reindex again\n"
    )


def test_a_storage_directory_that_is_not_there_is_said_to_be_so(
    directory: Path, arguments: list[str]
) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "(storage.directory), so nothing to index" in result.stderr
    assert not directory.exists()
