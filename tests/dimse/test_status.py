"""Statuses: their categories (PS3.7 Annex C) and words (PS3.4 Annexes B and C)."""

from __future__ import annotations

import pytest
from pynetdicom.status import GENERAL_STATUS, STORAGE_SERVICE_CLASS_STATUS, code_to_category

from dicomnode.dimse.status import Category, Status, category, describe


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0x0000, Category.SUCCESS),
        (0xFF00, Category.PENDING),
        (0xFF01, Category.PENDING),
        (0xFE00, Category.CANCEL),
        (0x0001, Category.WARNING),
        (0x0107, Category.WARNING),
        (0x0116, Category.WARNING),
        (0xB000, Category.WARNING),
        (0xBFFF, Category.WARNING),
        (0xA700, Category.FAILURE),
        (0xC000, Category.FAILURE),
        (0x0122, Category.FAILURE),
        (0x0211, Category.FAILURE),
        (0x7777, Category.FAILURE),
        (0xFF02, Category.FAILURE),
    ],
)
def test_every_code_has_one_category(status: int, expected: Category) -> None:
    assert category(status) is expected


def test_categories_agree_with_pynetdicom() -> None:
    for status in [*GENERAL_STATUS, *STORAGE_SERVICE_CLASS_STATUS]:
        assert category(status) == code_to_category(status).lower()


@pytest.mark.parametrize(
    ("status", "service", "words"),
    [
        (0x0000, "C-STORE", "Success"),
        (0x0211, "unrecognized", "Unrecognized operation"),
        (0x0122, "C-FIND", "Refused: SOP Class not supported"),
        (0xA700, "C-STORE", "Refused: Out of Resources"),
        (0xA7FF, "C-STORE", "Refused: Out of Resources"),
        (0xA900, "C-STORE", "Error: Data Set does not match SOP Class"),
        (0xC123, "C-STORE", "Error: Cannot understand"),
        (0xB000, "C-STORE", "Warning: Coercion of Data Elements"),
        (0xB000, "C-MOVE", "Sub-operations completed, one or more failures"),
        (0xA801, "C-MOVE", "Move destination unknown"),
        (0xFF00, "C-FIND", "Matches are continuing, current match supplied"),
        (0xFF00, "C-GET", "Sub-operations are continuing"),
        (0xC001, "C-FIND", "Unable to Process"),
        (0xFF00, "", "Pending"),
        (0xB123, "N-SET", "Warning"),
        (0x9999, "C-STORE", "Failure"),
    ],
)
def test_words_are_those_of_the_service(status: int, service: str, words: str) -> None:
    assert describe(status, service) == words


@pytest.mark.parametrize("status", GENERAL_STATUS)
def test_every_general_status_has_words_of_its_own(status: int) -> None:
    assert describe(status) not in {"Warning", "Failure"}


def test_codes_with_two_meanings_have_two_names() -> None:
    assert Status["CANNOT_UNDERSTAND"] is Status["UNABLE_TO_PROCESS"]
    assert len(Status.__members__) == len(set(Status)) + 2
