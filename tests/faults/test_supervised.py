"""A node under a service manager: when it says what."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import peers
from tests.faults.scu import associated
from tests.notifying import Manager, manager
from tests.peers import NodeProcess, http_get

HANGS = Path(__file__).with_name("hangs.py")
WATCHDOG_SECONDS = 0.6


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    with manager(tmp_path) as made:
        monkeypatch.setenv("NOTIFY_SOCKET", made.address)
        yield made


@contextlib.contextmanager
def supervised(tmp_path: Path, *program: str) -> Iterator[NodeProcess]:
    """Run a node that may not have started yet."""
    process = NodeProcess(peers.write_config(tmp_path / "node"), *program)
    try:
        yield process
    finally:
        process.close()


def is_ready(message: dict[str, str]) -> bool:
    return message.get("READY") == "1"


def test_ready_is_said_when_both_ports_answer(tmp_path: Path, listening: Manager) -> None:
    with supervised(tmp_path) as node:
        message = listening.wait_for(is_ready)
        node.wait_until_ready()
        host, port = node.dicom_address
        assert message["STATUS"] == f"DICOM on {host}:{port}, HTTP on port {node.http_address[1]}"
        with associated(node.dicom_address) as wire:
            assert wire.echo() == 0
            wire.release()
        assert http_get(node.http_address, "/readyz")[0] == 200


def test_before_it_is_ready_a_node_only_asks_for_time(tmp_path: Path, listening: Manager) -> None:
    with supervised(tmp_path):
        before = []
        while not is_ready(message := listening.receive()):
            before.append(set(message))
    assert all(keys == {"EXTEND_TIMEOUT_USEC"} for keys in before)


def test_a_node_that_cannot_start_is_never_ready(tmp_path: Path, listening: Manager) -> None:
    with peers.node_process(tmp_path / "node") as first:
        listening.wait_for(is_ready)
        second = NodeProcess(first.config)
        assert second.wait() == 1
        second.close()
        assert not any(is_ready(message) for message in listening.drain())


def test_sighup_is_a_reload_from_its_beginning_to_its_end(
    tmp_path: Path, listening: Manager
) -> None:
    with supervised(tmp_path) as node:
        listening.wait_for(is_ready)
        peers.write_registry(node.config.parent, [{"title": "CT_1"}])
        node.signal(signal.SIGHUP)
        assert int(listening.wait_for_field("RELOADING")["MONOTONIC_USEC"]) > 0
        assert "failed" not in listening.wait_for(is_ready)["STATUS"]
        node.wait_for_line(r"reloaded \[\[ae\]\] CT_1: added")


def test_a_reload_that_fails_ends_too_and_the_status_says_so(
    tmp_path: Path, listening: Manager
) -> None:
    with supervised(tmp_path) as node:
        listening.wait_for(is_ready)
        node.config.write_text("[node\n")
        node.signal(signal.SIGHUP)
        listening.wait_for_field("RELOADING")
        status = listening.wait_for(is_ready)["STATUS"]
        assert status.endswith("; the last reload failed, the old settings stay")


def test_stopping_is_said_before_associations_are_waited_for(
    tmp_path: Path, listening: Manager
) -> None:
    with supervised(tmp_path) as node:
        listening.wait_for(is_ready)
        node.wait_until_ready()
        with associated(node.dicom_address) as wire:
            node.signal(signal.SIGTERM)
            message = listening.wait_for_field("STOPPING")
            # Longer than the drain of 30 s, whatever the unit says.
            assert int(message["EXTEND_TIMEOUT_USEC"]) > 30_000_000
            assert wire.echo() == 0
            wire.release()
        assert node.wait() == 0


@pytest.mark.parametrize(
    ("number", "what"), [(signal.SIGUSR1, "the loop"), (signal.SIGUSR2, "the writer")]
)
def test_the_watchdog_is_not_fed_while_something_hangs(
    tmp_path: Path,
    listening: Manager,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    what: str,
) -> None:
    go = tmp_path / "go"
    monkeypatch.setenv("DICOMNODE_TEST_GO", str(go))
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_SECONDS * 1e6)))
    with supervised(tmp_path, str(HANGS)) as node:
        listening.wait_for_field("WATCHDOG")
        listening.wait_for_field("WATCHDOG")
        node.signal(number)
        node.wait_for_line(f"{what} hangs")
        listening.drain()
        with pytest.raises(TimeoutError):
            listening.receive(3 * WATCHDOG_SECONDS)
        go.touch()
        listening.wait_for_field("WATCHDOG")
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
