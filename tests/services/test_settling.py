"""Settling: small objects are answered once the index has their bytes; files follow."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomnode.dimse.status import Status
from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.services import settling
from dicomnode.services.settling import restore
from tests.index.entries import sqlite_url
from tests.services.intake_bench import Bench, FailingDisk, Flushed, image, keeping

FIRST = image()
SECOND = image(PatientName="Other^Bytes")
OTHER_UID = "1.2.3.4.2"
OTHER = image(uid=OTHER_UID)
LARGE = image(BitsAllocated=8, PixelData=bytes(70_000))


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    with keeping(tmp_path / "store") as bench:
        yield bench


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> Flushed:
    return Flushed(monkeypatch)


def path_of(bench: Bench) -> Path:
    row = bench.row()
    assert row is not None
    return Path(bench.files.abs_path(row.path))


def fail_flushes(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    def failing() -> None:
        raise OutOfResources("disk input/output error")

    monkeypatch.setattr(bench.files, "settle", failing)


# -- which way an object takes -------------------------------------------------------------------


async def test_a_small_object_is_answered_without_a_flush_of_its_file(
    bench: Bench, flushed: Flushed
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST)
    assert path_of(bench).stat().st_ino not in flushed.inodes
    (kept,) = bench.catalog.unsettled()
    assert bench.files.abs_path(kept.path) == str(path_of(bench))
    assert kept.contents == path_of(bench).read_bytes()


async def test_a_large_object_is_flushed_before_the_answer(bench: Bench, flushed: Flushed) -> None:
    assert await bench.send(LARGE) == Status.SUCCESS
    assert path_of(bench).stat().st_ino in flushed.inodes
    assert bench.catalog.counts().unsettled == 0


async def test_what_is_kept_is_bounded_and_the_rest_is_flushed(
    bench: Bench, flushed: Flushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "_LIMIT_BYTES", len(FIRST) + 100)
    assert await bench.send(FIRST) == Status.SUCCESS
    assert await bench.send(OTHER, uid=OTHER_UID) == Status.SUCCESS
    assert bench.catalog.counts().unsettled == 1
    row = bench.row(OTHER_UID)
    assert row is not None
    assert os.stat(bench.files.abs_path(row.path)).st_ino in flushed.inodes


@pytest.mark.parametrize("release", ["5.7.19", "4.18.0-553.el8", "unknown"])
async def test_where_the_system_does_not_tell_of_lost_writes_every_file_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    system = os.uname()
    uname = os.uname_result((*system[:2], release, *system[3:]))
    monkeypatch.setattr(os, "uname", lambda: uname)
    bench = Bench(tmp_path, synchronous="FULL")
    assert not bench.settler.takes(1)
    bench.close()


async def test_an_index_on_another_filesystem_does_not_keep_objects(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is only one filesystem to write to")
    index = elsewhere / f"dicomnode-test-{os.getpid()}"
    index.mkdir()
    try:
        bench = Bench(tmp_path, synchronous="FULL", url=sqlite_url(index))
        assert not bench.settler.takes(1)
        assert await bench.send(FIRST) == Status.SUCCESS
        assert bench.catalog.counts().unsettled == 0
        bench.close()
    finally:
        for path in index.iterdir():
            path.unlink()
        index.rmdir()


async def test_an_index_without_room_for_the_bytes_has_the_file_flushed(
    bench: Bench, flushed: Flushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(bench.catalog._registrar._sql.add_intake, "run", full)
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST)
    assert path_of(bench).stat().st_ino in flushed.inodes


# -- settling --------------------------------------------------------------------------------------


async def test_the_index_forgets_the_bytes_once_the_files_are_durable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_at_flush: list[int] = []
    real = bench.files.settle

    def settle() -> None:
        kept_at_flush.append(bench.catalog.counts().unsettled)
        real()

    monkeypatch.setattr(bench.files, "settle", settle)
    assert await bench.send(FIRST) == Status.SUCCESS
    bench.settler.start()
    bench.settler.close()
    assert kept_at_flush == [1]
    assert list(bench.catalog.unsettled()) == []
    counts = bench.catalog.counts()
    assert (counts.instances, counts.unsettled, counts.unsettled_bytes) == (1, 0, 0)
    assert bench.holds(FIRST)


async def test_much_is_settled_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    settled = threading.Event()
    real = bench.files.settle
    monkeypatch.setattr(settling, "_SECONDS", 1000.0)
    monkeypatch.setattr(settling, "_MUCH_BYTES", 100)
    monkeypatch.setattr(bench.files, "settle", lambda: (real(), settled.set()))
    bench.settler.start()
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.settler.takes(1)
    assert await asyncio.to_thread(settled.wait, 20)
    bench.settler.close()


async def test_files_that_cannot_be_made_durable_stay_in_the_index_and_it_is_told_once(
    bench: Bench, flushed: Flushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    with monkeypatch.context() as broken:
        fail_flushes(broken, bench)
        assert not bench.settler._settle()
        broken.setattr(bench.files, "secure", lambda *row: bench.files.settle())
        assert not bench.settler._settle()
    assert bench.catalog.counts().unsettled == 1
    assert len(bench.journal.settling) == 1
    assert await bench.send(OTHER, uid=OTHER_UID) == Status.SUCCESS
    assert bench.catalog.counts().unsettled == 1, "meanwhile every file is flushed"
    assert bench.settler._settle()
    assert bench.journal.settling[1:] == [None]
    assert bench.catalog.counts().unsettled == 0
    assert bench.settler.takes(1)


async def test_after_a_failure_each_file_is_flushed_by_itself_or_written_anew(
    bench: Bench, flushed: Flushed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filesystem tells once that it has lost something; to ask it again proves nothing."""
    assert await bench.send(FIRST) == Status.SUCCESS
    assert await bench.send(OTHER, uid=OTHER_UID) == Status.SUCCESS
    with monkeypatch.context() as broken:
        fail_flushes(broken, bench)
        assert not bench.settler._settle()
    lost = path_of(bench)
    lost.write_bytes(b"")
    assert bench.settler._settle()
    assert bench.holds(FIRST) and bench.holds(OTHER, OTHER_UID)
    row = bench.row(OTHER_UID)
    assert row is not None
    assert os.stat(bench.files.abs_path(row.path)).st_ino in flushed.inodes
    assert lost.stat().st_ino in flushed.inodes


