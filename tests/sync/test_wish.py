"""What is to be synchronized, as it is written."""

from __future__ import annotations

from datetime import date

import pytest

from dicomnode.sync.wish import Span, make_wish, read_span


@pytest.mark.parametrize("written", ["20261101", "20261101-", "-20261101", "20261101-20261130"])
def test_ranges_are_asked_for_as_they_are_written(written: str) -> None:
    assert str(read_span(written)) == written


@pytest.mark.parametrize("written", ["", "-", "2026", "20261301", "20261130-20261101", "1-2-3"])
def test_what_is_no_range_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"date|calendar|before"):
        read_span(written)


def test_halves_lose_no_day_and_have_none_twice() -> None:
    spans, days = [read_span("20200101-20200131")], []
    while spans:
        span = spans.pop()
        halves = span.halves()
        if halves is None:
            days.append(span.first)
        else:
            spans += halves
    assert sorted(day for day in days if day) == [date(2020, 1, day) for day in range(1, 32)]


def test_halves_keep_an_end_open() -> None:
    first, second = Span(date(2026, 1, 1), None).halves() or (Span(), Span())
    assert first.last is not None and second.first is not None
    assert (first.last - second.first).days == -1
    assert second.last is None


def test_a_study_date_out_of_range_is_seen_and_one_that_is_none_left_to_the_peer() -> None:
    span = read_span("20261101-")
    assert span.includes("20261101") and span.includes("2026.11.02")
    assert not span.includes("20261031")
    assert span.includes("") and span.includes("yesterday")


def test_a_study_date_among_the_keys_is_the_range() -> None:
    wish = make_wish(["PatientID=4711", "0008,0020=20261101-"])
    assert wish.keys == ("PatientID=4711",)
    assert str(wish.span) == "20261101-"
    with pytest.raises(ValueError, match="exclude"):
        make_wish(["StudyDate=20261101"], "20261102")
