"""``dicomnode explain``: against a server in the test, and its layout."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from dicomnode.cli import app
from dicomnode.cli.explain import lines

UNKNOWN_DESTINATION: dict[str, Any] = {
    "kind": "retrieve",
    "time": 1000.0,
    "first_time": 1000.0,
    "count": 1,
    "calling_ae_title": "WS_1",
    "peer_address": "10.0.0.7",
    "asked": "C-MOVE to ARCHIVE2",
    "answer": "A801H Move destination unknown",
    "reasons": [{"words": "no destination ARCHIVE2 in ae.toml"}],
    "advice": ['Add an [[ae]] with title = "ARCHIVE2"'],
}


TOLD = {"time": 1060.0, "explanations": [UNKNOWN_DESTINATION] * 3}


class Handler(BaseHTTPRequestHandler):
    """Answers /api/explain with three explanations."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/explain" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(TOLD).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def plain(*entries: dict[str, Any]) -> list[str]:
    return [line.plain for line in lines(list(entries))]


def test_an_explanation_says_when_who_what_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    assert plain(UNKNOWN_DESTINATION) == [
        "1970-01-01 00:16:40  WS_1 (10.0.0.7): C-MOVE to ARCHIVE2",
        "    A801H Move destination unknown",
        "    why: no destination ARCHIVE2 in ae.toml",
        '    do:  Add an [[ae]] with title = "ARCHIVE2"',
    ]


def test_what_came_again_is_told_with_how_often_and_since_when(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    again = UNKNOWN_DESTINATION | {"count": 37, "first_time": 0.0}
    assert plain(again)[1].endswith("unknown, 37 times since 1970-01-01 00:00:00")


def test_what_was_received_and_where_the_rule_stands_are_told() -> None:
    places = [
        {"key": "ae.services", "title": "CT_1", "value": '["echo"]', "is_set": True}
        | {"where": "ae.toml:3"},
        {"key": "limits.max_matches", "value": "10000", "is_set": False}
        | {"where": "dicomnode.toml:7", "write": "max_matches = ... under [limits]"},
        {"key": "ae.host", "title": "CT_1", "value": None, "is_set": False}
        | {"where": "ae.toml:2", "write": "host = ..."},
        {"title": "X", "where": "ae.toml", "is_set": False, "write": "[[ae]] and below it title"},
        {"title": "CT_1", "where": "ae.toml:2", "is_set": True},
    ]
    received = "C-MOVE-RQ, message ID 1"
    shown = plain(UNKNOWN_DESTINATION | {"received": received, "configuration": places})
    assert shown[2] == "    got: C-MOVE-RQ, message ID 1"
    assert shown[-5:] == [
        '    at:  ae.toml:3: ae.services = ["echo"] of CT_1',
        "    at:  dicomnode.toml:7: limits.max_matches is not set, so it is 10000;"
        " write max_matches = ... under [limits]",
        "    at:  ae.toml:2: ae.host of CT_1 is not set; write host = ...",
        "    at:  ae.toml: write [[ae]] and below it title",
        "    at:  ae.toml:2: [[ae]] of CT_1",
    ]


def test_values_are_shown_where_the_node_tells_them() -> None:
    reasons = [{"words": "no study with this Patient ID", "patient_value": "P1"}]
    shown = plain(UNKNOWN_DESTINATION | {"reasons": reasons, "advice": []})
    assert shown[-1] == "    why: no study with this Patient ID (P1)"


def test_what_peers_sent_cannot_steer_the_terminal() -> None:
    shown = plain(UNKNOWN_DESTINATION | {"calling_ae_title": "[red]\x1b[2J"})
    assert "[red]\\x1b[2J" in shown[0]


def test_explanations_are_parted_by_an_empty_line() -> None:
    assert plain(UNKNOWN_DESTINATION, UNKNOWN_DESTINATION).count("") == 1


def test_no_explanations_are_good_news() -> None:
    assert plain()[0].startswith("Nothing to explain")


def test_explain_prints_whole_lines_of_as_many_as_are_asked_for(url: str) -> None:
    result = CliRunner().invoke(app, ["explain", "--url", url, "-n", "2"])
    assert result.exit_code == 0
    assert result.stdout.count("C-MOVE to ARCHIVE2") == 2


@pytest.mark.parametrize(("ae", "found"), [("ws_1", 3), ("ARCHIVE2", 3), ("ARCHIVE", 0)])
def test_explain_can_be_asked_about_one_ae(url: str, ae: str, found: int) -> None:
    result = CliRunner().invoke(app, ["explain", "--url", url, "--ae", ae])
    assert result.stdout.count("C-MOVE to ARCHIVE2") == found
    if not found:
        assert "of that time and AE" in result.stdout


@pytest.mark.parametrize(("last", "found"), [("30s", 0), ("1h", 3), ("2d", 3)])
def test_explain_can_be_asked_about_the_last_hour_by_the_nodes_clock(
    url: str, last: str, found: int
) -> None:
    result = CliRunner().invoke(app, ["explain", "--url", url, "--last", last])
    assert result.stdout.count("C-MOVE to ARCHIVE2") == found


def test_a_time_that_is_none_is_said(url: str) -> None:
    result = CliRunner().invoke(app, ["explain", "--url", url, "--last", "5"])
    assert result.exit_code == 1
    assert "90s, 15m, 1h or 2d" in result.stderr


def test_explain_prints_the_json_object(url: str) -> None:
    result = CliRunner().invoke(app, ["explain", "--url", url, "--json", "-n", "1"])
    assert json.loads(result.stdout) == TOLD | {"explanations": [UNKNOWN_DESTINATION]}
