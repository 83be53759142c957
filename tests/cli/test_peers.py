"""PEER, and the options of associations."""

from pathlib import Path

import pytest

from dicomnode.cli.peers import Options, called, calling_title, every_called
from tests import peers
from tests.cli.commands import run, written
from tests.conftest import RunningNode


def options(config: Path | None = None, **changed: object) -> Options:
    values: dict[str, object] = {
        "config": config,
        "calling": None,
        "called": None,
        "connect_seconds": 1.0,
        "acse_seconds": 5.0,
        "dimse_seconds": 5.0,
        "maximum_pdu_bytes": 16384,
        "verbose": False,
        "debug": False,
        **changed,
    }
    return Options(**values)  # type: ignore[arg-type]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return peers.write_config(
        tmp_path,
        node={"ae_title": "NODE_1"},
        entities=[
            {"title": "ARCHIVE", "host": "10.0.0.9", "port": 11112},
            {"title": "CT_1"},
        ],
    )


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where there are no settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dicomnode.configuration.SETTINGS_FILES", (tmp_path / "none.toml",))


def test_a_title_is_looked_up_in_the_registry_beside_the_settings(config: Path) -> None:
    found = called("archive", options(config))
    assert str(found.peer) == "ARCHIVE@10.0.0.9:11112"
    assert found.calling_ae_title == "NODE_1"


@pytest.mark.usefixtures("nowhere")
def test_an_address_needs_no_settings() -> None:
    found = called("ANY@[::1]:4242", options())
    assert (found.peer.title, found.peer.host, found.peer.port) == ("ANY", "::1", 4242)
    assert found.calling_ae_title == "DICOMNODE"
    assert called("ANY@host", options()).peer.port == 104


@pytest.mark.usefixtures("nowhere")
def test_a_title_without_settings_is_told_how_to_be_written() -> None:
    ended = run("echo", "ARCHIVE")
    assert ended.code == 1
    assert "write it as TITLE@host:port" in ended.err


def test_an_unknown_title_is_answered_with_the_closest_one(config: Path) -> None:
    assert "did you mean ARCHIVE?" in run("echo", "ARCHIV", "--config", config).err
    assert "there are ARCHIVE, CT_1" in run("echo", "XYZ", "--config", config).err
    assert "CT_1 has no host in ae.toml" in run("echo", "CT_1", "--config", config).err


def test_what_is_no_title_and_no_port_is_named(config: Path) -> None:
    assert "0 is no port" in run("echo", "A@b:0", "--config", config).err
    assert "1 to 16 characters" in run("echo", "A" * 17 + "@b", "--config", config).err
    assert "our AE title" in run("echo", "A@b", "-aet", "B\\C").err


def test_our_title_is_the_option_then_the_environment_then_the_settings(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calling_title(options(config)) == "NODE_1"
    monkeypatch.setenv("DICOMNODE__NODE__AE_TITLE", "NODE_2")
    assert calling_title(options(config)) == "NODE_2"
    assert calling_title(options(config, calling="NODE_3")) == "NODE_3"


def test_mistakes_of_the_settings_are_named_as_check_config_does(config: Path) -> None:
    config.write_text('[node]\nae_title = "MUCH_TOO_LONG_A_TITLE"\n')
    ended = run("echo", "A@b", "--config", config)
    assert ended.code == 78
    assert f"{config}:2: node.ae_title" in ended.err


def test_all_are_those_with_a_host(config: Path) -> None:
    assert [each.peer.title for each in every_called(options(config))] == ["ARCHIVE"]


def test_options_are_spelled_as_dcmtk_has_them(node: RunningNode) -> None:
    ended = run(
        *("echo", written(node.dicom_address, "ANYBODY"), "-aec", "DICOMNODE", "-aet", "WS_1"),
        *("-ta", "5", "-td", "5", "-to", "5", "-pdu", "16384", "-d"),
    )
    assert ended.code == 0, ended.err
    assert "Proposed by WS_1 to DICOMNODE" in ended.err
    assert "maximum PDU 16KB" in ended.err
    assert "(1.2.840.10008.1.1)" in ended.err
