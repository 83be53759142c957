"""Table E.1-1 of PS3.15, and which of its actions an attribute gets.

The table is text (``table_e1_1.txt``), so that it can be laid beside the standard.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from typing import Final

from dicomnode.deidentification.options import Column

_LETTERS: Final = "SUDIPFMCTG"
_TABLE: Final = "table_e1_1.txt"

# Images of which no attribute with a choice of actions is Type 1, and none but these Type 2 (PS3.3
# §A): all other objects get what the strictest of them needs.
_PLAIN_IMAGES: Final = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in (
        *("1", "2", "4", "20", "7"),
        *("7.1", "7.2", "7.3", "7.4"),
        *("12.1", "12.2"),
    )
)


class Action(StrEnum):
    """What becomes of one attribute (PS3.15 Table E.1-1a)."""

    DUMMY = "D"
    EMPTY = "Z"
    REMOVE = "X"
    KEEP = "K"
    CLEAN = "C"
    UID = "U"


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of an attribute: the basic action, and those of its options."""

    keyword: str
    basic: str
    options: dict[str, str]


@lru_cache(maxsize=1)
def table() -> dict[str, Row]:
    """Return the rows by tag: eight upper-case hexadecimal digits, ``x`` for any."""
    text = (files("dicomnode.deidentification") / _TABLE).read_text("ascii")
    rows = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            tag, basic, marks, keyword = line.split()
            options = {
                letter: mark for letter, mark in zip(_LETTERS, marks, strict=True) if mark != "-"
            }
            rows[tag] = Row(keyword, basic, options)
    return rows


@lru_cache(maxsize=1)
def _by_tag() -> dict[int, Row]:
    return {int(tag, 16): row for tag, row in table().items() if "x" not in tag}


def row_of(tag: int) -> Row | None:
    """Return the row of an attribute; its repeating groups are not looked at."""
    return _by_tag().get(tag)


def action_of(row: Row, columns: frozenset[Column], sop_class_uid: str, *, in_item: bool) -> Action:
    """Return the one action for an attribute with that row.

    Where options differ, the one that keeps less wins. ``in_item`` is whether the attribute is
    in an item of a sequence: what the item needs is not known, so it gets a value.
    """
    actions = {row.options[column] for column in columns if column in row.options}
    if actions:
        return next(
            action for action in (Action.REMOVE, Action.CLEAN, Action.KEEP) if action in actions
        )
    if row.basic.endswith("U*"):
        return Action.KEEP  # all that it holds are references, and these are replaced
    choice = row.basic.split("/")
    if len(choice) == 1:
        return Action(choice[0])
    least = choice[0] if sop_class_uid in _PLAIN_IMAGES and not in_item else choice[-1]
    return Action(least)
