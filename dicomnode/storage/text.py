"""Character strings of data sets in Unicode (PS3.5 §6.1, PS3.3 §C.12.1.1.2)."""

from __future__ import annotations

import re

from pydicom.charset import decode_bytes, python_encoding

_ESCAPE = b"\x1b"
_DEFAULT = ("latin_1",)
# VRs whose values Specific Character Set applies to (PS3.5 §6.1.2.3).
_EXTENDED_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
# Characters after which the first character set holds again (PS3.5 §6.1.2.5.3).
_NAME_DELIMITERS = {0x5C, 0x5E, 0x3D}
_TEXT_DELIMITERS = {0x5C, 0x0A, 0x0C, 0x0D, 0x09}
_TERM = re.compile(r"ISO[ _-]?(2022)?[ _-]?(?:IR)?[ _-]?(\d+)\Z", re.IGNORECASE)


def encodings_of(specific_character_set: bytes) -> tuple[str, ...]:
    """Return Python's names of the encodings of a raw Specific Character Set (0008,0005).

    Misspelled terms are mended where they can be told; unknown ones are read as ISO 8859-1.
    """
    if not specific_character_set:
        return _DEFAULT
    terms = specific_character_set.decode("ascii", "replace").strip(" \x00").split("\\")
    return tuple(_encoding(term.strip()) for term in terms)


def is_known_character_set(specific_character_set: bytes) -> bool:
    """Tell whether every term of a raw Specific Character Set is known, or can be mended."""
    terms = specific_character_set.decode("ascii", "replace").strip(" \x00").split("\\")
    return all(_known_encoding(term.strip()) is not None for term in terms)


def _encoding(term: str) -> str:
    return _known_encoding(term) or "latin_1"


def _known_encoding(term: str) -> str | None:
    known = python_encoding.get(term)
    if known is None and (match := _TERM.match(term)):
        spelling = f"ISO 2022 IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"
        known = python_encoding.get(spelling)
    return known


def decode_text(value: bytes, encodings: tuple[str, ...], vr: str) -> str:
    """Return ``value`` in Unicode without padding; never fails: unknown bytes become U+FFFD."""
    if value.isascii() and _ESCAPE not in value:
        text = value.decode("ascii")
    elif vr not in _EXTENDED_VRS:
        text = value.decode("ascii", "replace")
    elif _ESCAPE not in value:
        text = value.decode(encodings[0], "replace")
    else:
        text = _decode_extended(value, encodings, vr)
    return text.strip(" ").rstrip("\x00 ").replace("\x00", "")


def _decode_extended(value: bytes, encodings: tuple[str, ...], vr: str) -> str:
    """Decode with code extensions (ISO 2022)."""
    delimiters = _NAME_DELIMITERS if vr == "PN" else _TEXT_DELIMITERS
    try:
        return decode_bytes(value, encodings, delimiters)
    except (UnicodeError, LookupError, UserWarning):
        return value.decode(encodings[0], "replace")
