"""Forwarding gives way to receiving, and only then."""

from __future__ import annotations

import asyncio

import pytest

from dicomnode.outbox import pace as module
from dicomnode.outbox.pace import Pace


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the sleeps of a pace whose clock goes on by them alone."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(module.time, "monotonic", lambda: 1000.0 + sum(slept))
    return slept


async def test_nobody_waits_while_nothing_is_received(slept: list[float]) -> None:
    pace = Pace()
    pace.sent(5.0, 10_000_000)
    await pace.turn()
    assert slept == []


async def test_while_objects_are_received_a_quarter_of_the_time_is_for_sending(
    slept: list[float],
) -> None:
    pace = Pace()
    pace.received()
    pace.sent(0.01, 10_000_000)
    await pace.turn()
    assert sum(slept) == pytest.approx(0.03)
    await pace.turn()
    assert sum(slept) == pytest.approx(0.03)


async def test_a_slow_destination_is_not_taken_for_a_busy_processor(slept: list[float]) -> None:
    pace = Pace()
    pace.received()
    pace.sent(60.0, 0)
    await pace.turn()
    assert sum(slept) == pytest.approx(0.006)


async def test_whoever_waits_goes_on_when_nothing_is_received_any_more(slept: list[float]) -> None:
    pace = Pace()
    pace.received()
    pace.sent(60.0, 1_000_000_000)
    await pace.turn()
    assert sum(slept) == pytest.approx(0.25)
