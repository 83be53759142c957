"""``dicomnode sync``, between nodes of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import peers
from tests.cli.commands import STUDY, Ended, make_study, run, written
from tests.conftest import RunningNode, StartNode
from tests.interop.samples import data_set_bytes

OTHER = "1.2.3"
Sync = Callable[..., Ended]


@pytest.fixture
def archive(start_node: StartNode, tmp_path: Path) -> RunningNode:
    """Return a node with one study of four objects in two series, and one of one object."""
    node = start_node(directory=tmp_path / "archive")
    make_study(tmp_path / "in" / "1", 4, series=2)
    make_study(tmp_path / "in" / "2", 1, study=OTHER)
    assert run("send", written(node.dicom_address), tmp_path / "in").code == 0
    return node


@pytest.fixture
def ours(start_node: StartNode, tmp_path: Path) -> RunningNode:
    return start_node(directory=tmp_path / "ours", node={"ae_title": "OURS"})


def names(node: RunningNode) -> set[str]:
    return {path.stem for path in node.files()}


@pytest.fixture
def sync(archive: RunningNode, ours: RunningNode) -> Sync:
    def synchronize(*arguments: object) -> Ended:
        return run("sync", written(archive.dicom_address), *arguments, "--config", ours.config)

    return synchronize


def test_what_is_missing_here_is_brought_byte_for_byte(
    sync: Sync, archive: RunningNode, ours: RunningNode
) -> None:
    ended = sync()
    assert ended.code == 0, ended.err
    assert "2 studies compared with DICOMNODE, 2 looked into: 5 objects missing" in ended.out
    assert "5 received" in ended.out
    held = {path.name: data_set_bytes(path) for path in archive.files()}
    assert {path.name: data_set_bytes(path) for path in ours.files()} == held


def test_studies_that_agree_are_not_looked_into_again(sync: Sync, archive: RunningNode) -> None:
    sync()
    sent = archive.metric("dicomnode_retrieve_sub_operations_total")
    ended = sync()
    assert ended.code == 0, ended.err
    assert "2 studies compared with DICOMNODE, 0 looked into: 0 objects missing" in ended.out
    assert archive.metric("dicomnode_retrieve_sub_operations_total") == sent


def test_of_a_study_that_is_there_in_part_the_rest_is_asked_for(
    sync: Sync, archive: RunningNode, ours: RunningNode, tmp_path: Path
) -> None:
    part = sorted((tmp_path / "in" / "1").iterdir())[:3]
    assert run("send", written(ours.dicom_address, "OURS"), *part).code == 0
    sent = archive.metric("dicomnode_retrieve_sub_operations_total")
    ended = sync("-k", f"StudyInstanceUID={STUDY}")
    assert ended.code == 0, ended.err
    assert "1 study compared with DICOMNODE, 1 looked into: 1 object missing" in ended.out
    peers.eventually(lambda: archive.metric("dicomnode_retrieve_sub_operations_total") == sent + 1)
    assert len(ours.files()) == 4


def test_what_the_peer_lacks_is_sent(
    sync: Sync, archive: RunningNode, ours: RunningNode, tmp_path: Path
) -> None:
    more = make_study(tmp_path / "more", 2, study="1.2.4")
    part = sorted((tmp_path / "in" / "1").iterdir())[:1]
    assert run("send", written(ours.dicom_address, "OURS"), *more, *part).code == 0
    ended = sync("--push")
    assert ended.code == 0, ended.err
    assert "2 objects missing there" in ended.out and "2 sent" in ended.out
    assert len(archive.files()) == 7
    assert len(ours.files()) == 3
    ended = sync("--both")
    assert ended.code == 0, ended.err
    assert "4 objects missing here, 0 objects missing there" in ended.out
    assert names(archive) == names(ours)


def test_of_what_is_held_the_same_keys_choose(
    sync: Sync, archive: RunningNode, ours: RunningNode, tmp_path: Path
) -> None:
    for number, patient in enumerate(("A1", "B1"), 1):
        made = make_study(tmp_path / patient, 1, study=f"1.2.9.{number}", patient_id=patient)
        assert run("send", written(ours.dicom_address, "OURS"), *made).code == 0
    for none in (["--modality", "MR"], ["--date", "20050101-"], ["-k", "PatientID=C*"]):
        assert "0 sent" in sync("--push", *none).out
    ended = sync("--push", "--modality", "CT", "--date", "-20040119", "-k", "PatientID=A*")
    assert "1 object missing there" in ended.out and "1 sent" in ended.out
    assert "1.2.9.1.1.1" in names(archive) and "1.2.9.2.1.1" not in names(archive)


def test_a_peer_that_serves_no_c_get_sends_by_c_move(
    sync: Sync, archive: RunningNode, ours: RunningNode
) -> None:
    host, port = ours.dicom_address
    entity = {"title": "OURS", "host": host, "port": port, "services": ["echo", "find", "move"]}
    peers.write_registry(archive.directory, [entity])
    archive.reload()
    ended = sync()
    assert ended.code == 0, ended.err
    assert "5 received" in ended.out
    moved = archive.metric("dicomnode_retrieve_sub_operations_total", service="C-MOVE")
    assert moved == 5


def test_a_dry_run_shows_what_is_missing_where_and_moves_nothing(
    sync: Sync, archive: RunningNode, ours: RunningNode, tmp_path: Path
) -> None:
    more = make_study(tmp_path / "more", 2, study="1.2.4")
    assert run("send", written(ours.dicom_address, "OURS"), *more).code == 0
    ended = sync("--dry-run")
    assert ended.code == 0, ended.err
    rows = {line.split()[1]: line.split("│")[2:] for line in ended.lines if line.startswith("│")}
    shown = {uid: [cell.strip() for cell in row[1:5]] for uid, row in rows.items()}
    assert shown == {
        STUDY: ["0", "4", "4", ""],
        OTHER: ["0", "1", "1", ""],
        "1.2.4": ["2", "0", "", "2"],
    }
    assert len(archive.files()) == 5 and len(ours.files()) == 2


def test_dates_and_modality_narrow_what_is_compared(sync: Sync) -> None:
    assert "0 studies compared" not in sync("--date", "20040101-", "--dry-run").out
    for nothing in (["--date", "20050101-"], ["--date", "-20031231"], ["--modality", "MR"]):
        ended = sync(*nothing)
        assert ended.code == 0, ended.err
    ended = sync("--date", "20040119", "--modality", "CT")
    assert "5 received" in ended.out, ended.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--date", "yesterday"], "'yesterday' is no date"),
        (["--date", "20260230"], "a day that is in no calendar"),
        (["--date", "20260201-20260101"], "ends before it begins"),
        (["-k", "Modality=CT"], "Modality is no attribute of a patient or a study"),
        (["-k", "PatientID"], "PatientID has no value"),
        (["--pull", "--push"], "exclude each other"),
        (["--mode", "fax"], "--mode is one of auto, get, move"),
    ],
)
def test_what_cannot_be_meant_is_said(sync: Sync, arguments: list[str], words: str) -> None:
    ended = sync(*arguments)
    assert ended.code == 1
    assert words in ended.err


def test_objects_come_by_c_move_where_the_peer_knows_us(
    sync: Sync, archive: RunningNode, ours: RunningNode
) -> None:
    ended = sync("--mode", "move")
    assert ended.code == 1
    assert "A801H" in ended.err and "5 failed" in ended.out
    host, port = ours.dicom_address
    peers.write_registry(archive.directory, [{"title": "OURS", "host": host, "port": port}])
    archive.reload()
    ended = sync("--mode", "move")
    assert ended.code == 0, ended.err
    assert "5 received" in ended.out
    assert len(ours.files()) == 5


def test_a_peer_that_is_not_there_is_said_in_words(ours: RunningNode) -> None:
    ended = run("sync", "NOBODY@127.0.0.1:1", "--config", ours.config)
    assert ended.code == 1
    assert "NOBODY" in ended.err and "127.0.0.1:1" in ended.err


def test_nothing_is_brought_without_the_own_node(sync: Sync, ours: RunningNode) -> None:
    ours.stop()
    ended = sync()
    assert ended.code == 1
