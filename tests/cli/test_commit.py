"""``dicomnode commit``: what it shows, and how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dicomnode.cli import app
from dicomnode.cli import commit as module
from dicomnode.cli.asking import NodeUnavailable
from dicomnode.cli.commit import lines
from tests import peers

SHOWN: dict[str, Any] = {
    "transaction_uid": "2.25.7",
    "peer": "KEEPER",
    "state": "committed",
    "why": "",
    "total": 1200,
    "committed": 1200,
    "failed": 0,
    "not_mentioned": 0,
    "retrieve_ae_title": "KEEPER",
    "asked_at": 0.0,
    "changed_at": 0.0,
    "failed_list": [],
    "not_mentioned_list": [],
}
FAILED = {
    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
    "sop_instance_uid": "1.2.3",
    "reason": "0112H",
    "words": "0112H No such object instance",
}


def drawn(**fields: object) -> str:
    console = Console(width=100, record=True, color_system=None, quiet=False)
    with console.capture() as captured:
        for part in lines(SHOWN | fields):
            console.print(part)
    return captured.get()


def test_a_study_that_is_committed_takes_one_line() -> None:
    assert drawn().splitlines()[0] == "KEEPER committed all 1,200 objects."


def test_each_object_that_is_not_committed_is_listed_with_the_reason() -> None:
    missing = {key: FAILED[key] for key in ("sop_class_uid", "sop_instance_uid")}
    text = drawn(
        state="partly",
        committed=1198,
        failed=1,
        not_mentioned=1,
        failed_list=[FAILED],
        not_mentioned_list=[missing | {"sop_instance_uid": "1.2.4"}],
    )
    assert "KEEPER committed 1,198 of 1,200 objects." in text
    assert "│ 1.2.3         │ 0112H No such object instance" in text
    assert "│ 1.2.4         │ not mentioned in the report" in text


def test_a_long_list_is_cut_and_its_rest_counted() -> None:
    text = drawn(state="failed", committed=0, failed=1200, failed_list=[FAILED] * 1000)
    assert text.count("0112H") == 50 and "and 1,150 more: 1,200 failed, 0 not mentioned" in text


def test_a_request_that_was_not_taken_says_why() -> None:
    text = drawn(state="refused", why="cannot connect to KEEPER. See whether it runs.")
    assert "did not take the request" in text and "cannot connect to KEEPER." in text


@pytest.mark.parametrize(
    ("state", "words"),
    [("asking", "has not answered yet"), ("waiting", "has not reported yet")],
)
def test_what_is_not_decided_says_how_to_look_later(state: str, words: str) -> None:
    text = drawn(state=state)
    assert words in text and "dicomnode commit --show 2.25.7" in text


def test_what_a_peer_says_is_no_control_of_the_terminal() -> None:
    assert "\x1b" not in drawn(state="refused", why="\x1b[2Jgone")


# -- the command -------------------------------------------------------------------------------


class Node:
    """Answers calls; ``states`` are those of the request, one each time it is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *states: str) -> None:
        self.states = list(states)
        self.calls: list[tuple[str, str, object]] = []
        monkeypatch.setattr(module, "call", self._call)
        monkeypatch.setattr(module, "_POLL_SECONDS", 0)

    def _call(self, settings: object, method: str, path: str, body: object = None) -> Any:
        self.calls.append((method, path, body))
        if method == "POST":
            return {"transaction_uid": "2.25.7", "total": 1200}
        state = self.states.pop(0)
        if state == "interrupt":
            raise KeyboardInterrupt
        if state == "gone":
            raise NodeUnavailable("no node answers at http://127.0.0.1:8104: refused")
        return SHOWN | {"state": state}


def run(tmp_path: Path, *arguments: str) -> Any:
    config = peers.write_config(tmp_path)
    return CliRunner().invoke(app, ["commit", *arguments, "--config", str(config)])


def test_it_waits_until_the_report_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(monkeypatch, "asking", "waiting", "committed")
    result = run(tmp_path, "KEEPER", "--study", "1.2", "--series", "1.3")
    assert result.exit_code == 0 and "KEEPER committed all" in result.stdout
    assert node.calls[0] == (
        *("POST", "/api/commitments"),
        {"peer": "KEEPER", "study": "1.2", "series": "1.3"},
    )
    assert node.states == [] and node.calls[-1][:2] == ("GET", "/api/commitments/2.25.7")


@pytest.mark.parametrize("state", ["asking", "waiting", "partly", "failed", "refused"])
def test_it_succeeds_only_when_all_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    Node(monkeypatch, state)
    assert run(tmp_path, "KEEPER", "--study", "1.2", "--wait", "0").exit_code == 1


def test_an_interrupt_leaves_the_request_standing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Node(monkeypatch, "waiting", "interrupt")
    result = run(tmp_path, "KEEPER", "--study", "1.2")
    assert result.exit_code == 130
    assert "The request stands. Look later with: dicomnode commit --show 2.25.7" in result.stderr


def test_a_node_that_goes_away_meanwhile_leaves_the_request_standing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Node(monkeypatch, "waiting", "gone")
    result = run(tmp_path, "KEEPER", "--study", "1.2")
    assert result.exit_code == 1
    assert "no node answers at" in result.stderr
    assert "The request stands. Look later with: dicomnode commit --show 2.25.7" in result.stderr


def test_an_earlier_request_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(monkeypatch, "committed")
    assert run(tmp_path, "--show", "2.25.7").exit_code == 0
    assert node.calls == [("GET", "/api/commitments/2.25.7", None)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a PEER and --study, or --show"),
        (("KEEPER", "--show", "1.2"), "give a PEER and --study, or --show"),
        (("KEEPER",), "give --study with its Study Instance UID"),
        (("--show", "../status"), "'../status' is no UID"),
        (("--show", "2.25.\u0667"), "is no UID"),
    ],
)
def test_what_is_not_said_is_asked_for(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = run(tmp_path, *arguments)
    assert result.exit_code == 1 and words in result.stderr
