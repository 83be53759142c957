"""JSON of outside in the DICOM JSON model (PS3.18 Annex F), checked so that it can be kept."""

from __future__ import annotations

import base64
import binascii
import math
import re
import struct
from collections.abc import Mapping
from typing import Any, Final

from dicomnode.errors import UnreadableAttributes
from dicomnode.storage.json_model import (
    BULK_VRS,
    FLOAT_VRS,
    INTEGER_VRS,
    MAX_BULK_BYTES,
    MAX_DEPTH,
    NAME_GROUPS,
    SINGLE_VRS,
    STRING_VRS,
    TEXT_VRS,
    VRS,
    Attributes,
    is_kept,
    joined,
    name_of,
)

# PS3.5 Table 6.2-1, in characters; of a person name each group may be this long.
_MAX_CHARACTERS: Final[Mapping[str, int]] = {
    "AE": 16,
    "AS": 4,
    "CS": 16,
    "DA": 8,
    "DS": 16,
    "DT": 26,
    "IS": 12,
    "LO": 64,
    "LT": 10_240,
    "PN": 64,
    "SH": 16,
    "ST": 1024,
    "TM": 14,
    "UI": 64,
}
# All values of an attribute together: whatever the character set, a 16-bit length holds them.
_MAX_TEXT: Final = 16_000
_MAX_VALUES: Final = 4096
_KEY: Final = re.compile(r"[0-9A-Fa-f]{8}\Z")
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}\Z")
# Control characters that no value may have; those of text set lines and pages apart.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_CONTROL_IN_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")
_NON_FINITE: Final = frozenset(("nan", "inf", "-inf"))


def check_attributes(value: object) -> Attributes:
    """Return JSON from outside as attributes, checked so far that they can be written.

    Raises UnreadableAttributes, whose sentence names the attribute.
    """
    return _checked(value, 0)


def _checked(value: object, depth: int) -> Attributes:
    if not isinstance(value, dict):
        raise UnreadableAttributes("a data set must be a JSON object")
    if depth > MAX_DEPTH:
        raise UnreadableAttributes(f"sequences are nested deeper than {MAX_DEPTH}")
    attributes: Attributes = {}
    for key, attribute in value.items():
        if not isinstance(key, str) or not _KEY.match(key):
            raise UnreadableAttributes("a key is no tag of eight hexadecimal digits")
        if is_kept(int(key, 16)):
            attributes[key.upper()] = _checked_attribute(key.upper(), attribute, depth)
    return attributes


def _checked_attribute(key: str, attribute: object, depth: int) -> dict[str, Any]:
    if not isinstance(attribute, dict):
        raise _wrong(key, "must be a JSON object")
    vr = attribute.get("vr")
    if not isinstance(vr, str) or vr not in VRS:
        raise _wrong(key, "has no known vr")
    if unknown := attribute.keys() - {"vr", "Value", "InlineBinary"}:
        word = next(iter(unknown))[:32] if all(map(str.isalpha, unknown)) else "a member"
        raise _wrong(key, f"has {word}, which is not taken")
    if vr in BULK_VRS:
        return _checked_bulk(key, vr, attribute)
    values = attribute.get("Value", [])
    if not isinstance(values, list) or "InlineBinary" in attribute:
        raise _wrong(key, "must have its values in an array called Value")
    if len(values) > (1 if vr in SINGLE_VRS else _MAX_VALUES):
        raise _wrong(key, "has too many values")
    if vr == "SQ":
        return {"vr": vr, "Value": [_checked(item, depth + 1) for item in values]}
    checked = [_checked_value(key, vr, each) for each in values]
    if vr in STRING_VRS and len(joined(vr, checked)) > _MAX_TEXT:
        raise _wrong(key, "is too long")
    return {"vr": vr, "Value": checked} if any(each is not None for each in checked) else {"vr": vr}


def _checked_bulk(key: str, vr: str, attribute: Mapping[str, Any]) -> dict[str, Any]:
    inline = attribute.get("InlineBinary", "")
    if not isinstance(inline, str) or "Value" in attribute:
        raise _wrong(key, "must have its value as InlineBinary")
    if len(inline) > MAX_BULK_BYTES:
        raise _wrong(key, "is too long")
    try:
        base64.b64decode(inline, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(key, "is no Base64") from None
    return {"vr": vr, "InlineBinary": inline} if inline else {"vr": vr}


def _checked_value(key: str, vr: str, value: object) -> Any:
    if vr == "PN":
        return _checked_name(key, value)
    if vr in ("DS", "IS") and isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:.10g}" if isinstance(value, float) else str(value)
    if vr in STRING_VRS:
        if value is None and vr not in SINGLE_VRS:
            return None
        return _checked_text(key, vr, value, _MAX_CHARACTERS.get(vr, _MAX_TEXT)) or None
    if vr == "AT":
        if not isinstance(value, str) or not _TAG.match(value):
            raise _wrong(key, "has a value that is no tag")
        return value.upper()
    if vr in FLOAT_VRS and isinstance(value, str) and value.lower() in _NON_FINITE:
        return value.lower()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(key, "has a value that is no number")
    try:
        struct.pack("<" + (INTEGER_VRS.get(vr) or FLOAT_VRS[vr]), value)
    except (struct.error, OverflowError):
        raise _wrong(key, f"has a value that no {vr} can hold") from None
    return value if math.isfinite(value) else str(value)


def _checked_name(key: str, value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() - set(NAME_GROUPS):
        raise _wrong(key, f"must have names as objects with {', '.join(NAME_GROUPS)}")
    groups = {
        group: _checked_text(key, "PN", value[group], _MAX_CHARACTERS["PN"])
        for group in NAME_GROUPS
        if group in value
    }
    if any("=" in text for text in groups.values()):
        raise _wrong(key, 'has a name group with "=" in it')
    return {group: text for group, text in groups.items() if text} or None


def _checked_text(key: str, vr: str, value: object, most: int) -> str:
    if not isinstance(value, str):
        raise _wrong(key, "has a value that is no string")
    single = vr in SINGLE_VRS
    if (_CONTROL_IN_TEXT if vr in TEXT_VRS else _CONTROL).search(value):
        raise _wrong(key, "has a control character")
    if not single and "\\" in value:
        raise _wrong(key, "has a backslash in a value")
    if vr not in TEXT_VRS and not value.isascii():
        raise _wrong(key, f"has characters that no {vr} has")
    text = value.rstrip(" ") if single else value.strip(" ")
    if len(text) > most:
        raise _wrong(key, f"is longer than {most} characters")
    return text


def _wrong(key: str, words: str) -> UnreadableAttributes:
    return UnreadableAttributes(f"{name_of(key)} {words}")
