"""``dicomnode trace``: what it writes, and how it fails."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import peers, wire
from tests.captures import Capture
from tests.cli.commands import run
from tests.conftest import RunningNode


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


def test_a_recording_is_its_owners_alone_and_what_it_holds_is_told(
    node: RunningNode, tmp_path: Path
) -> None:
    out = tmp_path / "out.pcapng"

    def associate() -> None:
        # The node listens to it once the recording has begun, which is once the file is there.
        peers.eventually(lambda: out.exists() and out.stat().st_size > 0, "the recording")
        with wire.Wire(node.dicom_address) as peer:
            peer.associate()
            peer.echo()
            peer.release()

    thread = threading.Thread(target=associate)
    thread.start()
    ended = run("trace", "--config", node.config, "--ae", "RAW", "--out", out, "--seconds", 20)
    thread.join()
    assert ended.code == 0, ended.err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert len(Capture(out.read_bytes()).streams()) == 1
    assert "1 association" in ended.err
    assert "patients' data" in ended.err


def test_ctrl_c_ends_the_recording_and_leaves_a_whole_file(
    node: RunningNode, tmp_path: Path
) -> None:
    out = tmp_path / "out.pcapng"
    command = [sys.executable, "-m", "dicomnode", "trace", "--config", str(node.config)]
    process = subprocess.Popen(
        [*command, "--ae", "RAW", "--out", str(out), "--seconds", "60"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        peers.eventually(lambda: out.exists() and out.stat().st_size > 0, "the recording")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        peers.end(process)
    assert process.returncode == 0, said
    assert "0 associations" in said
    assert "was ended" in Capture(out.read_bytes()).closing


def test_a_file_that_is_there_is_not_written_over(node: RunningNode, tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    out.write_text("mine")
    ended = run("trace", "--config", node.config, "--ae", "RAW", "--out", out)
    assert ended.code == 1
    assert "File exists" in ended.err
    assert out.read_text() == "mine"


def test_a_node_that_does_not_run_is_said_and_no_file_is_left(tmp_path: Path) -> None:
    config = peers.write_config(tmp_path / "node", http={"port": peers.free_port()})
    out = tmp_path / "out.pcapng"
    ended = run("trace", "--config", config, "--ae", "RAW", "--out", out)
    assert ended.code == 1
    assert "no node answers" in ended.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--ae TITLE"),
        (("--ae", "RAW", "--max-bytes", "much"), "--max-bytes must be a number such as 64M"),
        (("--ae", "RAW", "--max-bytes", "9"), "max_bytes must be a whole number from 65536"),
        (("--ae", "RAW", "--address", "here"), "address must be an IP address"),
    ],
)
def test_what_cannot_be_asked_for_is_said(
    node: RunningNode, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "out.pcapng"
    ended = run("trace", "--config", node.config, "--out", out, *options)
    assert ended.code == 1
    assert words in ended.err
    assert not out.exists()
