"""Person names without case and diacritics."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.index.names import _FORMS, fold, groups


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("Doe^Jane", "doe^jane"),
        ("DOE^JANE^^^", "doe^jane"),
        (" Doe ^ Jane ", "doe^jane"),
        ("^Jane", "^jane"),
        ("Müller^Jörg", "muller^jorg"),
        ("Straße", "strasse"),
        ("Łukasz^Øyvind", "lukasz^oyvind"),
        ("İnci", "inci"),
        ("Ψάρρας", "ψαρρασ"),
        ("Йод", "иод"),
        ("Yamada^Tarou=山田^太郎=", "yamada^tarou=山田^太郎"),
        ("ﾔﾏﾀﾞ", "ヤマダ"),
        ("김^희중", "김^희중"),
        ("A^B\\C^D^", "a^b\\c^d"),
        ("", ""),
    ],
)
def test_names_are_folded_for_matching(name: str, folded: str) -> None:
    assert fold(name) == folded


def test_groups_that_are_missing_are_empty() -> None:
    assert groups("doe=山田") == ("doe", "山田", "")
    assert groups("") == ("", "", "")
    assert groups("a=b=c=d") == ("a", "b", "c")


def test_folding_makes_no_delimiter_or_wild_card() -> None:
    made = {
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if character not in "=^\\*?"
        and set("=^\\*?") & set(unicodedata.normalize("NFKD", character))
    }
    assert made == set(_FORMS)
    assert not set("=^\\*?") & set(fold(_FORMS))


@given(st.text(max_size=20))
def test_folding_has_nothing_left_to_fold(name: str) -> None:
    assert fold(fold(name)) == fold(name)
