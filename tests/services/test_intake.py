"""The intake: one answer for each object, and Success only for what is stored."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pytest

from dicomnode.dimse.channel import Channel
from dicomnode.dimse.status import Status
from dicomnode.services import intake as intake_module
from dicomnode.services.intake import Arrival, OnConflict
from dicomnode.services.recovery import reconcile
from tests.services.intake_bench import UID, Bench, FailingDisk, Flushed, image
from tests.storage.objects import CT_STORAGE, EXPLICIT

FIRST = image()
SECOND = image(PatientName="Other^Bytes")
ELSEWHERE = image("9.9", "9.9.1")
OUT_OF_RESOURCES = 0xA700

MakeBench = Callable[..., Bench]


@pytest.fixture(params=["OFF", "FULL"], ids=["flushed", "kept in the index"])
async def make_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Each test is for both ways: files flushed before the answer, and bytes kept in the index."""
    made: list[Bench] = []

    def make(on_conflict: OnConflict = "keep_first") -> Bench:
        made.append(Bench(tmp_path / f"store{len(made)}", on_conflict, request.param))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
async def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


class Quiet:
    """A log that says nothing."""

    def warning(self, message: str, **fields: object) -> None:
        pass


def fail_the_index(bench: Bench, monkeypatch: pytest.MonkeyPatch, times: int = 1) -> None:
    real, left = bench.catalog._backend.begin, iter(range(times))

    def begin(cursor: Any) -> None:
        if next(left, None) is not None:
            raise sqlite3.OperationalError("database or disk is full")
        real(cursor)

    monkeypatch.setattr(bench.catalog._backend, "begin", begin)


# -- arriving --------------------------------------------------------------------------------------


async def test_an_object_is_stored_before_success_is_answered(bench: Bench) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST)
    assert bench.temporary == []


@pytest.mark.parametrize("fragment_bytes", [100, 5_000, 1 << 20])
async def test_large_objects_are_whole_and_reading_goes_on_afterwards(
    bench: Bench, fragment_bytes: int
) -> None:
    large = image(BitsAllocated=8, PixelData=os.urandom(3_000_000))
    assert await bench.send(large, fragment_bytes=fragment_bytes) == Status.SUCCESS
    assert bench.holds(large)


async def test_what_was_taken_is_given_back_when_the_association_ends_while_a_lot_is_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    real = os.writev

    def slow(fd: int, buffers: Any) -> int:
        writing.set()
        go_on.wait(10)
        return real(fd, buffers)

    monkeypatch.setattr(os, "writev", slow)
    arrival = Arrival(CT_STORAGE, UID, EXPLICIT, "CT_1")
    sink = bench.intake.begin(arrival, cast(Channel, bench.association), unexpected)
    sink.write(memoryview(bytes(200_000)), bench.association)
    await asyncio.to_thread(writing.wait, 10)
    sink.write(memoryview(bytes(1000)), bench.association)
    sink.abandon("aborted by peer")
    go_on.set()
    await asyncio.to_thread(bench.workers.stop)
    assert bench.association.leases == 0
    assert bench.temporary == []


def unexpected(*outcome: object) -> None:
    raise AssertionError(f"an abandoned object was answered: {outcome}")


async def test_reading_goes_on_however_the_worker_overtakes_the_loop(bench: Bench) -> None:
    """The worker writes everything between the loop's look at the amount and its pause."""
    large = image(BitsAllocated=8, PixelData=bytes(3_000_000))
    arrival = Arrival(CT_STORAGE, UID, EXPLICIT, "CT_1")
    channel = bench.association
    sink = bench.intake.begin(arrival, cast(Channel, channel), lambda *outcome: None)
    idle = threading.Event()

    class Slow(int):
        """A high-water mark that is compared only once the worker has nothing left."""

        def __lt__(self, other: int) -> bool:
            over = int(self) < other
            if over:
                while sink._running and not sink._lock.locked():
                    idle.wait(0.001)
            return over

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(intake_module, "_HIGH_WATER_BYTES", Slow(2 << 20))
        sink.write(memoryview(large), channel)
        await asyncio.to_thread(idle.wait, 0.05)
    for _ in range(200):
        if channel.pauses == 0 and channel.leases == 0:
            break
        await asyncio.to_thread(idle.wait, 0.005)
    assert channel.pauses == 0
    sink.abandon("end of the test")
    await asyncio.to_thread(bench.workers.stop)


async def test_room_is_given_back_as_soon_as_a_write_has_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def full(fd: int, buffers: Any) -> int:
        failed.set()
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "writev", full)
    arrival = Arrival(CT_STORAGE, UID, EXPLICIT, "CT_1")
    sink = bench.intake.begin(arrival, cast(Channel, bench.association), unexpected)
    sink.write(memoryview(bytes(200_000)), bench.association)
    await asyncio.to_thread(failed.wait, 10)
    await asyncio.to_thread(bench.workers.stop)
    assert bench.temporary == []


