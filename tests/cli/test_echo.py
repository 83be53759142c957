"""``dicomnode echo``."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import peers
from tests.cli.commands import run, written
from tests.conftest import RunningNode, StartNode


def test_an_answer_is_told_with_its_time_and_the_peer_s_implementation(node: RunningNode) -> None:
    ended = run("echo", written(node.dicom_address))
    assert ended.code == 0
    assert ended.out.startswith(f"DICOMNODE at 127.0.0.1:{node.dicom_address[1]} answers in ")
    assert "(DICOMNODE_0.1)" in ended.out


def test_verbose_shows_what_was_proposed_and_what_accepted(node: RunningNode) -> None:
    ended = run("echo", written(node.dicom_address), "-v")
    assert "Proposed by DICOMNODE" in ended.err
    assert "Accepted by DICOMNODE:" in ended.err
    assert "Verification SOP Class" in ended.err


def test_nobody_listening_is_told_with_what_to_try() -> None:
    port = peers.free_port()
    ended = run("echo", f"PACS@127.0.0.1:{port}")
    assert ended.code == 1
    assert f"cannot connect to PACS at 127.0.0.1:{port}: connection refused" in ended.err
    assert "See whether PACS runs and listens" in ended.err


def test_a_wrong_called_title_is_told_with_what_to_try(node: RunningNode) -> None:
    ended = run("echo", written(node.dicom_address, "SOMEBODY"))
    assert ended.code == 1
    assert "Called AE title not recognized" in ended.err
    assert "does not call itself SOMEBODY: correct title, host or port in PEER" in ended.err


def test_what_is_no_dicom_node_is_told(node: RunningNode) -> None:
    ended = run("echo", written(node.http_address, "PACS"))
    assert ended.code == 1
    assert "peer speaks HTTP. What listens at" in ended.err
    assert "is no DICOM node: correct title, host or port in PEER" in ended.err


def test_a_calling_title_that_is_not_known_is_told_with_what_to_try(start_node: StartNode) -> None:
    node = start_node(access={"unknown_ae": "refuse"})
    ended = run("echo", written(node.dicom_address), "-aet", "WS_1")
    assert ended.code == 1
    assert "Register WS_1 at DICOMNODE, with what it may do there." in ended.err


def test_a_service_that_is_refused_is_told(start_node: StartNode) -> None:
    node = start_node(entities=[{"title": "WS_1", "services": ["store"]}])
    ended = run("echo", written(node.dicom_address), "-aet", "WS_1")
    assert ended.code == 1
    assert "DICOMNODE refused the presentation context" in ended.err


def test_a_name_that_does_not_resolve_is_told() -> None:
    ended = run("echo", "PACS@nobody.invalid")
    assert ended.code == 1
    assert "No address is known by that name" in ended.err


def test_all_are_asked_and_failures_explained(node: RunningNode, tmp_path: Path) -> None:
    host, port = node.dicom_address
    config = peers.write_config(
        tmp_path / "client",
        entities=[
            {"title": "DICOMNODE", "host": host, "port": port},
            {"title": "GONE", "host": host, "port": peers.free_port()},
            {"title": "CALLS_ONLY"},
        ],
    )
    ended = run("echo", "--all", "--config", config)
    assert ended.code == 1
    rows = {line.split()[0]: line for line in ended.lines if line.strip()}
    assert "DICOMNODE_0.1" in rows["DICOMNODE"]
    assert "no answer" in rows["GONE"]
    assert "CALLS_ONLY" not in rows
    assert "cannot connect to GONE" in ended.out


def test_either_one_peer_or_all() -> None:
    assert run("echo").code == 1
    assert "name one PEER, or give --all" in run("echo").err


def test_a_hostile_implementation_name_does_not_reach_the_terminal(node: RunningNode) -> None:
    from dicomnode.cli.negotiation_view import plain

    assert plain("\x1b[2J[red]x").plain == "\\x1b[2J[red]x"


def test_echo_loads_none_of_what_takes_long() -> None:
    heavy = ("pydicom", "sqlalchemy", "pydantic", "starlette", "structlog", "rich.table")
    code = (
        "import sys, dicomnode.cli\n"
        "import dicomnode.cli.echo\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_interrupt_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    config = peers.write_config(tmp_path, entities=[{"title": "A", "host": "127.0.0.1"}])
    monkeypatch.setattr("dicomnode.cli.echo._echo_all", interrupted)
    ended = run("echo", "--all", "--config", config)
    assert (ended.code, ended.err) == (130, "dicomnode: interrupted\n")
