"""``dicomnode sync`` with archives that others wrote, as sources and as destinations."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests import peers
from tests.cli.commands import STUDY, Ended, make_study, run, written
from tests.conftest import RunningNode, StartNode

pytestmark = pytest.mark.interop("dcmqrscp", "Orthanc")

OTHER, MORE = "1.2.3", "1.2.4"
Start = Callable[[Path, peers.Address], AbstractContextManager[peers.Peer]]


FETCHED = "dicomnode_fetch_runs_total"


@contextlib.contextmanager
def dcmqrscp(directory: Path, ours: peers.Address) -> Iterator[peers.Peer]:
    with peers.dcmqrscp(directory, destinations={"OURS": ours}) as peer:
        yield peer


@contextlib.contextmanager
def orthanc(directory: Path, ours: peers.Address) -> Iterator[peers.Peer]:
    with peers.orthanc(directory, DicomModalities={"OURS": ["OURS", *ours]}) as peer:
        yield peer


@pytest.fixture
def ours(start_node: StartNode, tmp_path: Path) -> RunningNode:
    return start_node(directory=tmp_path / "ours", node={"ae_title": "OURS"})


@pytest.fixture(params=[dcmqrscp, orthanc])
def archive(
    request: pytest.FixtureRequest, tmp_path: Path, ours: RunningNode
) -> Iterator[peers.Peer]:
    """Return an archive with one study of four objects in two series, and one of one object."""
    start: Start = request.param
    with start(tmp_path / "archive", ours.dicom_address) as peer:
        make_study(tmp_path / "in" / "1", 4, series=2)
        make_study(tmp_path / "in" / "2", 1, study=OTHER)
        ended = run("send", address(peer), tmp_path / "in", "-aet", "OURS")
        assert ended.code == 0, ended.err
        yield peer


def address(peer: peers.Peer) -> str:
    return written(peer.dicom_address, peer.ae_title)


def sync(peer: peers.Peer, ours: RunningNode, *arguments: object) -> Ended:
    return run("sync", address(peer), *arguments, "--config", ours.config)


@pytest.mark.parametrize("mode", ["auto", "get", "move"])
def test_all_of_an_archive_is_brought_and_then_agrees(
    archive: peers.Peer, ours: RunningNode, mode: str
) -> None:
    ended = sync(archive, ours, "--mode", mode)
    assert ended.code == 0, ended.err
    assert "5 received" in ended.out
    assert len(ours.files()) == 5
    again = sync(archive, ours, "--mode", mode)
    assert again.code == 0, again.err
    assert "0 objects missing here" in again.out and "0 received" in again.out


def test_what_is_missing_of_a_study_is_brought_whatever_counts_the_archive_gives(
    archive: peers.Peer, ours: RunningNode, tmp_path: Path
) -> None:
    part = sorted((tmp_path / "in" / "1").iterdir())[:3]
    assert run("send", written(ours.dicom_address, "OURS"), *part).code == 0
    ended = sync(archive, ours, "--date", "20040101-", "--modality", "CT")
    assert ended.code == 0, ended.err
    assert "2 objects missing here" in ended.out and "2 received" in ended.out
    ended = sync(archive, ours, "--modality", "MR")
    assert " 0 received" in f" {ended.out.splitlines()[-1]}"


def test_what_an_archive_lacks_is_sent(
    archive: peers.Peer, ours: RunningNode, tmp_path: Path
) -> None:
    more = make_study(tmp_path / "more", 2, study=MORE)
    part = sorted((tmp_path / "in" / "1").iterdir())[:1]
    assert run("send", written(ours.dicom_address, "OURS"), *more, *part).code == 0
    shown = sync(archive, ours, "--dry-run")
    assert "4 objects missing here, 2 objects missing there" in shown.out
    assert all(uid in shown.out for uid in (STUDY, OTHER, MORE))
    ended = sync(archive, ours, "--both")
    assert ended.code == 0, ended.err
    assert "4 received, 2 sent" in ended.out
    ended = sync(archive, ours, "--both")
    assert "0 objects missing here, 0 objects missing there" in ended.out


@pytest.mark.parametrize("mode", ["get", "move"])
def test_a_running_node_fetches_and_sends_by_itself(
    archive: peers.Peer, ours: RunningNode, start_node: StartNode, tmp_path: Path, mode: str
) -> None:
    more = make_study(tmp_path / "more", 2, study=MORE)
    assert run("send", written(ours.dicom_address, "OURS"), *more).code == 0
    ours.stop()
    host, port = archive.dicom_address
    node = start_node(
        directory=tmp_path / "ours",
        node={"ae_title": "OURS", "port": ours.dicom_address[1]},
        entities=[{"title": archive.ae_title, "host": host, "port": port}],
        fetch=[
            {
                "name": "all",
                "from": archive.ae_title,
                "every": "1h",
                "mode": mode,
                "direction": "both",
            }
        ],
    )
    peers.eventually(lambda: node.metric(FETCHED, result="complete") == 1)
    assert len(node.files()) == 7
    peers.eventually(lambda: node.metric("dicomnode_outbox_depth") == 0)
    agreed = sync(archive, node, "--both")
    assert "0 objects missing here, 0 objects missing there" in agreed.out, agreed.err
