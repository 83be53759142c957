"""``dicomnode run``, ``check-config`` and ``version``."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dicomnode import __version__
from dicomnode.cli import app
from dicomnode.cli.serve import notes
from dicomnode.registry import AE, Registry
from dicomnode.services.identities import Credentials
from dicomnode.settings import (
    AccessSettings,
    HttpSettings,
    LimitSettings,
    LogSettings,
    NodeSettings,
    Settings,
    StorageSettings,
    WorklistSettings,
)
from dicomnode.users import User, Users

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dicomnode.toml"
    path.write_text(f'[storage]\ndirectory = "{tmp_path}/storage"\n')
    (tmp_path / "ae.toml").write_text('[[ae]]\ntitle = "CT_1"\n')
    return path


def test_both_files_are_ok() -> None:
    result = CliRunner().invoke(app, ["check-config", "--config", f"{ROOT}/config/dicomnode.toml"])
    assert result.exit_code == 0
    assert f"{ROOT}/config/dicomnode.toml: ok\n" in result.stdout
    assert f"{ROOT}/config/ae.toml: ok, 2 application entities\n" in result.stdout


def test_the_mistakes_of_both_files_are_told_at_once_and_fail(file: Path, tmp_path: Path) -> None:
    file.write_text('[storage]\ndurability = "fast"\n')
    (tmp_path / "ae.toml").write_text("[[ae]]\ntitel = 'CT_1'\n")
    result = CliRunner().invoke(app, ["check-config", "--config", str(file)])
    assert result.exit_code == 78
    assert result.stderr.replace(f"{tmp_path}/", "").splitlines() == [
        "dicomnode.toml:2: storage.durability: must be 'full' or 'relaxed', not 'fast'",
        "ae.toml:1: ae.title: is missing; write title = ... here",
        "ae.toml:2: ae.titel: unknown key; did you mean title?",
        "dicomnode: 3 mistakes in the configuration",
    ]


def test_running_with_a_mistake_says_the_same(file: Path) -> None:
    file.write_text("[node]\nport = -1\n")
    result = CliRunner().invoke(app, ["run", "--config", str(file)])
    assert result.exit_code == 78
    assert ":2: node.port: must be 0 or more, not -1\n" in result.stderr


def test_a_registry_that_is_not_there_is_said_to_be_missing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "ae.toml").unlink()
    result = CliRunner().invoke(app, ["check-config", "--config", str(file)])
    assert result.exit_code == 0
    assert "not there, so no application entity is registered" in result.stdout
    assert "every association will be rejected" in result.stdout


def test_titles_that_differ_in_case_are_allowed_when_titles_are_strict(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "ae.toml").write_text("[[ae]]\ntitle = 'A'\n[[ae]]\ntitle = 'a'\n")
    arguments = ["check-config", "--config", str(file)]
    assert CliRunner().invoke(app, arguments).exit_code == 78
    file.write_text("[node]\nstrict_ae_titles = true\n")
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_show_prints_settings_that_load_again_without_passwords(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMNODE__INDEX__URL", "postgresql://node:secret@db/dicom")
    monkeypatch.setenv("DICOMNODE__HTTP__TOKEN", "a secret that is long enough")
    result = CliRunner().invoke(app, ["check-config", "--show", "--config", str(file)])
    shown = tomllib.loads(result.stdout)
    assert shown["index"]["url"] == "postgresql://node:***@db/dicom"
    assert Settings(**shown).storage.directory.name == "storage"
    assert "# directory is not set" in result.stdout
    assert "# token is set, and not shown" in result.stdout
    assert "a secret" not in result.stdout


def test_notes_say_what_is_allowed_but_may_not_be_meant(tmp_path: Path) -> None:
    storage = StorageSettings(directory=tmp_path, durability="relaxed")
    open_to_all = Settings(storage=storage, access=AccessSettings(unknown_ae="allow"))
    relaxed, unknown = notes(open_to_all, Registry(), Credentials())
    assert relaxed.startswith("storage.durability is relaxed")
    assert unknown.startswith("access.unknown_ae is allow and node.host is 0.0.0.0")
    for host in ("127.0.0.1", "localhost", "::1"):
        settings = open_to_all.model_copy(update={"node": NodeSettings(host=host)})
        assert notes(settings, Registry(), Credentials()) == [relaxed]
    away = WorklistSettings(directory=tmp_path / "share")
    (_, gone) = notes(settings.model_copy(update={"worklist": away}), Registry(), Credentials())
    assert gone == f"worklist.directory is {away.directory}, and there is no such directory"
    quiet = Settings(storage=StorageSettings(directory=tmp_path))
    assert notes(quiet, Registry([AE(title="CT_1")]), Credentials()) == []
    readable = quiet.model_copy(update={"access": AccessSettings(credentials_without_tls=True)})
    (listening,) = notes(readable, Registry([AE(title="CT_1")]), Credentials())
    assert listening.startswith("access.credentials_without_tls is true")
    naming = {"log": LogSettings(patient_data=True), "http": HttpSettings(host="0.0.0.0")}
    (shown,) = notes(quiet.model_copy(update=naming), Registry([AE(title="CT_1")]), Credentials())
    assert "/api/status name patients to whoever reaches port 8104" in shown
    few = quiet.model_copy(update={"limits": LimitSettings(max_associations=300)})
    (buffers,) = notes(few, Registry([AE(title="CT_1")]), Credentials())
    assert buffers.startswith("limits.receive_buffer_bytes is 67108864")


def test_whoever_could_not_say_who_its_user_is_is_told_of() -> None:
    settings = Settings(access=AccessSettings(user_identity="optional"))
    registry = Registry([AE(title="CT_1", user_identity="required"), AE(title="MR_1")])
    with_users = Credentials(Users([User(name="console")]))
    (nobody,) = identity_notes(settings, registry, Credentials())
    assert nobody.startswith("CT_1 cannot call this node: user_identity is required")
    (without_tls,) = identity_notes(settings, registry, with_users)
    assert without_tls.endswith("these are taken over TLS only, and tls.enabled is false")
    open_to_all = AccessSettings(user_identity="required", unknown_ae="allow")
    (everybody,) = identity_notes(Settings(access=open_to_all), Registry(), Credentials())
    assert everybody.startswith("every other AE cannot call this node")
    readable = AccessSettings(user_identity="required", credentials_without_tls=True)
    assert identity_notes(Settings(access=readable), registry, with_users) == []
    assert identity_notes(Settings(), Registry(), Credentials()) == []


def identity_notes(settings: Settings, registry: Registry, credentials: Credentials) -> list[str]:
    found = notes(settings, registry, credentials)
    return [note for note in found if "user_identity is required" in note]


@pytest.mark.parametrize(
    ("audit", "told"),
    [
        ({"file": "{}/gone/audit.xml"}, "and there is no directory {}/gone"),
        ({"file": "{}"}, "audit.file is {}, and that is no file"),
        (
            {"destination": "tls://audit.example", "tls_ca_file": "{}/ca.pem"},
            "no audit message can be sent to tls://audit.example:6514: {}/ca.pem"
            " (audit.tls_ca_file): [Errno 2] No such file or directory",
        ),
    ],
)
def test_where_the_audit_trail_cannot_go_is_told_of(
    file: Path, tmp_path: Path, audit: dict[str, str], told: str
) -> None:
    keys = "".join(f'{key} = "{value.format(tmp_path)}"\n' for key, value in audit.items())
    file.write_text(f"[audit]\nenabled = true\n{keys}")
    result = CliRunner().invoke(app, ["check-config", "--config", str(file)])
    assert result.exit_code == 0
    assert told.format(tmp_path) in result.stdout


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["version"]).stdout == f"dicomnode {__version__}\n"


def test_the_package_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "dicomnode", "version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == f"dicomnode {__version__}\n"


def test_help_names_every_command() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    for command in ("run", "check-config", "status", "worklist", "reindex", "version"):
        assert command in text
