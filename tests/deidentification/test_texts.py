"""Dates, ages and descriptions."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.deidentification.dates import age_of_group, shifted_date, shifted_date_time
from dicomnode.deidentification.vocabulary import cleaned, words

NOBODY: frozenset[str] = frozenset()


@given(st.dates(min_value=date(1900, 1, 1)), st.integers(-3652, -1))
def test_a_date_is_shifted_by_the_calendar(day: date, days: int) -> None:
    shifted = (day + timedelta(days)).strftime("%Y%m%d")
    assert shifted_date(day.strftime("%Y%m%d"), days) == shifted
    assert shifted_date_time(day.strftime("%Y%m%d%H%M%S"), days) == shifted + "000000"


@pytest.mark.parametrize(
    ("text", "days", "shifted"),
    [
        ("20200301", -1, "20200229"),
        ("2020.03.01", -1, "2020.02.29"),
        ("20200301\\20200302 ", -1, "20200229\\20200301"),
        ("20200301-20200401", -1, "20200229-20200331"),
        ("-20200301", -1, "-20200229"),
        ("", -1, ""),
        ("20201301", -1, None),
        ("Miller", -1, None),
        ("20200301\\Miller", -1, None),
        ("00010101", -1, None),
        ("2020030", -1, None),
        ("٢٠٢٠٠٣٠١", -1, None),
    ],
)
def test_dates_in_all_their_forms(text: str, days: int, shifted: str | None) -> None:
    assert shifted_date(text, days) == shifted


@pytest.mark.parametrize(
    ("text", "shifted"),
    [
        ("20200301123456.123456+0100", "20200229123456.123456+0100"),
        ("20200301120000-0930", "20200229120000-0930"),
        ("2020030112", "2020022912"),
        ("202003", "202002"),
        ("2020", "2019"),
        ("20200301\\20200401", "20200229\\20200331"),
        ("yesterday", None),
    ],
)
def test_moments_stay_as_exact_as_they_were_and_in_their_time_zone(
    text: str, shifted: str | None
) -> None:
    assert shifted_date_time(text, -1) == shifted


@pytest.mark.parametrize(
    ("age", "group"),
    [
        ("034Y", "034Y"),
        ("089Y", "089Y"),
        ("090Y", "090Y"),
        ("103Y", "090Y"),
        ("006M", "006M"),
        ("999D", "999D"),
        ("old", None),
        ("34", None),
    ],
)
def test_whoever_is_ninety_or_older_is_ninety(age: str, group: str | None) -> None:
    assert age_of_group(age) == group


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("T2w TSE AX Brain 3mm", "T2w TSE AX Brain 3mm"),
        ("CHEST^PA", "CHEST^PA"),
        ("CT, HEAD/BRAIN WO CONTRAST", "CT, HEAD/BRAIN WO CONTRAST"),
        ("Brain, Mrs. Schmidt, born 31.12.1970", "Brain"),
        ("Brain 31 Jan 70", "Brain"),
        ("Brain 31 / 1 / 70", "Brain"),
        ("Brain 3", "Brain 3"),
        ("call 0176-1234567", ""),
        ("MRN 12345678", ""),
        ("see a.b@example.org", ""),
        ("Knee left, asked for by Dr. Miller", "Knee left"),
        ("山田太郎 Brain", "Brain"),
        ("M\u00fcller", ""),
        ("256x256", ""),
    ],
)
def test_of_descriptions_known_words_stay(text: str, kept: str) -> None:
    assert cleaned(text, NOBODY) == kept


def test_a_known_word_that_is_the_patients_name_goes() -> None:
    assert cleaned("Hand left", NOBODY) == "Hand left"
    assert cleaned("Hand left", frozenset(("hand",))) == "left"


def test_the_words_are_no_list_of_people() -> None:
    surnames = """smith johnson williams brown jones garcia miller davis wilson anderson taylor
        thomas moore martin lee white harris clark lewis robinson walker young allen king wright
        scott hill green adams baker nelson müller schmidt schneider fischer weber meyer wagner
        becker schulz hoffmann graves cushing douglas barrett parkinson down"""
    assert not words() & set(surnames.split())
