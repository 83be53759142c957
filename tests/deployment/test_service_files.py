"""The files for systemd: what its own tools say of them."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.peers import run_tool

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
UNIT = PACKAGING / "dicomnode.service"
START = "/opt/dicomnode/bin/dicomnode run --config /etc/dicomnode/dicomnode.toml"


def directives() -> dict[str, list[str]]:
    """Return what the unit says, by key."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found[key].append(value)
    return found


@pytest.mark.interop("systemd-analyze")
def test_the_sandbox_leaves_an_exposure_below_two() -> None:
    told = run_tool("systemd-analyze", "security", "--offline=true", "--threshold=20", UNIT)
    assert told.returncode == 0, told.output
    overall = re.search(r"Overall exposure level for \S+: (\d+\.\d)", told.output)
    assert overall is not None
    assert float(overall[1]) < 2.0


@pytest.mark.interop("systemd-analyze")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert START in text
    # The program has to be there, so it is another one here.
    unit = tmp_path / "dicomnode.service"
    unit.write_text(text.replace(START, "/bin/true"))
    told = run_tool("systemd-analyze", "verify", "--man=no", unit)
    assert told.returncode == 0, told.output
    assert "dicomnode.service" not in told.output


def test_what_the_node_tells_is_listened_to() -> None:
    unit = directives()
    assert unit["Type"] == ["notify"]
    assert unit["NotifyAccess"] == ["main"]
    assert unit["WatchdogSec"] == ["2min"]
    assert unit["ExecReload"] == ["kill -HUP $MAINPID"]
    # sysexits.h EX_CONFIG, which a mistake in the settings ends with.
    assert unit["RestartPreventExitStatus"] == ["78"]


def test_nothing_runs_a_shell() -> None:
    started = [value for key, values in directives().items() if "Exec" in key for value in values]
    assert started
    assert not any(re.search(r"\b(ba|da)?sh\b", command) for command in started)


@pytest.mark.interop("systemd-sysusers", "systemd-tmpfiles")
def test_user_and_directories_are_made(tmp_path: Path) -> None:
    settings = tmp_path / "etc/dicomnode/dicomnode.toml"
    settings.parent.mkdir(parents=True)
    settings.touch(0o666)
    root = f"--root={tmp_path}"
    users = run_tool("systemd-sysusers", root, PACKAGING / "dicomnode.sysusers")
    assert users.returncode == 0, users.output
    (entry,) = re.findall(r"^dicomnode:.*$", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    assert entry.endswith(":/var/lib/dicomnode:/usr/sbin/nologin")
    made = run_tool("systemd-tmpfiles", "--create", root, PACKAGING / "dicomnode.tmpfiles")
    if "Operation not permitted" in made.output:
        pytest.skip("only root may give directories to another user")
    assert made.returncode == 0, made.output
    user = int(entry.split(":")[2])
    for name in ("var/lib/dicomnode", "var/log/dicomnode"):
        found = (tmp_path / name).stat()
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o750, user, user)
    assert settings.stat().st_mode & 0o777 == 0o640
    assert (settings.stat().st_uid, settings.stat().st_gid) == (0, user)
