"""Of one address the first pass; the rest is counted, whatever becomes of it."""

from __future__ import annotations

import io
from collections import Counter

from dicomnode.observe.logs import Log
from dicomnode.services.crowds import Crowds, RefusalLog
from dicomnode.settings import LogSettings


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_sixty_of_a_minute_pass_and_the_rest_is_told_once_it_is_over() -> None:
    clock = Clock()
    crowds = Crowds(clock)
    assert sum(crowds.passes("a") for _ in range(100)) == 60
    assert crowds.passes("b") and crowds.passed_over() == []
    clock.now = 60
    assert crowds.passed_over() == [("a", 40)]
    assert crowds.passed_over() == []
    assert crowds.passes("a")


def test_the_log_has_sixty_lines_of_an_address_and_then_how_many_more() -> None:
    clock, stream = Clock(), io.StringIO()
    log = Log(LogSettings(), stream=stream)
    refusals = RefusalLog(log.logger, Crowds(clock))
    for _ in range(1000):
        refusals.warn("10.0.0.66", "refused")
    clock.now = 60
    refusals.warn("10.0.0.7", "refused too")
    log.start()
    log.stop()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 62
    assert lines[-2].endswith("940 more refusals of 10.0.0.66 within a minute not told one by one")
    assert lines[-1].endswith("refused too")


def test_addresses_without_end_take_no_memory_and_none_is_left_out() -> None:
    crowds = Crowds(Clock())
    passed: Counter[str] = Counter()
    for number in range(3000):
        passed[""] += sum(crowds.passes(str(number)) for _ in range(61))
    assert passed[""] == 3000 * 60
    assert len(crowds._counts) <= 1024
    assert len(crowds.passed_over()) == 3000 - 1024
