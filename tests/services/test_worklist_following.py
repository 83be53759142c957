"""The thread that follows the directory of worklist files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.services import worklist_following
from dicomnode.services.worklist_files import WorklistFiles
from dicomnode.services.worklist_following import WorklistFollowing
from tests import peers
from tests.worklist_data import write_worklist_file
from tests.worklist_ward import Ward, worklist_ward


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with worklist_ward(tmp_path) as ward:
        yield ward


def following(ward: Ward, directory: Path | None) -> WorklistFollowing:
    return WorklistFollowing(directory, 0.01, ward.intake, ward.logger)


def test_the_first_look_has_ended_when_the_start_has(ward: Ward) -> None:
    write_worklist_file(ward.directory / "a.wl")
    follower = following(ward, ward.directory)
    follower.start(20.0)
    assert ward.keys == ["file:a.wl"]
    assert follower.figures()["files"] == 1
    write_worklist_file(ward.directory / "b.wl", StudyInstanceUID="1.2.3.2")
    peers.eventually(lambda: len(ward.keys) == 2, "the second file")
    follower.stop()


def test_without_a_directory_no_item_of_a_file_stays(ward: Ward) -> None:
    write_worklist_file(ward.directory / "a.wl")
    ward.poll()
    follower = following(ward, None)
    follower.start(20.0)
    assert ward.keys == []
    assert (follower.figures(), follower.reasons()) == ({}, {})
    assert "worklist.directory is not set; items of files removed: 1" in ward.log
    follower.stop()


def test_a_file_server_that_does_not_answer_holds_up_neither_start_nor_stop(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(WorklistFiles, "poll", lambda files: answers.wait(20))
    monkeypatch.setattr(worklist_following, "_STOP_SECONDS", 0.01)
    follower = following(ward, ward.directory)
    follower.start(0.01)
    assert "has not been read within 0.01 s" in ward.log
    follower.stop()
    answers.set()


def test_the_thread_outlives_a_fault(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    polls = threading.Semaphore(0)

    def poll(files: WorklistFiles) -> None:
        polls.release()
        raise LookupError("a fault")

    monkeypatch.setattr(WorklistFiles, "poll", poll)
    monkeypatch.setattr(worklist_following, "_FAULT_SECONDS", 0.01)
    follower = following(ward, ward.directory)
    follower.start(20.0)
    assert polls.acquire(timeout=20)
    assert polls.acquire(timeout=20)
    follower.stop()
    assert "LookupError: a fault" in ward.log


def test_one_that_was_never_started_can_be_stopped(ward: Ward) -> None:
    following(ward, ward.directory).stop()
