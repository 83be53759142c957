"""``dicomnode init``: safe settings for a service."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dicomnode.cli.init import registry_text, settings_text
from dicomnode.registry import load_registry
from dicomnode.settings import Settings, load_settings
from dicomnode.shared_files import shared_file
from tests.cli.commands import run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "dicomnode"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_written_is_the_defaults_and_nobody_is_registered(directory: Path) -> None:
    ended = run("init", "--directory", directory)
    assert ended.code == 0
    settings = load_settings(directory / "dicomnode.toml")
    assert settings == Settings()
    assert settings.access.unknown_ae == "refuse"
    assert len(load_registry(directory / "ae.toml")) == 0


def test_check_config_passes(directory: Path) -> None:
    run("init", "--directory", directory)
    ended = run("check-config", "--config", directory / "dicomnode.toml")
    assert ended.code == 0
    assert f"{directory}/ae.toml: ok, 0 application entities" in ended.out


def test_only_owner_and_group_may_read(directory: Path) -> None:
    run("init", "--directory", directory)
    assert mode(directory) == 0o750
    assert [mode(directory / name) for name in ("dicomnode.toml", "ae.toml")] == [0o640, 0o640]


def test_nothing_is_overwritten(directory: Path, tmp_path: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "ae.toml").write_text("mine")
    (directory / "dicomnode.toml").symlink_to(tmp_path / "elsewhere")
    ended = run("init", "--directory", directory)
    assert ended.code == 0
    assert ended.lines[:2] == [
        f"{directory}/dicomnode.toml: is there, kept",
        f"{directory}/ae.toml: is there, kept",
    ]
    assert (directory / "ae.toml").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


def test_a_second_time_changes_nothing(directory: Path) -> None:
    run("init", "--directory", directory)
    before = (directory / "dicomnode.toml").stat()
    ended = run("init", "--directory", directory)
    assert ended.out.count("is there, kept") == 2
    assert (directory / "dicomnode.toml").stat().st_mtime_ns == before.st_mtime_ns


def test_it_says_what_to_do_next(directory: Path) -> None:
    ended = run("init", "--directory", directory)
    assert f"check-config --config {directory}/dicomnode.toml" in ended.out
    assert f"cp {shared_file('packaging/dicomnode.service')} /etc/systemd/system/" in ended.out
    assert f"ExecStart=dicomnode run --config {directory}/dicomnode.toml" in ended.out
    assert shared_file("packaging/dicomnode.service").is_file()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = run("init", "--directory", tmp_path / "file" / "etc")
    assert ended.code == 1
    assert ended.err.startswith(f"dicomnode: {tmp_path}/file")


def test_the_comments_keep_every_key_and_lose_what_is_for_trying_out() -> None:
    sample = shared_file("config/dicomnode.toml").read_text()
    text = settings_text(sample)
    for section in ("[node]", "[limits]", "[timeouts]", "[forwarding]"):
        assert section in text
    assert "try-out" not in text
    registry = registry_text(shared_file("config/ae.toml").read_text())
    assert "DCMTK" not in registry
    assert '# title = "CT_1"' in registry
