"""What must be known of an object before any of it can be written anew.

One walk over the elements; pixel data is stepped over.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pydicom.uid import UID_dictionary  # type: ignore[attr-defined]

from dicomnode.deidentification.values import composed, vr_of, vrs_of, words_of
from dicomnode.errors import NotDeidentified
from dicomnode.storage.elements import (
    PIXEL_DATA,
    DataSet,
    Element,
    Encapsulated,
    SequenceStart,
    Source,
    walk,
)
from dicomnode.storage.encoding import Encoding
from dicomnode.storage.text import decode_text, encodings_of, is_known_character_set

SPECIFIC_CHARACTER_SET: Final = 0x0008_0005
SOP_CLASS_UID: Final = 0x0008_0016
SOP_INSTANCE_UID: Final = 0x0008_0018
ACCESSION_NUMBER: Final = 0x0008_0050
CONVERSION_TYPE: Final = 0x0008_0064
IMAGE_TYPE: Final = 0x0008_0008
CODING_SCHEME_DESIGNATOR: Final = 0x0008_0102
PATIENT_NAME: Final = 0x0010_0010
PATIENT_ID: Final = 0x0010_0020
ISSUER_OF_PATIENT_ID: Final = 0x0010_0021
BIRTH_DATE: Final = 0x0010_0030
STUDY_INSTANCE_UID: Final = 0x0020_000D
SERIES_INSTANCE_UID: Final = 0x0020_000E
FRAME_OF_REFERENCE_UID: Final = 0x0020_0052
BURNED_IN_ANNOTATION: Final = 0x0028_0301
RECOGNIZABLE_VISUAL_FEATURES: Final = 0x0028_0302
UNIVERSAL_ENTITY_ID: Final = 0x0040_0032
ISSUER_QUALIFIERS: Final = 0x0010_0024
ENCAPSULATED_DOCUMENT: Final = 0x0042_0011
CONTENT_SEQUENCE: Final = 0x0040_A730

# What is read of the data set itself, not of its items.
_FACTS: Final = frozenset(
    (
        *(SOP_CLASS_UID, SOP_INSTANCE_UID, ACCESSION_NUMBER, CONVERSION_TYPE, IMAGE_TYPE),
        *(PATIENT_NAME, PATIENT_ID, ISSUER_OF_PATIENT_ID, BIRTH_DATE),
        *(STUDY_INSTANCE_UID, SERIES_INSTANCE_UID, FRAME_OF_REFERENCE_UID),
        *(BURNED_IN_ANNOTATION, RECOGNIZABLE_VISUAL_FEATURES),
    )
)
# Numbers that stand for a patient, a visit, an order or a person, wherever they are.
_IDENTIFIERS: Final = frozenset(
    (
        *(ACCESSION_NUMBER, PATIENT_ID),
        0x0010_1000,  # Other Patient IDs
        0x0010_1090,  # Medical Record Locator
        0x0010_2154,  # Patient's Telephone Numbers
        0x0010_1040,  # Patient's Address
        0x0020_0010,  # Study ID
        0x0038_0010,  # Admission ID
        0x0038_0060,  # Service Episode ID
        0x0040_1001,  # Requested Procedure ID
        0x0040_0009,  # Scheduled Procedure Step ID
        0x0040_2016,  # Placer Order Number
        0x0040_2017,  # Filler Order Number
    )
)
_MAX_FACT_BYTES: Final = 16 * 1024
_MAX_TERMS: Final = 10_000
_UNREADABLE: Final = "\ufffd"
_LEAST_CHARACTERS: Final = 3
_LEAST_OF_IDENTIFIER: Final = 4
_UNIQUE: Final = (SOP_INSTANCE_UID, STUDY_INSTANCE_UID, SERIES_INSTANCE_UID)
_LEAST_OF_UID: Final = 8
_OVERLAY_BITS: Final = 0x0100
_OVERLAY_DATA: Final = 0x3000
_FORMS_OF_DATE: Final = (
    *("%Y%m%d", "%Y-%m-%d", "%Y.%m.%d", "%Y/%m/%d"),
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"),
)
_UMLAUTS: Final = str.maketrans({"\u00e4": "ae", "\u00f6": "oe", "\u00fc": "ue"})


class CharacterSets:
    """The encodings of text in each item of a data set (PS3.5 §6.1.2.3)."""

    def __init__(self) -> None:
        self._by_start: dict[int, tuple[str, ...]] = {}

    def note(self, source: Source, element: Element) -> None:
        """Take a Specific Character Set. Raises NotDeidentified for one that is not known."""
        value = source.exactly(element.start, min(element.length, _MAX_FACT_BYTES))
        if not is_known_character_set(value):
            raise NotDeidentified("Specific Character Set (0008,0005) has an unknown value")
        self._by_start[element.data_set.start] = encodings_of(value)

    def of(self, data_set: DataSet | None) -> tuple[str, ...]:
        """Return the encodings of text in a data set or item: its own, or those around it."""
        while data_set is not None:
            if (found := self._by_start.get(data_set.start)) is not None:
                return found
            data_set = data_set.around
        return encodings_of(b"")


@dataclass(slots=True)
class Survey:
    """Facts of a data set; texts are in Unicode.

    ``schemes`` are by the start of the item they stand in. ``words`` are parts of names, in small
    letters, ``identifiers`` whole values: what may be found nowhere in the copy. ``short`` are
    those too short for that, which only a cleaned text may not have.
    ``embedded_overlay`` is whether the pixels hold an overlay in bits of their own.
    """

    facts: dict[int, str] = field(default_factory=dict)
    entity: str = ""
    character_sets: CharacterSets = field(default_factory=CharacterSets)
    schemes: dict[int, str] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)
    identifiers: set[str] = field(default_factory=set)
    short: set[str] = field(default_factory=set)
    has_pixels: bool = False
    has_document: bool = False
    has_content: bool = False
    embedded_overlay: bool = False

    def fact(self, tag: int) -> str:
        """Return the text of an attribute of the data set itself, "" where there is none."""
        return self.facts.get(tag, "")

    @property
    def is_of_patient(self) -> bool:
        """Whether it is about a patient; colour palettes and hanging protocols are not."""
        return any(map(self.fact, (STUDY_INSTANCE_UID, PATIENT_ID, PATIENT_NAME)))

    @property
    def patient(self) -> tuple[str, str]:
        """The patient's ID and its issuer; "" where it is not said.

        Case and zeros count; padding and ways to compose a character do not.
        """
        issuer = self.fact(ISSUER_OF_PATIENT_ID) or self.entity
        return composed(self.fact(PATIENT_ID)), composed(issuer)


def survey(source: Source, encoding: Encoding) -> Survey:
    """Walk over a data set. Raises ConversionFailed, NotDeidentified, OSError."""
    found = Survey()
    overlays: dict[int, set[int]] = {}
    qualifiers = -1
    for event in walk(source, encoding, into_unknown=True):
        match event:
            case SequenceStart(tag=tag, holder=holder):
                found.has_content |= tag == CONTENT_SEQUENCE
                if tag == ISSUER_QUALIFIERS and holder.around and holder.around.around is None:
                    qualifiers = holder.start
            case Encapsulated(data_set=data_set):
                found.has_pixels |= data_set.around is None
            case Element(data_set=data_set, tag=tag):
                if tag == UNIVERSAL_ENTITY_ID and data_set.around is not None:
                    if data_set.around.start == qualifiers:
                        found.entity = _text(found, source, event)
                elif tag >> 24 == 0x60 and data_set.around is None:
                    overlays.setdefault(tag >> 16, set()).add(tag & 0xFFFF)
                else:
                    _note(found, source, event)
    found.embedded_overlay = any(
        _OVERLAY_BITS in numbers and _OVERLAY_DATA not in numbers for numbers in overlays.values()
    )
    found.identifiers.update(_forms_of_date(found.fact(BIRTH_DATE)))
    found.identifiers.update(
        uid
        for tag in _UNIQUE
        if len(uid := found.fact(tag)) >= _LEAST_OF_UID and uid not in UID_dictionary
    )
    if len(found.words) + len(found.identifiers) + len(found.short) > _MAX_TERMS:
        raise NotDeidentified("the object holds too many names and numbers of people to look for")
    return found


def _note(found: Survey, source: Source, element: Element) -> None:
    """Note what an element tells of the object, or of people."""
    tag, start = element.tag, element.data_set.start
    of_object = element.data_set.around is None
    if element.length == 0:
        return
    if tag == SPECIFIC_CHARACTER_SET:
        found.character_sets.note(source, element)
    elif tag == CODING_SCHEME_DESIGNATOR:
        found.schemes[start] = _text(found, source, element)
    elif tag == PIXEL_DATA:
        found.has_pixels |= of_object
    elif tag == ENCAPSULATED_DOCUMENT:
        found.has_document = True
    elif tag in _IDENTIFIERS:
        text = _text(found, source, element)
        _add_identifiers(found, text)
        if tag == PATIENT_ID:
            found.short.update(words_of(text))
    elif "PN" in vrs_of(element):
        _add_words(found, _text(found, source, element))
    if of_object and tag in _FACTS:
        text = _text(found, source, element)
        if _UNREADABLE in text:
            # Two IDs that cannot be read are not the same for that.
            text += source.exactly(element.start, min(element.length, _MAX_FACT_BYTES)).hex()
        found.facts[tag] = text


def _text(found: Survey, source: Source, element: Element) -> str:
    value = source.exactly(element.start, min(element.length, _MAX_FACT_BYTES))
    return decode_text(value, found.character_sets.of(element.data_set), vr_of(element))


def _forms_of_date(text: str) -> list[str]:
    """Return how people write a date."""
    try:
        day = datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return []
    return [day.strftime(form) for form in _FORMS_OF_DATE]


def _add_identifiers(found: Survey, text: str) -> None:
    for value in text.split("\\"):
        value = value.strip()
        # Shorter numbers are in every data set.
        if len(value) >= _LEAST_OF_IDENTIFIER + value.isdigit():
            found.identifiers.add(value)


def _add_words(found: Survey, text: str) -> None:
    for word in words_of(text):
        # A letter of a name is in every text; one of a script without small letters, such as
        # an ideograph, says as much as a word.
        if len(word) >= _LEAST_CHARACTERS or unicodedata.category(word[0]) == "Lo":
            found.words.update((word, _plain(word), _plain(word.translate(_UMLAUTS))))
        else:
            found.short.add(word)


def _plain(word: str) -> str:
    """Return a word without the marks on its letters."""
    parts = unicodedata.normalize("NFKD", word)
    return "".join(part for part in parts if not unicodedata.combining(part)) or word
