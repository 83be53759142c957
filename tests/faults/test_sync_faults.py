"""``dicomnode sync`` with peers that break off, lie, or talk nonsense."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from dicomnode.sync import comparing
from tests import peers
from tests.cli.commands import STUDY, Ended, make_study, run, written
from tests.conftest import RunningNode, StartNode
from tests.lying_archive import LyingArchive, lying_archive

Sync = Callable[..., Ended]
COUNT = 30


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[LyingArchive]:
    with lying_archive(make_study(tmp_path / "in", COUNT, series=3)) as made:
        yield made


@pytest.fixture
def ours(start_node: StartNode) -> RunningNode:
    return start_node(storage={"durability": "relaxed"})


@pytest.fixture
def sync(archive: LyingArchive, ours: RunningNode) -> Sync:
    def synchronize(*arguments: object) -> Ended:
        return run("sync", written(archive.address, "LIAR"), *arguments, "--config", ours.config)

    return synchronize


def level(wanted: Dataset) -> str:
    return str(wanted.QueryRetrieveLevel)


def study(uid: str, **more: object) -> Dataset:
    match = Dataset()
    match.QueryRetrieveLevel = "STUDY"
    match.StudyInstanceUID = uid
    for keyword, value in more.items():
        setattr(match, keyword, value)
    return match


def test_a_peer_that_gives_no_counts_is_asked_for_objects(sync: Sync, ours: RunningNode) -> None:
    assert f"{COUNT} received" in sync().out
    again = sync()
    assert again.code == 0 and "0 received" in again.out
    assert len(ours.files()) == COUNT


def test_what_breaks_off_goes_on_where_it_was(
    sync: Sync, archive: LyingArchive, ours: RunningNode
) -> None:
    archive.breaks_after = 17
    ended = sync()
    assert ended.code == 0, ended.err
    assert len(ours.files()) == COUNT
    # One was perhaps on its way when it broke off.
    assert len(archive.sent) <= COUNT + 1


def test_a_command_that_is_killed_goes_on_where_it_was(
    sync: Sync, archive: LyingArchive, ours: RunningNode
) -> None:
    command = [sys.executable, "-m", "dicomnode", "sync", written(archive.address, "LIAR")]
    process = subprocess.Popen([*command, "--config", str(ours.config)])
    try:
        peers.eventually(lambda: len(archive.sent) >= 5)
        archive.may_send.clear()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    finally:
        process.kill()
    archive.may_send.set()
    there = len(ours.files())
    before = len(archive.sent)
    ended = sync()
    assert ended.code == 0, ended.err
    assert f"{COUNT - there} received" in ended.out
    assert len(archive.sent) - before <= COUNT - there + 1


@pytest.mark.parametrize("count", ["", "-1", "10000000000"])
def test_counts_that_are_none_are_not_believed(
    sync: Sync, archive: LyingArchive, ours: RunningNode, count: str
) -> None:
    def answer(wanted: Dataset) -> Iterator[Dataset | int]:
        for match in archive.true_answer(wanted):
            if level(wanted) == "STUDY" and isinstance(match, Dataset):
                match.NumberOfStudyRelatedInstances = count
            yield match

    archive.answer = answer
    assert f"{COUNT} received" in sync().out


def test_answers_without_uids_duplicates_and_nonsense_do_no_harm(
    sync: Sync, archive: LyingArchive, ours: RunningNode
) -> None:
    def answer(wanted: Dataset) -> Iterator[Dataset | int]:
        bare, nonsense = Dataset(), Dataset()
        bare.QueryRetrieveLevel = wanted.QueryRetrieveLevel
        yield bare
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(nonsense, keyword, "../../etc")
        yield nonsense
        yield from archive.true_answer(wanted)
        yield from archive.true_answer(wanted)

    archive.answer = answer
    ended = sync()
    assert ended.code == 0, ended.err
    assert f"{COUNT} objects missing here" in ended.out and f"{COUNT} received" in ended.out
    assert "answers of LIAR without the UIDs they must have" in ended.err
    assert len(ours.files()) == COUNT


def test_objects_that_are_told_of_and_never_come_are_a_failure(
    sync: Sync, archive: LyingArchive
) -> None:
    def answer(wanted: Dataset) -> Iterator[Dataset | int]:
        yield from archive.true_answer(wanted)
        if level(wanted) == "IMAGE":
            match = Dataset()
            match.SOPInstanceUID = f"{wanted.SeriesInstanceUID}.999"
            match.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
            yield match

    archive.answer = answer
    ended = sync()
    assert ended.code == 1
    assert f"{COUNT} received" in ended.out and "3 failed" in ended.out
    assert f"{STUDY}.1.999: not sent" in ended.err


def test_a_study_that_cannot_be_looked_into_keeps_no_other(
    sync: Sync, archive: LyingArchive, ours: RunningNode
) -> None:
    def answer(wanted: Dataset) -> Iterator[Dataset | int]:
        if level(wanted) == "STUDY":
            yield study("1.2.3")
        if wanted.StudyInstanceUID == "1.2.3":
            yield 0xC000
        yield from archive.true_answer(wanted)

    archive.answer = answer
    ended = sync()
    assert ended.code == 1
    assert "1.2.3: C-FIND was answered with C000H" in ended.err
    assert len(ours.files()) == COUNT


def test_a_peer_that_refuses_long_lists_is_asked_by_dates(
    sync: Sync, archive: LyingArchive, ours: RunningNode
) -> None:
    def answer(wanted: Dataset) -> Iterator[Dataset | int]:
        if level(wanted) == "STUDY":
            first, _, last = str(wanted.StudyDate).partition("-")
            if not first or not last or int(last) - int(first) > 10_000:
                yield 0xA700
                return
            if not int(first) <= 20040119 <= int(last):
                return
        yield from archive.true_answer(wanted)

    archive.answer = answer
    ended = sync("--date", "19900101-20261231")
    assert ended.code == 0, ended.err
    assert len(ours.files()) == COUNT
    assert max(len(str(each.get("StudyDate", ""))) for each in archive.asked) == 17


def test_a_key_that_the_peer_does_not_know_brings_nothing_else(
    sync: Sync, ours: RunningNode
) -> None:
    assert sync("--modality", "MR").code == 0
    assert sync("--date", "20200101-").code == 0
    assert not ours.files()


@pytest.mark.timeout(120)
def test_many_studies_are_asked_for_a_few_days_at_a_time(
    sync: Sync, archive: LyingArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "PAGE_STUDIES", 200)
    many = 500

    def answer(wanted: Dataset) -> Iterator[Dataset | int]:
        first, _, last = str(wanted.StudyDate).partition("-")
        for number in range(many):
            on = f"202601{number % 31 + 1:02d}"
            if first <= on <= (last or first):
                yield study(f"1.2.{number}", StudyDate=on, NumberOfStudyRelatedInstances="0")

    archive.answer = answer
    ended = sync("--date", "20260101-20260131")
    assert ended.code == 0, ended.err
    assert f"{many} studies compared with LIAR, 0 looked into" in ended.out
    assert len(archive.asked) > 3


@pytest.mark.timeout(120)
def test_without_dates_very_many_studies_are_compared_as_they_come(
    sync: Sync, archive: LyingArchive
) -> None:
    many = comparing.PAGE_STUDIES + 100

    def answer(wanted: Dataset) -> Iterator[Dataset | int]:
        for number in range(many):
            yield study(f"1.2.{number}", NumberOfStudyRelatedInstances="0")

    archive.answer = answer
    ended = sync("--dry-run")
    assert ended.code == 0, ended.err
    assert f"{many} studies compared" in ended.out
    assert len(archive.asked) == 1
