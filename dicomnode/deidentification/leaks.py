"""The last look at a copy: does any text in it still hold what identifies the patient?"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from pydicom.datadict import keyword_for_tag

from dicomnode.deidentification.survey import (
    SPECIFIC_CHARACTER_SET,
    CharacterSets,
    Survey,
)
from dicomnode.deidentification.treatment import (
    DEIDENTIFICATION_METHOD,
    DEIDENTIFICATION_METHOD_CODES,
)
from dicomnode.deidentification.values import (
    DUMMY_TEXT,
    STRING_VRS,
    vr_of,
    vrs_of,
    words_of,
)
from dicomnode.deidentification.vocabulary import words
from dicomnode.errors import NotDeidentified
from dicomnode.storage.elements import Element, SequenceStart, Source, walk
from dicomnode.storage.encoding import Encoding
from dicomnode.storage.text import decode_text

_PIECE_BYTES: Final = 1024 * 1024
# No name or number is longer: each is in one piece as a whole.
_OVERLAP_BYTES: Final = 256
# Numbers of all kinds: that one equals a patient's number says nothing.
_NUMERIC_VRS: Final = frozenset(("AS", "DA", "DS", "DT", "IS", "TM"))
# As long, one is found with other characters around it, too: ID471100, MUELLER2.
_LEAST_OF_PART: Final = 6
_LETTERS: Final = re.compile(rf"[^\W\d_]{{{_LEAST_OF_PART},}}")
_CODE_MEANING: Final = 0x0008_0104


class LeakCheck:
    """Looks for the names and numbers that a survey of the original has found.

    Words that the standard uses are no leak where the standard says which there may be: somebody
    called Long is not meant by LONG in a code string. ``kept`` are UIDs that are to stay,
    ``pseudonym`` is the patient's new name.
    """

    def __init__(self, found: Survey, *, kept: tuple[str, ...], pseudonym: str) -> None:
        self._own_texts = frozenset((DUMMY_TEXT, pseudonym))
        self._words = found.words
        self._strange = [word for word in self._words if not word.isascii()]
        self._identifiers = _pattern(found.identifiers.difference(kept))

    def check(self, source: Source, encoding: Encoding) -> None:
        """Look at every text of a data set.

        Raises NotDeidentified for the first that holds anything; ConversionFailed, OSError.
        """
        character_sets = CharacterSets()
        statement = -1
        for event in walk(source, encoding, into_unknown=True):
            match event:
                case SequenceStart(tag=tag, holder=holder):
                    if tag == DEIDENTIFICATION_METHOD_CODES:
                        statement = holder.start
                case Element(data_set=data_set, tag=tag):
                    if tag == SPECIFIC_CHARACTER_SET:
                        character_sets.note(source, event)
                    elif tag == DEIDENTIFICATION_METHOD or (
                        data_set.around is not None and data_set.around.start == statement
                    ):
                        continue  # our own words
                    elif not vrs_of(event).isdisjoint(STRING_VRS):
                        self._element(source, event, character_sets)

    def _element(self, source: Source, element: Element, character_sets: CharacterSets) -> None:
        vr = vr_of(element)
        encodings = character_sets.of(element.data_set)
        for start in range(0, element.length, _PIECE_BYTES):
            size = min(_PIECE_BYTES + _OVERLAP_BYTES, element.length - start)
            value = source.exactly(element.start + start, size)
            # NUL bytes may stand between two words, or within one.
            readings = {value, value.replace(b"\0", b" ")}
            texts = {decode_text(one, encodings, vr) for one in readings} - self._own_texts
            if any(self._leaks(text, element.tag, vr) for text in texts):
                name = keyword_for_tag(element.tag) or "an element"
                tag = f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X})"
                raise NotDeidentified(
                    f"the copy still holds a name or number of the original in {name} {tag}"
                )

    def _leaks(self, text: str, tag: int, vr: str) -> bool:
        plain = unicodedata.normalize("NFKC", text).casefold()
        held = self._words.intersection(words_of(text)) | self._words.intersection(
            _LETTERS.findall(plain)
        )
        held.update(word for word in self._strange if word in plain)
        if held and (vr == "CS" or tag == _CODE_MEANING):
            held -= words()
        if held:
            return True
        return (
            vr not in _NUMERIC_VRS
            and self._identifiers is not None
            and self._identifiers.search(plain) is not None
        )


def _pattern(identifiers: set[str]) -> re.Pattern[str] | None:
    """Return a pattern for the identifiers where they stand alone, in small letters.

    Digits around letters, or letters around digits, do not hide a long one.
    """
    plain = sorted(unicodedata.normalize("NFKC", one).casefold() for one in identifiers)
    if not plain:
        return None
    return re.compile("|".join(map(_alone, plain)))


def _alone(one: str) -> str:
    before, after = (
        r"\d" if one[end].isdigit() and len(one) >= _LEAST_OF_PART else r"[^\W_]" for end in (0, -1)
    )
    return rf"(?<!{before}){re.escape(one)}(?!{after})"
