"""``dicomnode user``: what it writes, and how it fails."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicomnode.cli import app
from dicomnode.users import is_passcode, load_users
from tests.cli.commands import run
from tests.peers import write_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def added(config: Path, name: str, passcode: str, *options: str) -> tuple[int, str]:
    arguments = ["user", "add", name, "--config", str(config), "--passcode-stdin", *options]
    result = CliRunner().invoke(app, arguments, input=passcode + "\n", catch_exceptions=False)
    return result.exit_code, result.output


def test_a_user_is_added_changed_listed_and_removed(config: Path) -> None:
    path = config.with_name("users.toml")
    code, told = added(config, "jane", "correct horse", "--description", "ward 3")
    assert code == 0 and "SIGHUP" in told
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "correct" not in path.read_text()
    assert added(config, "jane", "another one")[0] == 0
    assert run("user", "add", "console", "--without-passcode", "--config", config).code == 0
    users = load_users(path)
    jane = users.lookup("jane")
    assert jane is not None and jane.description == "ward 3"
    assert is_passcode(b"another one", jane.passcode)
    listed = run("user", "list", "--config", config).out
    assert "jane" in listed and "ward 3" in listed and "scrypt" not in listed
    assert "nothing: the name is believed" in listed
    assert run("user", "remove", "jane", "--config", config).code == 0
    assert [user.name for user in load_users(path)] == ["console"]


def test_mistakes_are_told_and_change_nothing(config: Path) -> None:
    path = config.with_name("users.toml")
    assert added(config, "jane", "short")[0] == 1
    assert added(config, "a\x1bb", "long enough")[0] == 1
    assert run("user", "remove", "eve", "--config", config).code == 1
    no_terminal = run("user", "add", "jane", "--config", config)
    assert no_terminal.code == 1 and "--passcode-stdin" in no_terminal.err
    assert not path.exists()
    path.write_text("[[user]]\nname = 1")
    assert added(config, "jane", "long enough")[0] == 78
    assert path.read_text() == "[[user]]\nname = 1"


def test_a_file_that_others_may_read_is_pointed_out(config: Path) -> None:
    path = config.with_name("users.toml")
    added(config, "jane", "correct horse")
    path.chmod(0o644)
    assert "chmod 600" in run("user", "list", "--config", config).err


def test_the_check_of_the_configuration_reads_users_and_the_issuers_key(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        jwt={"key_file": str(tmp_path / "none.pem"), "issuer": "i", "audience": "a"},
    )
    assert "cannot be read" in run("check-config", "--config", config).err
    (tmp_path / "none.pem").write_text("no key")
    assert "is not the public key" in run("check-config", "--config", config).err
    config = write_config(tmp_path, jwt={"key_file": "x"})
    assert "jwt.issuer: must say whose tokens" in run("check-config", "--config", config).err
    config = write_config(tmp_path, jwt={})
    (tmp_path / "users.toml").write_text("[[user]]")
    assert "user.name: is missing" in run("check-config", "--config", config).err
