"""Person names as they are compared, without case and diacritics (PS3.4 §C.2.2.2.1)."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# Marks that are left out: accents, and the vowel points of Hebrew and Arabic. Marks that make
# another letter, as in Japanese, Thai or Devanagari, stay.
_MARKS: Final = re.compile(
    "[\u0300-\u036f\u0591-\u05c7\u064b-\u0652\u0670\u1ab0-\u1aff\u1dc0-\u1dff]"
)
# Letters that are no letter with a mark, yet are typed as if they were.
_LETTERS: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "ı": "i", "æ": "ae", "œ": "oe"}  # noqa: RUF001
)
# Compatibility forms of delimiters and wild cards are letters of a name: kept out of the way.
_FORMS: Final = (
    "\u2047\u2048\u2049\u207c\u208c\u2260\u2a74\u2a75\u2a76\ufe16\ufe56\ufe61\ufe66\ufe68"
    "\uff0a\uff1d\uff1f\uff3c\uff3e"
)
_NO_DELIMITERS: Final = str.maketrans(
    {form: chr(0xE000 + number) for number, form in enumerate(_FORMS)}
)


def fold(name: str) -> str:
    """Return names without case, diacritics, padding, and empty trailing components and groups."""
    plain = name.lower() if name.isascii() else _fold_letters(name)
    return "\\".join(map(_fold_delimiters, plain.split("\\")))


def groups(folded: str) -> tuple[str, str, str]:
    """Return the alphabetic, ideographic and phonetic group of one folded name."""
    alphabetic, ideographic, phonetic, *_ = *folded.split("=", 3), "", "", ""
    return alphabetic, ideographic, phonetic


def _fold_letters(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.translate(_NO_DELIMITERS)).casefold()
    plain = _MARKS.sub("", unicodedata.normalize("NFKD", decomposed)).translate(_LETTERS)
    return unicodedata.normalize("NFC", plain)


def _fold_delimiters(name: str) -> str:
    folded = (
        "^".join(component.strip(" ") for component in group.split("^")).rstrip("^")
        for group in name.split("=")
    )
    return "=".join(folded).rstrip("=")
