"""Recording what is told from anywhere, while the log can be written and while it cannot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dicomnode.errors import CatalogError
from dicomnode.integrity.record import Happening
from dicomnode.observe.custody_metrics import CustodyMetrics
from dicomnode.services import custody_recorder
from dicomnode.services.custody_recorder import BATCH, Recorder
from tests.integrity.chains import happening


class Log:
    """An index and a log at once: fails while it is told to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.appended: list[list[Happening]] = []
        self.fails = False
        self.lines: list[str] = []
        self.tried = threading.Event()
        self.recorder = Recorder(self._append, self, CustodyMetrics(self.registry))  # type: ignore[arg-type]

    def _append(self, happenings: Sequence[Happening]) -> None:
        self.tried.set()
        if self.fails:
            raise CatalogError("the disk is full")
        self.appended.append(list(happenings))

    def error(self, message: str, **fields: Any) -> None:
        self.lines.append(message)

    info = error

    def metric(self, name: str) -> float:
        return self.registry.get_sample_value(f"dicomnode_custody_{name}_total") or 0.0


@pytest.fixture
def log() -> Log:
    return Log()


TOLD = [happening(number) for number in range(3 * BATCH)]


async def test_what_is_told_is_recorded_in_order_and_together(log: Log) -> None:
    for each in TOLD:
        log.recorder.tell(each)
    log.recorder.start()
    await log.recorder.settled()
    assert [len(some) for some in log.appended] == [BATCH] * 3
    assert [each for some in log.appended for each in some] == TOLD
    await log.recorder.settled()
    await asyncio.to_thread(log.recorder.stop)


async def test_stopping_records_what_was_told_last(log: Log) -> None:
    log.recorder.start()
    log.recorder.tell(TOLD[0])
    await asyncio.to_thread(log.recorder.stop)
    assert log.appended == [TOLD[:1]] and log.recorder.waiting == 0
    await log.recorder.settled()


async def test_what_cannot_be_recorded_holds_nobody_up_and_is_recorded_later(log: Log) -> None:
    log.fails = True
    log.recorder.start()
    log.recorder.tell(TOLD[0])
    await log.recorder.settled()
    log.recorder.tell(TOLD[1])
    await log.recorder.settled()
    assert log.recorder.waiting == 2 and log.recorder.failures >= 2
    assert log.metric("failures") >= 2 and log.metric("lost") == 0
    log.fails = False
    await log.recorder.settled()
    assert log.appended == [TOLD[:2]]
    said = "the custody log cannot be written: the disk is full"
    assert log.lines == [said, "the custody log can be written again"]
    await asyncio.to_thread(log.recorder.stop)


async def test_a_disk_that_hangs_is_not_waited_for_for_ever(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custody_recorder, "_LONGEST_WAIT_SECONDS", 0.01)
    goes_on = threading.Event()
    monkeypatch.setattr(log.recorder, "_append", lambda some: goes_on.wait(20))
    log.recorder.start()
    log.recorder.tell(TOLD[0])
    await log.recorder.settled()
    assert log.metric("failures") == 1 and "takes longer" in log.lines[0]
    goes_on.set()
    await asyncio.to_thread(log.recorder.stop)
    assert log.recorder.waiting == 0 and log.metric("lost") == 0


async def test_what_is_lost_in_the_end_is_counted_and_said(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custody_recorder, "_MAX_QUEUED", 2)
    log.fails = True
    log.recorder.start()
    for each in TOLD[:5]:
        log.recorder.tell(each)
    assert log.metric("lost") == 3
    await asyncio.to_thread(log.recorder.stop)
    assert log.metric("lost") == 5 and log.recorder.lost == 5
    assert any("and 2 others wait" in line for line in log.lines)
    assert any("the node stops" in line for line in log.lines)