# -- a disk that fails -----------------------------------------------------------------------------


async def swept(
    make_bench: MakeBench,
    monkeypatch: pytest.MonkeyPatch,
    on_conflict: OnConflict,
    before: bytes | None,
    newcomer: bytes,
) -> None:
    """Send ``newcomer`` with each system call failing in turn; nothing answered may be lost."""
    bench = make_bench(on_conflict=on_conflict)
    flushed = Flushed(monkeypatch)
    this_run = bench.files._session
    for at in range(1, 100):
        bench.clear()
        if before is not None:
            assert await bench.send(before) == Status.SUCCESS
        with FailingDisk(at).under(monkeypatch) as failing:
            status = await bench.send(newcomer)
        bench.lose_power(flushed)
        where = f"call {at}, {failing.failed}"
        assert status in (0, OUT_OF_RESOURCES, Status.COERCION_OF_DATA_ELEMENTS), where
        if status == Status.SUCCESS:
            assert bench.holds(newcomer), where
        elif before is not None:
            assert bench.holds(before), where
        again = await bench.send(newcomer)
        assert again in (Status.SUCCESS, Status.COERCION_OF_DATA_ELEMENTS), where
        held = before if before is not None and on_conflict == "keep_first" else newcomer
        bench.lose_power(flushed)
        assert bench.holds(held), where
        assert bench.torn("quarantine") == [], where
        bench.files._session = "a later run"
        report = reconcile(bench.files, bench.catalog, log=cast(Any, Quiet()))
        bench.files._session = this_run
        assert report.rows_without_file == 0, where
        assert bench.holds(held) and bench.temporary == [], where
        if not failing.failed:
            return
    raise AssertionError("there is no end to it")


