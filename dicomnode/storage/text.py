"""Character strings of data sets in Unicode (PS3.5 §6.1, PS3.3 §C.12.1.1.2)."""

from __future__ import annotations

import re

from pydicom.charset import ENCODINGS_TO_CODES, decode_bytes, python_encoding

_ESCAPE = b"\x1b"
# Of data sets that do not say: terminals send UTF-8, old devices ISO 8859-1.
_NOT_SAID = ("latin_1", "")
# Each costs some microseconds to decode; no text has as many.
_MAX_ESCAPES = 4096
# VRs whose values Specific Character Set applies to (PS3.5 §6.1.2.3).
_EXTENDED_VRS = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
# Characters after which the first character set holds again (PS3.5 §6.1.2.5.3).
_NAME_DELIMITERS = {0x5C, 0x5E, 0x3D}
_TEXT_DELIMITERS = {0x5C, 0x0A, 0x0C, 0x0D, 0x09}
_STAND_ALONE = frozenset(("UTF8", "utf8", "GB18030", "GBK", "GB2312"))
_NAME_FRAGMENTS = re.compile(r"([\\^=])")
_TEXT_FRAGMENTS = re.compile(r"([\\\n\f\r\t])")
# Python's encodings whose characters are called up by an escape sequence (PS3.3 Tables C.12-3 and
# C.12-4): into G1, beside the ASCII of G0, or into G0 in its place.
_INTO_G0 = {"iso2022_jp": b"\x1b$B", "iso2022_jp_2": b"\x1b$(D"}
_INTO_G1 = {
    encoding: escape
    for encoding, escape in ENCODINGS_TO_CODES.items()
    if encoding not in _INTO_G0 and encoding != "iso8859"
}
# Called up in each fragment, even where they are the first set (PS3.5 §K.2).
_ALWAYS_CALLED = ("euc_kr", "iso_ir_58")
# What pydicom calls the default repertoire; in values that we send it is ASCII.
_DEFAULT_REPERTOIRE = "iso8859"
_TERM = re.compile(r"ISO[ _-]?(2022)?[ _-]?(?:IR)?[ _-]?(\d+)\Z", re.IGNORECASE)


def encodings_of(specific_character_set: bytes) -> tuple[str, ...]:
    """Return Python's names of the encodings of a raw Specific Character Set (0008,0005).

    Misspelled terms are mended where they can be told; unknown ones are read as ISO 8859-1. Text of
    a data set that names none is read as UTF-8 where it is that.
    """
    if not specific_character_set:
        return _NOT_SAID
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
    elif encodings is _NOT_SAID:
        text = _decode_not_said(value)
    elif _ESCAPE not in value or value.count(_ESCAPE) > _MAX_ESCAPES:
        text = value.decode(encodings[0], "replace")
    else:
        text = _decode_extended(value, encodings, vr)
    return text.strip(" ").rstrip("\x00 ").replace("\x00", "")


def _decode_not_said(value: bytes) -> str:
    """Decode as UTF-8 what is UTF-8, which other text hardly ever is."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin_1")


def _decode_extended(value: bytes, encodings: tuple[str, ...], vr: str) -> str:
    """Decode with code extensions (ISO 2022)."""
    delimiters = _NAME_DELIMITERS if vr == "PN" else _TEXT_DELIMITERS
    try:
        # The escape sequence of ISO 2022 IR 58 is left in by pydicom.
        return decode_bytes(value, encodings, delimiters).replace("\x1b$)A", "")
    except (UnicodeError, LookupError, UserWarning):
        return value.decode(encodings[0], "replace")


def encode_text(value: str, encodings: tuple[str, ...], vr: str) -> bytes:
    """Return ``value`` in the encodings, with code extensions where there are several.

    Raises UnicodeEncodeError for what they do not have.
    """
    if value.isascii():
        return value.encode("ascii")
    if vr not in _EXTENDED_VRS:
        return value.encode("ascii")
    if encodings[0] in _STAND_ALONE:
        return value.encode(encodings[0])
    fragments = (_NAME_FRAGMENTS if vr == "PN" else _TEXT_FRAGMENTS).split(value)
    return b"".join(_encode_fragment(fragment, encodings) for fragment in fragments)


def _encode_fragment(text: str, encodings: tuple[str, ...]) -> bytes:
    """Encode what stands between two delimiters, where the first character set holds again."""
    ascii_again = b"\x1b(J" if encodings[0] == "shift_jis" else b"\x1b(B"
    encoded = bytearray()
    in_g0 = ""
    in_g1 = "" if encodings[0] in _ALWAYS_CALLED else encodings[0]
    for character in text:
        if character.isascii():
            if in_g0:
                encoded += ascii_again
                # Said again before the next character of G1, as readers differ.
                in_g0 = in_g1 = ""
            encoded += character.encode("ascii")
            continue
        encoding, code = _encode_character(character, in_g0 or in_g1, encodings)
        if encoding in _INTO_G0:
            if in_g0 != encoding:
                encoded += _INTO_G0[encoding]
                in_g0 = encoding
        else:
            if in_g0:
                encoded += ascii_again
                in_g0 = in_g1 = ""
            if in_g1 != encoding:
                encoded += _INTO_G1[encoding]
                in_g1 = encoding
        encoded += code
    return bytes(encoded) + (ascii_again if in_g0 else b"")


def _encode_character(
    character: str, current: str, encodings: tuple[str, ...]
) -> tuple[str, bytes]:
    """Return the encoding that has ``character``, the current one if it does, and its code."""
    for encoding in (current, *encodings):
        if encoding in ("", _DEFAULT_REPERTOIRE) or encoding in _STAND_ALONE:
            continue
        try:
            code = character.encode(encoding)
        except UnicodeEncodeError:
            continue
        if encoding in _INTO_G0:
            escape = _INTO_G0[encoding]
            if code.startswith(escape):
                return encoding, code[len(escape) : len(escape) + 2]
        elif encoding != "shift_jis" or (len(code) == 1 and code > b"\x7f"):
            return encoding, code
    raise UnicodeEncodeError(encodings[0], character, 0, 1, "in no character set given")
