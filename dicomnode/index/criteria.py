"""Criteria of rules that take objects by where they came from and what they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom._uid_dict import UID_dictionary

from dicomnode.index.wildcards import Wild, is_wild


def accepts(patterns: Sequence[Wild], values: Iterable[str]) -> bool:
    """Tell whether one of the values satisfies one of the patterns; without any all do."""
    return not patterns or any(pattern.accepts(value) for value in values for pattern in patterns)


def names_of_class(sop_class_uid: str) -> tuple[str, ...]:
    """Return what a SOP class may be called in a pattern: its UID, and its keyword."""
    known = UID_dictionary.get(sop_class_uid)
    return (sop_class_uid, known[4]) if known else (sop_class_uid,)


def class_keywords() -> list[str]:
    """Return the keywords of the SOP classes of the standard."""
    return [entry[4] for entry in UID_dictionary.values() if entry[1] == "SOP Class"]


def may_be_class(pattern: str) -> bool:
    """Tell whether a pattern is of SOP classes: has wild cards, is a UID or a known keyword."""
    # A UID may be one that the standard does not have.
    if is_wild(pattern) or not any(letter.isalpha() for letter in pattern):
        return True
    return any(entry[4] == pattern for entry in UID_dictionary.values())
