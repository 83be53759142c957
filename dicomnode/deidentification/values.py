"""Values of elements: how they are read, and what takes the place of one (PS3.5 §6.2)."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from dicomnode.storage.elements import Element, implicit_vr

# Each is a valid value of its VR that says nothing.
DUMMY_TEXT: Final = "ANONYMIZED"
_DUMMIES: Final[dict[str, bytes]] = {
    "AS": b"000D",
    "DA": b"19000101",
    "DS": b"0",
    "DT": b"19000101000000",
    "IS": b"0",
    "TM": b"000000",
    "UR": b"about:blank",
}
_NUMBER_BYTES: Final = {
    **dict.fromkeys(("US", "SS", "OW", "OB", "UN"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL", "AT"), 4),
    **dict.fromkeys(("FD", "OD", "SV", "UV", "OV"), 8),
}
# Texts that a person may have written, or a machine that has a name.
WRITTEN_VRS: Final = frozenset(("AE", "LO", "LT", "SH", "ST", "UC", "UT"))
STRING_VRS: Final = WRITTEN_VRS | {"AS", "CS", "DA", "DS", "DT", "IS", "PN", "TM", "UI", "UR"}
_WORDS: Final = re.compile(r"[^\W_]+")


def vr_of(element: Element) -> str:
    """Return the VR of an element; of UN the one of PS3.6, if that has one."""
    vr = element.vr
    if vr == b"UN":
        vr = implicit_vr(element.tag)
    return vr.decode("ascii", "replace")


def vrs_of(element: Element) -> frozenset[str]:
    """Return the VR that an element comes with, and the one that PS3.6 gives it."""
    return frozenset(vr.decode("ascii", "replace") for vr in (element.vr, implicit_vr(element.tag)))


def composed(text: str) -> str:
    """Return a text without padding, and with each character composed in the one way."""
    return unicodedata.normalize("NFC", text).strip()


def words_of(text: str) -> list[str]:
    """Return the words of a text as they are compared: composed, in small letters."""
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def dummy(vr: str) -> bytes:
    """Return a value of a VR that takes the place of one, even in length."""
    if vr in _NUMBER_BYTES:
        return bytes(_NUMBER_BYTES[vr])
    return padded(_DUMMIES.get(vr, DUMMY_TEXT.encode()), vr)


def padded(value: bytes, vr: str) -> bytes:
    """Return a value of even length (PS3.5 §6.2)."""
    if len(value) & 1:
        return value + (b"\0" if vr == "UI" else b" ")
    return value