async def test_whatever_call_fails_one_answer_is_sent_and_success_is_stored(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await swept(make_bench, monkeypatch, "keep_first", None, FIRST)


async def test_whatever_call_fails_the_same_object_again_is_safe(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await swept(make_bench, monkeypatch, "keep_first", FIRST, FIRST)


@pytest.mark.parametrize("newcomer", [SECOND, ELSEWHERE], ids=["same path", "other path"])
@pytest.mark.parametrize("on_conflict", ["keep_first", "replace"])
async def test_whatever_call_fails_in_a_conflict_what_is_held_stays_held(
    make_bench: MakeBench,
    monkeypatch: pytest.MonkeyPatch,
    on_conflict: OnConflict,
    newcomer: bytes,
) -> None:
    await swept(make_bench, monkeypatch, on_conflict, FIRST, newcomer)


async def test_no_file_stays_in_the_way_when_the_index_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is kept in the index is tried once more without its bytes.
    fail_the_index(bench, monkeypatch, times=2 if bench.catalog.keeper else 1)
    assert await bench.send(FIRST) == OUT_OF_RESOURCES
    assert bench.listed("objects") == []
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST)


@pytest.mark.parametrize("newcomer", [SECOND, ELSEWHERE], ids=["same path", "other path"])
async def test_what_was_to_be_replaced_stays_when_the_index_fails(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, newcomer: bytes
) -> None:
    bench = make_bench(on_conflict="replace")
    assert await bench.send(FIRST) == Status.SUCCESS
    # Where the name is free the index is asked first, and where it is to keep the bytes twice.
    before = 1 + bool(bench.catalog.keeper) if newcomer is ELSEWHERE else 0
    real, calls = bench.catalog._backend.begin, iter(range(9))

    def begin(cursor: Any) -> None:
        if next(calls) == before:
            raise sqlite3.OperationalError("database or disk is full")
        real(cursor)

    with monkeypatch.context() as patched:
        patched.setattr(bench.catalog._backend, "begin", begin)
        assert await bench.send(newcomer) == OUT_OF_RESOURCES
    assert bench.holds(FIRST)
    assert len(bench.listed("objects")) == 1 and bench.temporary == []
    assert await bench.send(newcomer) == Status.SUCCESS
    assert bench.holds(newcomer)
    assert len(bench.listed("objects")) == 1


async def test_an_unreadable_index_is_answered_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS

    def broken() -> None:
        raise RuntimeError("a fault of our own")

    with monkeypatch.context() as patched:
        patched.setattr(bench.catalog, "read", broken)
        assert await bench.send(FIRST) == OUT_OF_RESOURCES
    assert await bench.send(FIRST) == Status.SUCCESS


# -- conflicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("newcomer", [SECOND, ELSEWHERE], ids=["same path", "other path"])
@pytest.mark.parametrize(
    ("on_conflict", "status", "kept", "parked"),
    [
        ("keep_first", Status.COERCION_OF_DATA_ELEMENTS, "first", "newcomer"),
        ("refuse", Status.DUPLICATE_SOP_INSTANCE, "first", None),
        ("replace", Status.SUCCESS, "newcomer", "first"),
    ],
)
async def test_the_same_uid_with_other_bytes_follows_the_policy(
    make_bench: MakeBench,
    newcomer: bytes,
    on_conflict: OnConflict,
    status: int,
    kept: str,
    parked: str | None,
) -> None:
    bench = make_bench(on_conflict=on_conflict)
    objects = {"first": FIRST, "newcomer": newcomer}
    assert await bench.send(FIRST) == Status.SUCCESS
    assert await bench.send(newcomer) == status
    assert bench.holds(objects[kept])
    assert len(bench.listed("objects")) == 1
    names = [] if parked is None else [f"{UID}.{sha256(objects[parked]).hexdigest()[:16]}.dcm"]
    assert bench.listed("quarantine") == names
    assert len(bench.journal.conflicts) == 1
    assert bench.temporary == []


@pytest.mark.parametrize("on_conflict", ["keep_first", "refuse", "replace"])
async def test_a_uid_that_arrives_many_times_at_once_is_answered_as_if_one_by_one(
    make_bench: MakeBench, on_conflict: OnConflict
) -> None:
    bench = make_bench(on_conflict=on_conflict)
    sent = [FIRST, SECOND, ELSEWHERE] * 6
    statuses = await asyncio.gather(*map(bench.send_one_of_many, sent))
    held = [data for data in (FIRST, SECOND, ELSEWHERE) if bench.holds(data)]
    assert len(held) == 1 and len(bench.listed("objects")) == 1
    assert statuses.count(Status.SUCCESS) >= 6
    if on_conflict != "replace":
        assert {data for data, status in zip(sent, statuses, strict=True) if status == 0} == {
            held[0]
        }
    assert bench.temporary == []
    assert await bench.send(held[0]) == Status.SUCCESS


# -- files that are not what their rows say --------------------------------------------------------


@pytest.mark.parametrize("newcomer", [FIRST, SECOND, ELSEWHERE], ids=["same", "other", "elsewhere"])
@pytest.mark.parametrize("on_conflict", ["keep_first", "refuse", "replace"])
async def test_an_object_whose_file_is_missing_is_taken_from_whoever_sends_it(
    make_bench: MakeBench, on_conflict: OnConflict, newcomer: bytes
) -> None:
    bench = make_bench(on_conflict=on_conflict)
    assert await bench.send(FIRST) == Status.SUCCESS
    row = bench.row()
    assert row is not None
    os.unlink(bench.files.abs_path(row.path))
    assert await bench.send(newcomer) == Status.SUCCESS
    assert bench.holds(newcomer)
    assert bench.journal.missing == [row.path]
    assert len(bench.listed("objects")) == 1


@pytest.mark.parametrize("damage", [b"", b"rubbish", SECOND, None])
async def test_a_damaged_file_is_not_taken_for_the_object_that_is_sent_again(
    bench: Bench, damage: bytes | None
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    row = bench.row()
    assert row is not None
    path = Path(bench.files.abs_path(row.path))
    if damage is None:  # one bit of the preamble: the data set is whole
        whole = path.read_bytes()
        damage = bytes([whole[0] ^ 1]) + whole[1:]
    path.write_bytes(damage)
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST)
    assert bench.journal.missing == [row.path]
    assert len(bench.listed("quarantine")) == 1


async def test_an_object_was_received_when_the_clock_of_the_intake_says(bench: Bench) -> None:
    bench.intake.now = lambda: 123.0
    assert await bench.send(FIRST) == Status.SUCCESS
    row = bench.row()
    assert row is not None and row.received_at == 123.0


async def test_an_unreadable_file_gives_way_to_the_object_that_is_sent_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS

    def fails(fd: int, offset: int) -> str:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("dicomnode.storage.files.digest_from", fails)
        assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST)
    assert len(bench.listed("quarantine")) == 1


@pytest.mark.parametrize("found", [b"", b"rubbish", None], ids=["empty", "rubbish", "same"])
async def test_a_file_without_a_row_gives_way_or_is_made_durable(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, found: bytes | None
) -> None:
    """Whoever put it there may have died before it was flushed."""
    assert await bench.send(FIRST) == Status.SUCCESS
    row = bench.row()
    assert row is not None
    path = Path(bench.files.abs_path(row.path))
    bench.catalog.remove(UID, lambda outcome: None)
    bench.catalog.truncate()
    if found is not None:
        path.write_bytes(found)
    before = path.stat().st_ino
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST)
    assert path.stat().st_ino != before, "the newcomer's own file, which has been flushed"
    assert bench.listed("quarantine") == [] if found is None else True
