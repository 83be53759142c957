"""``dicomnode status``: against a server in the test, and its layout."""

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dicomnode.cli import app
from dicomnode.cli import status as module
from dicomnode.cli.asking import NodeUnavailable, ask, url_of
from dicomnode.cli.live_associations import under_way
from dicomnode.cli.status import summary
from dicomnode.settings import HttpSettings, Settings

FIGURES: dict[str, Any] = {
    "version": "0.1.0",
    "ae_title": "DICOMNODE",
    "host": "127.0.0.1",
    "port": 11112,
    "uptime_seconds": 185.0,
    "durability": "full",
    "draining": False,
    "archive": {
        "patients": 3,
        "studies": 4,
        "series": 5,
        "instances": 12345,
        "bytes": 512 * 1024,
        "identity_conflicts": 1,
        "free_bytes": 2 * 1024**3,
    },
    "associations": [
        {
            "number": 7,
            "calling_ae_title": "CT_1",
            "peer_address": "10.0.0.9",
            "seconds": 1.25,
            "operations": 42,
        }
    ],
    "last_rejections": [
        {
            "time": 0.0,
            "peer_address": "10.0.0.66",
            "calling_ae_title": "[red]MR\x1b",
            "words": "Calling AE title not recognized: title unknown",
        }
    ],
    "identity_conflict_list": [{"patient_id": "P1", "studies": 2}],
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


class Handler(BaseHTTPRequestHandler):
    """Answers /api/status with ``FIGURES``, and /other/api/status with what is not JSON."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        known = self.path == "/api/status"
        self.wfile.write(json.dumps(FIGURES).encode() if known else b"<html>")

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


def drawn(figures: dict[str, Any]) -> str:
    console = Console(width=120, force_terminal=False, file=io.StringIO(), record=True)
    console.print(summary(figures))
    return console.export_text()


def test_the_summary_says_what_is_held_who_is_there_and_who_was_turned_away() -> None:
    text = drawn(FIGURES)
    for part in (
        "DICOMNODE on 127.0.0.1:11112, dicomnode 0.1.0, up 3m05s",
        "12,345",
        "512KB",
        "2.0GB",
        "1 patient ID came with different names and birth dates (identity conflicts)",
        "CT_1",
        "1.25s",
        "Calling AE title not recognized: title unknown",
        "P1",
    ):
        assert part in text


def test_queries_retrievals_and_destinations_are_summed_up_once_there_are_some() -> None:
    totals = {"queries": 1200, "matches": 34, "empty_queries": 5, "retrievals": 6}
    totals |= {"objects_sent": 7000, "objects_failed": 8, "sent_bytes": 5 * 1024**3}
    outgoing = [
        {"number": 9, "called_ae_title": "ARCHIVE", "peer_address": "10.0.0.4", "seconds": 2}
    ]
    text = drawn(FIGURES | {"since_start": totals, "outgoing_associations": outgoing})
    assert "queries since start: 1,200, 34 matches, 5 without any" in text
    assert "retrievals since start: 6, 7,000 objects sent, 5.0GB, 8 failed" in text
    assert "open to destinations: 1" in text
    assert "ARCHIVE" in text
    assert "since start" not in drawn(FIGURES)


def test_associations_show_how_far_their_operations_are() -> None:
    row = FIGURES["associations"][0] | {
        "received_bytes": 5 * 1024**2,
        "received_bytes_per_second": 1024**2,
        "under_way_count": 3,
    }
    stored = {"service": "C-STORE", "seconds": 2.0, "progress": {"received_bytes": 3 * 1024**2}}
    counts = {"remaining": 10, "completed": 4, "failed": 1, "warning": 0, "sent_bytes": 1024}
    moved = {"service": "C-MOVE", "seconds": 2.0, "progress": counts | {"destination": "WS_1"}}
    asked = {"service": "C-FIND", "seconds": 2.0, "progress": {"matches": 17}}
    assert under_way(row | {"under_way": [stored]}) == "C-STORE 3.0MB, 2.00s, and 2 more"
    row["under_way_count"] = 1
    assert under_way(row | {"under_way": [moved]}) == (
        "C-MOVE to WS_1 5 of 15, 1 failed, 1.0KB, 2.00s"
    )
    assert under_way(row | {"under_way": [asked]}) == "C-FIND 17 matches, 2.00s"
    text = drawn(FIGURES | {"associations": [row | {"under_way": [asked]}]})
    assert "5.0MB, 1.0MB/s" in text
    assert "17 matches" in text


def test_performed_steps_are_counted_by_status_once_there_are_some() -> None:
    counts = {"IN PROGRESS": 2, "COMPLETED": 1234, "DISCONTINUED": 0}
    text = drawn(FIGURES | {"performed_steps": counts})
    assert "performed steps: 2 in progress, 1,234 completed\n" in text
    assert "performed steps" not in drawn(FIGURES | {"performed_steps": dict.fromkeys(counts, 0)})


def test_storage_commitments_asked_of_others_are_counted_by_state() -> None:
    counts = {"waiting": 2, "refused": 0, "committed": 1234}
    text = drawn(FIGURES | {"commitment_requests": counts})
    assert "storage commitments asked of others: 2 waiting, 1,234 committed\n" in text


def test_storage_commitments_are_counted_and_those_given_up_are_named() -> None:
    commitments = {
        "pending": 0,
        "checked": 2,
        "delivered": 1234,
        "given_up": 1,
        "given_up_list": [
            {"requester": "CT_1", "requested": 0.0, "why": "CT_1 has no host in the registry"}
        ],
    }
    text = drawn(FIGURES | {"commitments": commitments})
    assert "storage commitments: 2 to be reported, 1,234 reported\n" in text
    assert "1 storage commitment report was given up" in text
    assert "CT_1 has no host in the registry" in text
    assert "commitment" not in drawn(FIGURES)


def test_what_waits_to_be_sent_on_is_told_by_destination() -> None:
    quiet = dict.fromkeys(("ready", "paused", "unsettled", "sent", "dead", "committed"), 0)
    row = {
        "reports": {"waiting": 0, "dead": 0},
        "oldest": None,
        "down_since": None,
        "next_attempt": None,
        "last_error": "",
    }
    rows = [
        row | {"destination": "IDLE", "objects": quiet},
        row
        | {
            "destination": "ARCHIVE",
            "objects": quiet | {"ready": 1200, "paused": 34, "dead": 2},
            "oldest": time.time() - 7200,
        },
        row
        | {
            "destination": "RIS",
            "objects": quiet | {"ready": 1},
            "reports": {"waiting": 3, "dead": 0},
            "oldest": time.time() - 60,
            "down_since": time.time() - 60,
            "next_attempt": time.time() + 600,
            "last_error": "connection refused",
        },
    ]
    told = drawn(FIGURES | {"outbox": rows})
    assert "RIS: 1 waiting, 3 reports waiting, oldest 1m" in told
    assert "down for 1m" in told and "connection refused" in told
    assert "ARCHIVE: 1,234 waiting, 2 set aside, oldest 2h" in told
    assert "(see dicomnode outbox list --dead)" in told
    assert told.index("RIS") < told.index("ARCHIVE")
    assert "IDLE" not in told
    assert "outbox" not in drawn(FIGURES | {"outbox": rows[:1]})


def test_what_peers_sent_is_neither_markup_nor_control() -> None:
    text = drawn(FIGURES)
    assert "[red]MR\\x1b" in text
    assert "\x1b" not in text


def test_a_quiet_node_shows_no_empty_tables() -> None:
    quiet = FIGURES | {"associations": [], "last_rejections": [], "identity_conflict_list": []}
    text = drawn(quiet | {"archive": {}, "draining": True, "durability": "relaxed"})
    assert "no association is open" in text
    assert "shutting down, durability relaxed" in text
    assert "rejections" not in text
    assert "conflict" not in text


def test_figures_are_fetched_with_or_without_the_scheme(url: str) -> None:
    assert ask(url, "/api/status") == FIGURES
    assert ask(url.removeprefix("http://") + "/", "/api/status") == FIGURES


def test_status_prints_the_summary_once_where_there_is_no_terminal(url: str) -> None:
    result = CliRunner().invoke(app, ["status", "--url", url])
    assert result.exit_code == 0
    assert "12,345" in result.stdout


def test_a_custody_log_that_cannot_be_written_is_told_of() -> None:
    told = {"enabled": True, "records": 7, "waiting": 2, "failures": 3, "lost": 1}
    text = drawn(FIGURES | {"custody": told})
    assert "custody log: 2 records wait, 1 was lost since start" in text
    assert "custody log" not in drawn(FIGURES | {"custody": told | {"failures": 0, "lost": 0}})


def test_an_audit_trail_tells_what_waits_and_what_was_lost() -> None:
    target = {"target": "tls://audit:6514", "waiting": 12, "error": "Connection \x1brefused"}
    text = drawn(FIGURES | {"audit": {"enabled": True, "lost": 3, "targets": [target]}})
    assert "audit trail to tls://audit:6514: 12 messages wait: Connection" in text
    assert "\x1b" not in text
    assert "audit trail: 3 messages were lost since start" in text
    assert "audit trail" not in drawn(FIGURES | {"audit": {"enabled": False, "targets": []}})


def test_status_prints_the_json_object(url: str) -> None:
    result = CliRunner().invoke(app, ["status", "--url", url, "--json"])
    assert json.loads(result.stdout) == FIGURES


def test_status_finds_the_node_by_its_settings(url: str, tmp_path: Path) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(f"[http]\nhost = '0.0.0.0'\nport = {url.rpartition(':')[2]}\n")
    result = CliRunner().invoke(app, ["status", "--config", str(file), "--once"])
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8104"),
        ("::", "http://[::1]:8104"),
        ("fd00::1", "http://[fd00::1]:8104"),
        ("node.example", "http://node.example:8104"),
    ],
)
def test_the_address_is_the_one_seen_from_this_machine(host: str, url: str) -> None:
    assert url_of(Settings(http=HttpSettings(host=host))) == url


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("enabled = false", "http.enabled is false"),
        ("port = 0", "take the port from the node's log and give --url"),
    ],
)
def test_a_node_that_cannot_be_found_by_its_settings_is_said_to_be_so(
    tmp_path: Path, row: str, words: str
) -> None:
    file = tmp_path / "dicomnode.toml"
    file.write_text(f"[http]\n{row}\n")
    result = CliRunner().invoke(app, ["status", "--config", str(file)])
    assert result.exit_code == 1
    assert words in result.stderr


def test_no_node_at_the_address_is_said_in_one_line() -> None:
    # Port 1 of loopback: nothing listens there without being root's.
    result = CliRunner().invoke(app, ["status", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.stderr == "dicomnode: no node answers at http://127.0.0.1:1: Connection refused\n"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://127.0.0.1", "must be such as http://127.0.0.1:8104"),
        ("http://", "must be such as http://127.0.0.1:8104"),
        ("http://127.0.0.1:x", "no node answers at"),
    ],
)
def test_an_address_that_is_none_is_told(address: str, words: str) -> None:
    with pytest.raises(NodeUnavailable, match=words):
        ask(address, "/api/status")


def test_another_server_at_the_address_is_told(url: str) -> None:
    with pytest.raises(NodeUnavailable, match="is no dicomnode"):
        ask(f"{url}/other", "/api/status")


def test_a_node_that_goes_away_is_reported_below_the_last_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = iter([NodeUnavailable("no node answers"), FIGURES, KeyboardInterrupt()])

    def next_round(url: str) -> Any:
        outcome = next(rounds)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(module, "_fetch", next_round)
    monkeypatch.setattr(module, "_REFRESH_SECONDS", 0)
    screen = io.StringIO()
    console = Console(width=120, height=60, force_terminal=True, color_system=None, file=screen)
    module._watch(console, "http://node", FIGURES)
    assert screen.getvalue().count("no node answers") == 1
    assert screen.getvalue().count("12,345") >= 3


def test_files_that_are_not_whole_are_told_and_where_to_read_more() -> None:
    scrub = {"not_whole": {"damaged": 2, "missing": 1, "unreadable": 0}, "is_running": False}
    text = drawn(FIGURES | {"scrub": scrub})
    assert "not whole: 2 damaged, 1 missing; see dicomnode scrub --report" in text
    scrub = {"not_whole": {"damaged": 0}, "is_running": True, "objects": 5, "total_objects": 1234}
    text = drawn(FIGURES | {"scrub": scrub})
    assert "scrub: 5 of 1,234 objects read" in text and "not whole" not in text
