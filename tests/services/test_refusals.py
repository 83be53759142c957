"""Refused connections by the thousand are a line now and then."""

from __future__ import annotations

from dicomnode.services.refusals import Refusals


def test_an_address_is_told_of_at_once_and_then_with_the_number_of_the_untold() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    assert refusals.told("a") == 0
    assert [refusals.told("a") for _ in range(500)] == [None] * 500
    assert refusals.told("b") == 0
    now = 10.0
    assert refusals.told("a") == 500
    assert refusals.told("a") is None


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    refusals = Refusals(lambda: 0.0)
    for number in range(5000):
        assert refusals.told(f"{number}") == 0
    assert len(refusals._by_address) <= 1024
