"""What is recorded of objects as they come in, when something fails on the way."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.dimse.status import Status
from dicomnode.errors import CatalogError
from dicomnode.integrity.record import Event
from dicomnode.services.custody import NOT_STORED
from tests.services.intake_bench import UID, Bench, image

FIRST, SECOND = image(), image(PatientName="Other^Bytes")
OUT_OF_RESOURCES = 0xA700


@pytest.fixture(params=["OFF", "FULL"], ids=["flushed", "kept"])
async def bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """An intake that flushes each object, and one that keeps small ones in the index."""
    with contextlib.closing(Bench(tmp_path, synchronous=request.param, custody=True)) as bench:
        yield bench


def events(bench: Bench) -> list[Event]:
    assert not list(bench.custody.check())
    return [record.event for record in bench.custody.of_instance(UID)]


async def test_an_object_whose_record_cannot_be_written_is_not_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise CatalogError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(bench.custody, "enter", full)
        assert await bench.send(FIRST) == OUT_OF_RESOURCES
    assert bench.row() is None and bench.listed("objects") == [] and events(bench) == []
    assert await bench.send(FIRST) == Status.SUCCESS
    assert bench.holds(FIRST) and events(bench) == [Event.RECEIVED]


async def test_an_object_that_gets_no_name_has_no_record_or_one_that_takes_it_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*paths: str) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as broken:
        broken.setattr("dicomnode.storage.incoming.rename_without_replacing", fail)
        assert await bench.send(FIRST) == OUT_OF_RESOURCES
    before = events(bench)
    # Of one that the index keeps the row comes first.
    assert before == ([Event.RECEIVED, Event.DELETED] if bench.catalog.keeper else [])
    if before:
        assert bench.custody.of_instance(UID)[1].details == {"reason": NOT_STORED}
    assert await bench.send(FIRST) == Status.SUCCESS
    assert events(bench) == [*before, Event.RECEIVED]


async def test_an_object_in_quarantine_is_answered_though_that_is_recorded_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise CatalogError("the disk is full")

    assert await bench.send(FIRST) == Status.SUCCESS
    with monkeypatch.context() as broken:
        broken.setattr(bench.custody, "append", full)
        assert await bench.send(SECOND) == Status.COERCION_OF_DATA_ELEMENTS
    assert bench.log.lines == ["the custody log cannot be written: the disk is full"]
    bench.recorder.start()
    await bench.recorder.settled()
    assert events(bench) == [Event.RECEIVED, Event.QUARANTINED]
    bench.recorder.stop()


async def test_an_object_that_mends_a_missing_file_says_so(bench: Bench) -> None:
    assert await bench.send(FIRST) == Status.SUCCESS
    row = bench.row()
    assert row is not None
    bench.files.remove(row.path)
    assert await bench.send(FIRST) == Status.SUCCESS
    bench.recorder.start()
    await bench.recorder.settled()
    again = bench.custody.of_instance(UID)[-1]
    assert again.event is Event.RECEIVED_AGAIN and "missing" in str(again.details["mended"])
    bench.recorder.stop()