async def test_a_file_whose_flush_fails_is_written_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    bad = path_of(bench).stat().st_ino
    real = os.fdatasync

    def fdatasync(fd: int) -> None:
        if os.fstat(fd).st_ino == bad:
            raise OSError(errno.EIO, "lost")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    assert restore(bench.files, bench.catalog.unsettled()) == 1
    assert path_of(bench).stat().st_ino != bad
    assert bench.holds(FIRST)


async def test_what_took_an_objects_place_is_not_overwritten_by_settling(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    with monkeypatch.context() as broken:
        fail_flushes(broken, bench)
        assert not bench.settler._settle()
    rows = list(bench.catalog.unsettled())
    bench.intake.placer.on_conflict = "replace"
    assert await bench.send(SECOND) == Status.SUCCESS
    monkeypatch.setattr(bench.catalog, "unsettled", lambda: iter(rows))
    bench.settler._secure_each(rows[-1].id)
    assert bench.holds(SECOND)


async def test_an_index_that_fails_while_settling_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    with monkeypatch.context() as broken:

        def settle(last: int) -> None:
            raise CatalogError("index failed")

        broken.setattr(bench.catalog, "settle", settle)
        assert not bench.settler._settle()
    assert bench.catalog.counts().unsettled == 1
    assert bench.settler._settle()
    assert bench.catalog.counts().unsettled == 0


async def test_a_fault_of_ours_while_settling_is_told_and_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    with monkeypatch.context() as broken:

        def settle() -> None:
            raise RuntimeError("a fault")

        broken.setattr(bench.files, "settle", settle)
        assert not bench.settler._settle()
    assert [str(error) for error in bench.journal.settling] == ["a fault"]
    assert bench.settler._settle()
    assert bench.catalog.counts().unsettled == 0


# -- after a power loss ----------------------------------------------------------------------------


@pytest.fixture(params=["gone", "empty", "torn"])
def lose(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    def lose(path: Path) -> None:
        match request.param:
            case "gone":
                path.unlink()
            case "empty":
                path.write_bytes(b"")
            case "torn":
                data = path.read_bytes()
                path.write_bytes(data[:300] + bytes(len(data) - 300))

    return lose


async def test_what_the_power_took_is_restored_byte_for_byte(
    bench: Bench, flushed: Flushed, lose: Callable[[Path], None]
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    path = path_of(bench)
    before = path.read_bytes()
    lose(path)
    assert restore(bench.files, bench.catalog.unsettled()) == 1
    assert path.read_bytes() == before
    assert path.stat().st_ino in flushed.inodes
    assert bench.temporary == []


async def test_a_study_that_the_power_took_is_restored_with_its_directories(bench: Bench) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    path = path_of(bench)
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    assert restore(bench.files, bench.catalog.unsettled()) == 1
    assert bench.holds(FIRST)


async def test_a_file_that_is_there_is_left_as_it_is(bench: Bench, flushed: Flushed) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    before = path_of(bench).stat().st_ino
    assert restore(bench.files, bench.catalog.unsettled()) == 0
    assert path_of(bench).stat().st_ino == before
    assert before in flushed.inodes, "nobody else will flush it"


async def test_an_unsettled_object_sent_again_is_success_and_still_safe(
    bench: Bench, flushed: Flushed
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    before = list(bench.catalog.unsettled())
    assert await bench.send(FIRST) == Status.SUCCESS
    assert list(bench.catalog.unsettled()) == before
    bench.lose_power(flushed)
    assert bench.holds(FIRST)


async def test_a_newcomer_for_an_unsettled_object_takes_its_row_and_its_bytes_away(
    bench: Bench, flushed: Flushed
) -> None:
    bench.intake.placer.on_conflict = "replace"
    assert await bench.send(FIRST) == Status.SUCCESS
    assert await bench.send(SECOND) == Status.SUCCESS
    bench.lose_power(flushed)
    assert bench.holds(SECOND)
    assert len(bench.listed("quarantine")) == 1 and bench.torn("quarantine") == []


async def test_objects_of_many_associations_share_commits(bench: Bench) -> None:
    """One flush of the log makes all of them durable."""
    commits = 0
    real = bench.catalog._backend.begin

    def begin(cursor: Any) -> None:
        nonlocal commits
        commits += 1
        real(cursor)

    bench.catalog._backend.begin = begin  # type: ignore[method-assign]
    uids = [f"1.2.3.4.{number}" for number in range(2, 42)]
    statuses = await asyncio.gather(
        *(bench.send_one_of_many(image(uid=uid), uid=uid) for uid in uids)
    )
    assert statuses == [0] * 40
    assert commits < 40
    assert bench.catalog.counts().unsettled == 40


async def test_whatever_call_fails_while_files_are_restored_they_are_the_next_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    path = path_of(bench)
    rows = list(bench.catalog.unsettled())
    before = path.read_bytes()

    def once() -> None:
        with contextlib.suppress(OutOfResources):
            restore(bench.files, iter(rows))
            assert path.read_bytes() == before

    for at in range(1, 100):
        path.write_bytes(before[:400])
        with FailingDisk(at).under(monkeypatch) as failing:
            thread = threading.Thread(target=once, name="dicomnode-worker-restoring")
            thread.start()
            thread.join(20)
        where = f"call {at}, {failing.failed}"
        assert path.read_bytes() in (before[:400], before), where
        restore(bench.files, iter(rows))
        assert bench.holds(FIRST), where
        for name in bench.temporary:  # what could not be removed either
            os.unlink(bench.directory / "incoming" / name)
        if not failing.failed:
            return
    raise AssertionError("there is no end to it")
