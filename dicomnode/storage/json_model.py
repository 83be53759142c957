"""Attributes in the DICOM JSON model (PS3.18 Annex F), read from data sets and written to them.

Text is in Unicode, decimal and integer strings stand as they were sent, private attributes are
kept where their VR is known. Group lengths, Specific Character Set and pixel data are left out:
they say how a data set was written, not what it says.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import dictionary_description, tag_for_keyword

from dicomnode.errors import ConversionFailed, UnreadableAttributes
from dicomnode.storage import elements as walked
from dicomnode.storage.encoding import (
    DEFLATED,
    IMPLICIT_LITTLE,
    MAX_SHORT_LENGTH,
    Elements,
    Encoding,
    inflated,
)
from dicomnode.storage.text import (
    decode_text,
    encode_text,
    encodings_of,
    is_known_character_set,
)

# Attributes by "GGGGEEEE" in upper-case hexadecimal: {"vr": …, "Value": […]}.
Attributes = dict[str, Any]

MAX_DEPTH: Final = 16
# Nothing that is scheduled or performed has longer bulk data; all values of a data set together.
MAX_BULK_BYTES: Final = 64 * 1024
# Of a data set, items counted too: a step with thirty thousand images has no more.
MAX_ELEMENTS: Final = 200_000
# A deflated data set may be this many bytes long.
_MAX_INFLATED_BYTES: Final = 16 * 1024 * 1024

SPECIFIC_CHARACTER_SET: Final = 0x0008_0005
_FIRST_PIXEL_GROUP: Final = 0x7FE0
_FIRST_GROUP: Final = 0x0008

TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
STRING_VRS: Final = TEXT_VRS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
# These have one value, in which a backslash is a character like others.
SINGLE_VRS: Final = frozenset(("LT", "ST", "UR", "UT"))
INTEGER_VRS: Final[Mapping[str, str]] = {
    "SL": "i",
    "SS": "h",
    "SV": "q",
    "UL": "I",
    "US": "H",
    "UV": "Q",
}
FLOAT_VRS: Final[Mapping[str, str]] = {"FL": "f", "FD": "d"}
# Bulk data and how many bytes of it are swapped together.
BULK_VRS: Final[Mapping[str, int]] = {
    "OB": 1,
    "OD": 8,
    "OF": 4,
    "OL": 4,
    "OV": 8,
    "OW": 2,
    "UN": 1,
}
VRS: Final = STRING_VRS | INTEGER_VRS.keys() | FLOAT_VRS.keys() | BULK_VRS.keys() | {"AT", "SQ"}
NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def decode_attributes(
    data: bytes, transfer_syntax_uid: str, max_elements: int = MAX_ELEMENTS
) -> Attributes:
    """Read a whole data set in an uncompressed transfer syntax.

    Bytes that are none of their character set become U+FFFD. Raises UnreadableAttributes for what
    is no data set, is nested too deeply, has too many elements or too much bulk data, or names a
    character set that is not known.
    """
    try:
        if transfer_syntax_uid == DEFLATED:
            data = inflated(data, _MAX_INFLATED_BYTES)
        source = walked.Memory(data)
        reader = _Reader(max_elements)
        return reader.read(source, walked.encoding_of(source, transfer_syntax_uid))
    except (ConversionFailed, ValueError) as error:
        words = str(error).replace("the stored data set", "the data set")
        raise UnreadableAttributes(words) from None


def encode_attributes(
    attributes: Attributes, elements: Elements, encodings: tuple[str, ...]
) -> bytes:
    """Return the elements of ``attributes``, which must be well formed, in the order of tags.

    Raises UnicodeEncodeError where ``encodings`` do not have all characters.
    """
    return b"".join(
        encode_element(int(key, 16), attribute, elements, encodings)
        for key, attribute in sorted(attributes.items())
    )


def encode_element(
    tag: int, attribute: Mapping[str, Any], elements: Elements, encodings: tuple[str, ...]
) -> bytes:
    """Return one element; see ``encode_attributes``."""
    vr: str = attribute["vr"]
    values: Sequence[Any] = attribute.get("Value", ())
    if vr == "SQ":
        return elements.items(
            tag, [encode_attributes(item, elements, encodings) for item in values]
        )
    if vr in TEXT_VRS:
        return elements.element(tag, vr, encode_text(joined(vr, values), encodings, vr))
    if vr in STRING_VRS:
        # Bytes that no such value has were U+FFFD.
        return elements.element(tag, vr, joined(vr, values).encode("ascii", "replace"))
    if vr in INTEGER_VRS:
        layout = f"{elements.order}{len(values)}{INTEGER_VRS[vr]}"
        return elements.element(tag, vr, struct.pack(layout, *values))
    if vr in FLOAT_VRS:
        layout = f"{elements.order}{len(values)}{FLOAT_VRS[vr]}"
        return elements.element(tag, vr, struct.pack(layout, *map(float, values)))
    if vr == "AT":
        numbers = [int(half, 16) for value in values for half in (value[:4], value[4:])]
        return elements.element(tag, vr, struct.pack(f"{elements.order}{len(numbers)}H", *numbers))
    little = base64.b64decode(attribute.get("InlineBinary", ""))
    return elements.element(tag, vr, _swapped(little, BULK_VRS[vr], elements.order))


def text_of(attributes: Attributes, attribute: str | int, default: str = "") -> str:
    """Return the values of an attribute, given by keyword or tag, joined by backslashes.

    Of person names the groups are joined by "=". ``default`` when absent or without a value.
    """
    held = attributes.get(key_of(attribute))
    if held is None or held["vr"] == "SQ":
        return default
    return joined(held["vr"], held.get("Value", ())) or default


def items_of(attributes: Attributes, attribute: str | int) -> list[Attributes]:
    """Return the items of a sequence, given by keyword or tag; [] when there are none."""
    held = attributes.get(key_of(attribute))
    if held is None or held["vr"] != "SQ":
        return []
    items: list[Attributes] = held.get("Value", [])
    return items


@lru_cache(maxsize=2048)
def key_of(attribute: str | int) -> str:
    """Return the key of an attribute given by keyword or tag. Raises KeyError for no keyword."""
    tag = attribute if isinstance(attribute, int) else tag_for_keyword(attribute)
    if tag is None:
        raise KeyError(attribute)
    return f"{tag:08X}"


@lru_cache(maxsize=2048)
def name_of(key: str) -> str:
    """Return what a sentence calls an attribute: its name in PS3.6, else its tag."""
    try:
        return dictionary_description(int(key, 16))
    except KeyError:
        return f"({key[:4]},{key[4:]})"


def joined(vr: str, values: Sequence[Any]) -> str:
    """Return values as a data set has them, joined by backslashes."""
    if vr == "PN":
        return "\\".join(map(_name, values))
    return "\\".join("" if value is None else str(value) for value in values)


def _name(value: Mapping[str, str] | None) -> str:
    if value is None:
        return ""
    return "=".join(value.get(group, "") for group in NAME_GROUPS).rstrip("=")


def _swapped(value: bytes, size: int, order: str) -> bytes:
    """Turn words of ``size`` bytes from little endian into ``order``, or back."""
    if order == "<" or size == 1:
        return value
    return b"".join(value[at : at + size][::-1] for at in range(0, len(value), size))


# -- reading data sets -----------------------------------------------------------------------------


class _Reader:
    """Makes attributes of the walk over a data set; what is open stands on a stack."""

    def __init__(self, max_elements: int) -> None:
        self._max_elements = max_elements
        self._elements = 0
        self._bulk_bytes = 0
        self._sequences: list[list[Attributes]] = []
        self._open: list[tuple[Attributes, tuple[str, ...]]] = [({}, encodings_of(b""))]

    def read(self, source: walked.Memory, encoding: Encoding) -> Attributes:
        self._walk(source, encoding)
        return self._open[0][0]

    def _walk(self, source: walked.Memory, encoding: Encoding) -> None:
        for event in walked.walk(source, encoding):
            match event:
                case walked.Element():
                    self._count()
                    self._element(source, event)
                case walked.SequenceStart(tag):
                    self._count()
                    self._sequence(tag)
                case walked.SequenceEnd():
                    self._sequences.pop()
                case walked.ItemStart():
                    self._count()
                    item: Attributes = {}
                    self._sequences[-1].append(item)
                    self._open.append((item, self._open[-1][1]))
                case walked.ItemEnd():
                    self._open.pop()
                case walked.Encapsulated():
                    pass

    def _count(self) -> None:
        self._elements += 1
        if self._elements > self._max_elements:
            raise UnreadableAttributes(f"more than {self._max_elements} elements")

    def _sequence(self, tag: int) -> None:
        if len(self._sequences) >= MAX_DEPTH:
            raise UnreadableAttributes(f"sequences are nested deeper than {MAX_DEPTH}")
        items: list[Attributes] = []
        self._sequences.append(items)
        if is_kept(tag):
            self._open[-1][0][f"{tag:08X}"] = {"vr": "SQ", "Value": items}

    def _element(self, source: walked.Memory, element: walked.Element) -> None:
        tag, length = element.tag, element.length
        attributes, encodings = self._open[-1]
        if tag == SPECIFIC_CHARACTER_SET:
            raw = source.read(element.start, length).strip(b" \0")
            if not is_known_character_set(raw):
                raise UnreadableAttributes("Specific Character Set is not known")
            self._open[-1] = attributes, encodings_of(raw)
            return
        vr, encoding = _known_vr(element)
        if vr == "SQ" and length:
            # A sequence that came as UN, of defined length.
            whole = encoding.header(tag, b"SQ", length) + source.read(element.start, length)
            self._walk(walked.Memory(whole), encoding)
            return
        if not is_kept(tag) or vr not in VRS or (vr == "UN" and tag >> 16 & 1):
            return
        if vr in BULK_VRS:
            self._bulk_bytes += length
            if self._bulk_bytes > MAX_BULK_BYTES:
                raise UnreadableAttributes(
                    f"{name_of(f'{tag:08X}')}: more than {MAX_BULK_BYTES} bytes of bulk data"
                )
        elif length > MAX_SHORT_LENGTH:
            raise UnreadableAttributes(f"{name_of(f'{tag:08X}')} is too long")
        value = source.read(element.start, length)
        try:
            attributes[f"{tag:08X}"] = _read_value(vr, value, encoding, encodings)
        except struct.error:
            raise UnreadableAttributes(
                f"{name_of(f'{tag:08X}')} has {length} bytes, which no {vr} has"
            ) from None


def is_kept(tag: int) -> bool:
    """Tell whether an attribute says something of what is scheduled or performed."""
    return (
        _FIRST_GROUP <= tag >> 16 < _FIRST_PIXEL_GROUP
        and tag & 0xFFFF != 0
        and tag != SPECIFIC_CHARACTER_SET
    )


def _known_vr(element: walked.Element) -> tuple[str, Encoding]:
    """Return the VR to read an element with, perhaps none of PS3.5, and how it is laid out then.

    An element with VR UN that PS3.6 has is in Implicit VR Little Endian (PS3.5 §6.2.2 note 2).
    """
    vr, encoding = element.vr, element.data_set.encoding
    if vr == b"UN":
        vr, encoding = walked.implicit_vr(element.tag), IMPLICIT_LITTLE
    # Of an ambiguous VR, such as "US or SS", the first.
    return vr.decode("ascii", "replace").partition(" or ")[0], encoding


def _read_value(
    vr: str, value: bytes, encoding: Encoding, encodings: tuple[str, ...]
) -> dict[str, Any]:
    values = _READERS[vr](vr, value, encoding, encodings)
    if isinstance(values, str):
        return {"vr": vr, "InlineBinary": values} if values else {"vr": vr}
    return {"vr": vr, "Value": values} if values or vr == "SQ" else {"vr": vr}


_Read = Callable[[str, bytes, Encoding, tuple[str, ...]], "list[Any] | str"]


def _strings(vr: str, value: bytes, encoding: Encoding, encodings: tuple[str, ...]) -> list[Any]:
    text = decode_text(value, encodings, vr)
    if not text:
        return []
    if vr in SINGLE_VRS:
        return [text]
    parts = [part.strip(" \0") for part in text.split("\\")]
    if vr == "PN":
        return [_groups(part) for part in parts]
    return [part or None for part in parts]


def _groups(name: str) -> dict[str, str] | None:
    groups = dict(zip(NAME_GROUPS, name.split("=", 2), strict=False))
    return {group: text for group, text in groups.items() if text} or None


def _numbers(vr: str, value: bytes, encoding: Encoding, encodings: tuple[str, ...]) -> list[Any]:
    code = INTEGER_VRS.get(vr) or FLOAT_VRS[vr]
    found = [number for (number,) in encoding.integers(code).iter_unpack(value)]
    # JSON has no other numbers (PS3.18 §F.2.2).
    return [number if math.isfinite(number) else str(number) for number in found]


def _tags(vr: str, value: bytes, encoding: Encoding, encodings: tuple[str, ...]) -> list[Any]:
    return [
        f"{group:04X}{number:04X}" for group, number in encoding.integers("HH").iter_unpack(value)
    ]


def _bulk(vr: str, value: bytes, encoding: Encoding, encodings: tuple[str, ...]) -> str:
    return base64.b64encode(_swapped(value, BULK_VRS[vr], encoding.order)).decode("ascii")


def _nothing(vr: str, value: bytes, encoding: Encoding, encodings: tuple[str, ...]) -> list[Any]:
    return []


_READERS: Final[Mapping[str, _Read]] = {
    **dict.fromkeys(STRING_VRS, _strings),
    **dict.fromkeys((*INTEGER_VRS, *FLOAT_VRS), _numbers),
    **dict.fromkeys(BULK_VRS, _bulk),
    "AT": _tags,
    "SQ": _nothing,
}
