"""When the runs of a rule begin."""

from __future__ import annotations

from datetime import datetime, time

import pytest

from dicomnode.forward_settings import read_window
from dicomnode.sync.schedule import Schedule


def at(text: str) -> float:
    return datetime.fromisoformat(f"2026-11-{text}").timestamp()


def schedule(every: float | None = None, clock: str = "", window: str = "") -> Schedule:
    return Schedule(
        every,
        time.fromisoformat(clock) if clock else None,
        read_window(window) if window else None,
    )


def test_a_rule_that_never_ran_runs_at_once() -> None:
    assert schedule(3600).next_run(0.0, at("01 12:00"), at("01 13:00")) == at("01 13:00")


def test_it_runs_so_often() -> None:
    assert schedule(3600).next_run(at("01 12:10"), 0.0, at("01 12:20")) == at("01 13:10")


@pytest.mark.parametrize(
    ("started", "due"), [("", "02 02:30"), ("01 02:30", "02 02:30"), ("01 02:29", "01 02:30")]
)
def test_it_runs_at_a_time_of_day_once(started: str, due: str) -> None:
    begun = at(started) if started else 0.0
    assert schedule(clock="02:30").next_run(begun, at("01 12:00"), at("01 12:00")) == at(due)


def test_without_a_time_it_runs_each_time_that_its_window_opens() -> None:
    nightly = schedule(window="22:00-06:00")
    now = at("02 12:00")
    assert nightly.next_run(0.0, now, now) == now
    assert nightly.opening(now) == at("02 22:00")
    assert nightly.next_run(at("01 22:00"), now, at("02 03:00")) == at("02 22:00")


def test_a_run_ends_with_its_window() -> None:
    nightly = schedule(3600, window="22:00-06:00")
    assert nightly.is_open(at("02 05:59"))
    assert not nightly.is_open(at("02 06:00"))
    assert nightly.opening(at("02 05:00")) == at("02 05:00")


def test_a_clock_that_was_set_back_puts_nothing_off() -> None:
    assert schedule(60).next_run(at("20 12:00"), 0.0, at("01 12:00")) == at("01 12:01")
