"""Objects leave for good: a crash anywhere leaves them whole, or gone."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.index.custody import Custody
from dicomnode.index.removals import Removals
from dicomnode.services.recovery import rebuild
from dicomnode.services.removing import Remover, finish_removals
from tests.services.departing import WHY, Archive, Killed, Witness
from tests.services.intake_bench import UID, Bench, Flushed, image


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive(tmp_path)
    yield archive
    archive.close()


def test_row_file_and_empty_directories_go_and_it_is_recorded(archive: Archive) -> None:
    going = archive.enter(1, 2)
    staying = archive.enter(1, study="1.2.9")
    assert archive.remove(*going) == going
    assert archive.held(*going, *staying) == [False, False, True]
    assert len(list((archive.directory / "objects").rglob("*.dcm"))) == 1
    assert not list((archive.directory / "objects").glob("*/1.2.3"))
    assert [record.sop_instance_uid for record in archive.custody.of_study("1.2.3")] == going
    assert archive.catalog.counts().instances == archive.catalog.counts().studies == 1
    assert Removals(archive.catalog).unfinished() == {}


def test_what_is_recorded_is_recorded_only_when_the_row_goes(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    (uid,) = archive.enter(1)

    def fail(*arguments: Any) -> None:
        raise ValueError("no room in the log")

    monkeypatch.setattr(Custody, "enter", fail)
    with pytest.raises(CatalogError, match="no room"):
        archive.remove(uid)
    assert archive.held(uid) == [True]
    assert archive.gone_uids == []


@pytest.mark.parametrize("step", ["before the row", "before the file", "between files", "after"])
def test_a_kill_at_any_step_neither_brings_back_nor_takes_more(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    going = [*archive.enter(1, 2, 3), *archive.enter(1, study="1.2.5")]
    staying = archive.enter(9, study="1.2.9")
    remove_all = archive.files.remove_all
    calls: list[object] = []

    def killed(*arguments: Any) -> None:
        raise Killed

    def once(paths: Any) -> None:
        remove_all(paths)
        calls.append(paths)
        raise Killed

    with monkeypatch.context() as patch:
        match step:
            case "before the row":
                patch.setattr(archive.catalog, "remove_if", killed)
            case "before the file":
                patch.setattr(archive.files, "remove_all", killed)
            case "between files":
                patch.setattr(archive.files, "remove_all", once)
            case _:
                patch.setattr(archive.remover._removals, "forget", killed)
        with pytest.raises(Killed):
            archive.remove(*going)
    report = archive.reopen()
    assert archive.held(*going) == [step == "before the row"] * 4
    assert archive.held(*staying) == [True]
    assert (report.orphans_indexed, report.rows_without_file) == (0, 0)
    assert Removals(archive.catalog).unfinished() == {}


def test_an_index_that_is_built_anew_does_not_bring_back_what_was_deleted(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, staying = archive.enter(1), archive.enter(2)

    def killed(paths: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(archive.files, "remove_all", killed)
        with pytest.raises(Killed):
            archive.remove(*going)
    rebuild(archive.files, archive.catalog)
    assert archive.held(*going, *staying) == [False, True]


def test_a_file_that_cannot_be_removed_is_told_and_tried_again(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    (uid,) = archive.enter(1)

    def fails(paths: Any) -> None:
        raise OutOfResources("read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(archive.files, "remove_all", fails)
        archive.remove(uid)
        archive.remover.finish()
    assert len(archive.stays) == 2 and archive.catalog.get(uid) is None
    archive.remover.finish()
    assert archive.held(uid) == [False]


def test_a_file_that_stays_is_not_entered_at_the_next_start(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    (uid,) = archive.enter(1)

    def fails(self: object, paths: Any) -> None:
        raise OutOfResources("read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("dicomnode.storage.files.FileStore.remove_all", fails)
        archive.remove(uid)
        report = archive.reopen()
        assert report.orphans_indexed == 0 and archive.catalog.get(uid) is None
        assert "deleted object" in archive.log.lines[-1]
    archive.reopen()
    assert archive.held(uid) == [False]


@pytest.mark.parametrize("kept_in_index", [False, True])
async def test_an_object_that_comes_again_stays_though_the_old_file_could_not_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_in_index: bool
) -> None:
    bench = Bench(tmp_path, synchronous="FULL" if kept_in_index else "OFF")
    witness = Witness()
    witness.custody = Custody(bench.catalog)
    remover = Remover(bench.files, bench.catalog, bench.intake.placer._turns, witness)
    try:
        assert await bench.send(image()) == 0

        def fails(paths: Any) -> None:
            raise OutOfResources("read-only file system")

        with monkeypatch.context() as patch:
            patch.setattr(bench.files, "remove_all", fails)
            remover.remove([UID], lambda cursor, held: [UID], WHY)
        assert bench.row() is None
        again = image(PatientName="Doe^Joe")
        assert await bench.send(again) == 0
        remover.finish()
        assert bench.holds(again)
        assert Removals(bench.catalog).unfinished() == {}
        assert bench.listed("quarantine") == []
    finally:
        bench.close()


@pytest.mark.parametrize("kept_in_index", [False, True])
async def test_an_object_that_comes_again_stays_though_nobody_knows_whether_the_old_file_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_in_index: bool
) -> None:
    bench = Bench(tmp_path, synchronous="FULL" if kept_in_index else "OFF")
    witness = Witness()
    witness.custody = Custody(bench.catalog)
    remover = Remover(bench.files, bench.catalog, bench.intake.placer._turns, witness)
    try:
        assert await bench.send(image()) == 0

        def fails(rel: str) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            # The file goes, but its directory cannot be flushed.
            patch.setattr(bench.files, "_forget_empty", fails)
            remover.remove([UID], lambda cursor, held: [UID], WHY)
        again = image(PatientName="Doe^Joe")
        assert await bench.send(again) == 0
        remover.finish()
        assert bench.holds(again)
        assert Removals(bench.catalog).unfinished() == {}
    finally:
        bench.close()


def test_files_are_gone_though_that_could_not_be_noted_which_is_done_later(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    (uid,) = archive.enter(1)

    def fails(paths: Any) -> None:
        raise CatalogError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(archive.remover._removals, "forget", fails)
        assert archive.remove(uid) == [uid]
    assert archive.gone_uids == [uid] and len(archive.stays) == 1
    archive.remover.finish()
    assert Removals(archive.catalog).unfinished() == {}


def test_a_newer_version_does_not_remove_what_came_after_a_deletion(archive: Archive) -> None:
    (uid,) = archive.enter(1)
    row = archive.catalog.get(uid)
    assert row is not None
    # As a deletion leaves it whose end could not be noted.
    archive.catalog.transact(lambda cursor: Removals(archive.catalog).enter(cursor, [row]))
    archive.close()
    with closing(sqlite3.connect(archive.directory / "index.sqlite")) as connection:
        connection.execute("UPDATE meta SET value = '1' WHERE name = 'schema_version'")
        connection.commit()
    archive.reopen()
    assert archive.held(uid) == [True]


async def test_an_object_whose_bytes_only_the_index_has_does_not_come_back_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = Flushed(monkeypatch)
    bench = Bench(tmp_path, synchronous="FULL")
    witness = Witness()
    witness.custody = Custody(bench.catalog)
    remover = Remover(bench.files, bench.catalog, bench.intake.placer._turns, witness)
    try:
        assert await bench.send(image()) == 0
        assert bench.catalog.counts().unsettled == 1

        def killed(paths: Any) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(bench.files, "remove_all", killed)
            with pytest.raises(Killed):
                remover.remove([UID], lambda cursor, held: [UID], WHY)
        assert bench.row() is None and bench.catalog.counts().unsettled == 0
        bench.lose_power(flushed)
        assert finish_removals(bench.files, bench.catalog) == {}
        assert bench.listed("objects") == []
    finally:
        bench.close()


def test_a_study_that_is_gone_is_gone_after_a_power_loss_too(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    (uid,) = archive.enter(1)
    row = archive.catalog.get(uid)
    assert row is not None
    flushed: list[str] = []
    monkeypatch.setattr("dicomnode.storage.files.fsync_directory", flushed.append)
    archive.remove(uid)
    # The directory that had the study's is the one that has changed.
    fan_out = "/".join(row.path.split("/")[:2])
    assert flushed == [archive.files.abs_path(fan_out)]


def test_who_reads_an_object_reads_it_to_its_end(archive: Archive) -> None:
    (uid,) = archive.enter(1)
    row = archive.catalog.get(uid)
    assert row is not None
    whole = Path(archive.files.abs_path(row.path)).read_bytes()
    with open(archive.files.open_object(row.path), "rb") as reading:
        archive.remove(uid)
        assert archive.held(uid) == [False]
        assert reading.read() == whole


def test_a_file_that_somebody_removed_with_all_that_led_there_is_gone(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    (uid,) = archive.enter(1)

    def killed(paths: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(archive.files, "remove_all", killed)
        with pytest.raises(Killed):
            archive.remove(uid)
    shutil.rmtree(archive.directory / "objects")
    archive.reopen()
    assert Removals(archive.catalog).unfinished() == {} and archive.log.lines == []
