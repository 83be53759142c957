"""``[[fetch]]`` rules in a running node, with peers that are there, dead, slow, or come back."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.sync import syncing
from dicomnode.sync.schedule import Schedule
from tests import peers
from tests.cli.commands import make_study, run, written
from tests.conftest import RunningNode, StartNode, StartNodeProcess
from tests.lying_archive import LyingArchive, lying_archive
from tests.peers import eventually

COUNT = 30
QUICK = {"retry_seconds": 0.05, "max_retry_seconds": 0.2}
RULE = {"name": "all", "from": "LIAR", "every": "1h"}


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[LyingArchive]:
    with lying_archive(make_study(tmp_path / "in", COUNT, series=3)) as made:
        yield made


def entity(title: str, address: peers.Address) -> dict[str, object]:
    return {"title": title, "host": address[0], "port": address[1]}


def fetch(address: peers.Address) -> dict[str, Any]:
    """Return what /api/status tells of the first rule."""
    status, body = peers.http_get(address, "/api/status")
    assert status == 200
    (rule,) = json.loads(body)["fetch"]
    return dict(rule)


def is_done(node: RunningNode, result: str = "complete", times: int = 1) -> Callable[[], bool]:
    return lambda: node.metric("dicomnode_fetch_runs_total", result=result) >= times


def test_what_is_missing_is_fetched_and_told(
    start_node: StartNode, archive: LyingArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    node = start_node(entities=[entity("LIAR", archive.address)], fetch=[RULE])
    eventually(is_done(node))
    assert len(node.files()) == COUNT
    assert node.metric("dicomnode_fetch_objects_total", direction="pull", rule="all") == COUNT
    assert node.metric("dicomnode_fetch_missing_studies", rule="all") == 0
    assert node.metric("dicomnode_fetch_last_success_timestamp_seconds") > 1.7e9
    told = fetch(node.http_address)
    assert (told["fetched"], told["missing_studies"], told["last_error"]) == (COUNT, 0, "")
    assert told["last_success"] and told["next_run"] - told["last_run"] == 3600
    shown = run("status", "--once", "--url", "http://{}:{}".format(*node.http_address))
    assert "LIAR" in shown.out and "never" not in shown.out
    err = capsys.readouterr().err
    assert f"fetch 'all' from LIAR: 1 study compared, 1 looked into, {COUNT} objects" in err


def test_what_is_fetched_is_forwarded_but_not_back(
    start_node: StartNode, archive: LyingArchive, storescp: peers.Peer
) -> None:
    node = start_node(
        entities=[entity("LIAR", archive.address), entity("STORESCP", storescp.dicom_address)],
        fetch=[RULE],
        forward=[{"name": "on", "to": ["STORESCP", "LIAR"]}],
    )
    eventually(lambda: node.metric("dicomnode_forwarded_total", destination="STORESCP") == COUNT)
    assert len(list(storescp.directory.iterdir())) == COUNT
    assert node.metric("dicomnode_forwarded_total", destination="LIAR") == 0
    assert node.metric("dicomnode_outbox_depth", destination="LIAR") == 0


def test_what_the_peer_lacks_goes_by_the_outbox(start_node: StartNode, tmp_path: Path) -> None:
    other = start_node(directory=tmp_path / "other", node={"ae_title": "OTHER"})
    rule = {"name": "up", "from": "OTHER", "every": "10s", "direction": "both"}
    ours = tmp_path / "ours"
    node = start_node(directory=ours)
    make_study(tmp_path / "in", COUNT)
    assert run("send", written(node.dicom_address), tmp_path / "in").code == 0
    node.stop()
    entities = [entity("OTHER", other.dicom_address)]
    node = start_node(directory=ours, entities=entities, fetch=[rule])
    eventually(lambda: len(other.files()) == COUNT)
    assert node.metric("dicomnode_fetch_objects_total", direction="push") == COUNT
    eventually(lambda: node.metric("dicomnode_outbox_depth") == 0)


def test_a_dead_peer_is_tried_again_with_pauses_until_it_is_there(
    start_node: StartNode, tmp_path: Path
) -> None:
    port = peers.free_port()
    node = start_node(
        directory=tmp_path / "ours",
        entities=[entity("OTHER", ("127.0.0.1", port))],
        fetch=[{**RULE, "from": "OTHER"}],
        forwarding=QUICK,
    )
    eventually(is_done(node, "failed", 3))
    told = fetch(node.http_address)
    assert told["failures"] >= 3 and "OTHER" in told["last_error"]
    section = {"ae_title": "OTHER", "port": port}
    start_node(directory=tmp_path / "other", node=section)
    eventually(is_done(node))
    told = fetch(node.http_address)
    assert (told["failures"], told["last_error"]) == (0, "")


def test_a_pause_survives_a_restart_and_ends_when_the_registry_is_mended(
    start_node: StartNode, archive: LyingArchive, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "directory": tmp_path / "ours",
        "fetch": [RULE],
        "forwarding": {"retry_seconds": 3600},
    }
    settings["entities"] = [entity("LIAR", ("127.0.0.1", peers.free_port()))]
    node = start_node(**settings)
    eventually(is_done(node, "failed"))
    node.stop()
    node = start_node(**settings)
    told = fetch(node.http_address)
    assert told["failures"] == 1 and told["next_run"] > time.time() + 1000
    assert node.metric("dicomnode_fetch_runs_total") == 0
    peers.write_registry(node.directory, [entity("LIAR", archive.address)])
    node.reload()
    eventually(is_done(node))
    assert len(node.files()) == COUNT


@pytest.mark.timeout(120)
def test_a_node_that_is_killed_goes_on_at_its_next_start(
    start_node_process: StartNodeProcess, archive: LyingArchive, tmp_path: Path
) -> None:
    settings = {"entities": [entity("LIAR", archive.address)], "fetch": [RULE]}
    node = start_node_process(tmp_path / "ours", **settings)
    eventually(lambda: len(archive.sent) >= 5)
    archive.may_send.clear()
    node.signal(signal.SIGKILL)
    node.wait()
    archive.may_send.set()
    there = len(list((tmp_path / "ours" / "store" / "objects").rglob("*.dcm")))
    before = len(archive.sent)
    node = start_node_process(tmp_path / "ours", **settings)
    node.wait_for_line(r"fetch 'all' from LIAR: 1 study compared")
    assert fetch(node.http_address)["fetched"] == COUNT - there
    assert len(archive.sent) - before <= COUNT - there + 1


def test_a_node_that_is_stopped_in_the_middle_stops_at_once_and_goes_on_later(
    start_node: StartNode, archive: LyingArchive, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "directory": tmp_path / "ours",
        "entities": [entity("LIAR", archive.address)],
        "fetch": [RULE],
    }
    node = start_node(**settings)
    eventually(lambda: len(archive.sent) >= 5)
    archive.may_send.clear()
    node.stop()
    assert not node.files("incoming")
    archive.may_send.set()
    node = start_node(**settings)
    eventually(is_done(node))
    assert len(node.files()) == COUNT


def test_outside_of_its_window_nothing_is_done(
    start_node: StartNode, archive: LyingArchive
) -> None:
    hour = (time.localtime().tm_hour + 12) % 24
    rule = {**RULE, "window": f"{hour:02d}:00-{hour:02d}:30"}
    node = start_node(entities=[entity("LIAR", archive.address)], fetch=[rule])
    told = fetch(node.http_address)
    assert told["next_run"] > time.time() + 3600 and not told["running"]
    assert not archive.asked


def test_a_run_that_the_window_ends_goes_on_when_it_opens(
    start_node: StartNode, archive: LyingArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_for = [10]

    def is_open(schedule: Schedule, now: float) -> bool:
        return len(archive.sent) < open_for[0]

    def opening(schedule: Schedule, due: float) -> float:
        return due if is_open(schedule, due) else due + 0.05

    monkeypatch.setattr(syncing, "BATCH", 5)
    monkeypatch.setattr(Schedule, "is_open", is_open)
    monkeypatch.setattr(Schedule, "opening", opening)
    node = start_node(entities=[entity("LIAR", archive.address)], fetch=[RULE])
    eventually(is_done(node, "interrupted"))
    assert 10 <= len(node.files()) < COUNT
    told = fetch(node.http_address)
    assert told["last_success"] is None
    open_for[0] = COUNT + 1
    eventually(is_done(node))
    assert len(node.files()) == COUNT == len(archive.sent)


def test_an_object_that_never_comes_is_told_and_left_until_the_next_run(
    start_node: StartNode, archive: LyingArchive
) -> None:
    lost = next(iter(archive.held.values()))
    true_matching = archive.matching
    archive.matching = lambda wanted: [  # type: ignore[method-assign]
        each for each in true_matching(wanted) if each is not lost or "SOPClassUID" in wanted
    ]
    node = start_node(entities=[entity("LIAR", archive.address)], fetch=[RULE])
    eventually(is_done(node, "incomplete"))
    assert len(node.files()) == COUNT - 1
    told = fetch(node.http_address)
    assert (told["missing_studies"], told["missing_objects"]) == (1, 1)
    assert told["last_error"]
    assert told["last_success"] is None
