"""The keys of queries as people write them, and the identifier they make."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from dicomnode.configuration import closest
from dicomnode.scu.answers import Encoded
from dicomnode.storage.encoding import DEFLATED, Elements, deflated
from dicomnode.storage.json_model import (
    BULK_VRS,
    FLOAT_VRS,
    INTEGER_VRS,
    SPECIFIC_CHARACTER_SET,
    Attributes,
    encode_attributes,
)

# The unique key of each level (PS3.4 §C.6).
UNIQUE_KEYS: Final = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
# A tag for each level of nesting.
Path = tuple[int, ...]

_MOST_ITEMS: Final = 100
_MOST_LEVELS: Final = 16
_PART: Final = re.compile(
    r"(?:\(?(?P<group>[0-9A-Fa-f]{4}),(?P<element>[0-9A-Fa-f]{4})\)?|(?P<tag>[0-9A-Fa-f]{8})"
    r"|(?P<keyword>[A-Za-z][A-Za-z0-9]*))(?:\[(?P<item>[0-9]+)\])?"
)
# Character sets by how widely they are understood (PS3.3 §C.12.1.1.2).
_CHARACTER_SETS: Final = (("ISO_IR 100", "latin_1"), ("ISO_IR 192", "utf_8"))


class Keys:
    """An identifier: attributes in the DICOM JSON model, and the order in which they were given."""

    def __init__(self) -> None:
        self.attributes: Attributes = {}
        self._paths: dict[Path, None] = {}

    @property
    def paths(self) -> list[Path]:
        """The attributes that have a value or ask for one, in the order given."""
        return list(self._paths)

    def add(self, written: str) -> None:
        """Add ``KEY`` or ``KEY=VALUE``; KEY is a keyword or a tag, or a path of such.

        Raises ValueError, which says what is wrong with it.
        """
        key, _, value = written.partition("=")
        parts = key.strip().split(".")
        if len(parts) > _MOST_LEVELS:
            raise ValueError(f"{key}: nested too deeply")
        within = self.attributes
        path: Path = ()
        for place, part in enumerate(parts, 1):
            tag, item = _parsed(part)
            path = (*path, tag)
            if place < len(parts):
                within = _item(within, tag, item or 0, part)
            elif vr_of(tag) == "SQ":
                if value:
                    raise ValueError(f"{part} is a sequence: it has items, and no value")
                _items(within, tag, part)
                if item is not None:
                    _item(within, tag, item, part)
            else:
                within[f"{tag:08X}"] = _attribute(tag, value)
        self._paths[path] = None

    def set(self, keyword: str, value: str) -> None:
        """Give an attribute a value, whatever it had."""
        self.add(f"{keyword}={value}")

    def add_shown(self, keys: Iterable[str]) -> None:
        """Ask for ``keys`` too, unless a key asks already: one that has no value."""
        if not all(map(self.text, self._paths)):
            return
        for key in keys:
            path = tuple(_parsed(part)[0] for part in key.split("."))
            if path not in self._paths:
                self.add(key)

    def merge(self, attributes: Attributes) -> None:
        """Take over the attributes of a query file."""
        self.attributes |= attributes
        for path in _leaves(attributes):
            self._paths[path] = None

    def text(self, path: Path | str) -> str:
        """Return the value of an attribute as it was given, "" for none."""
        wanted = (_parsed(path)[0],) if isinstance(path, str) else path
        return next(iter(texts_at(self.attributes, wanted)), "")

    def encoded(self, transfer_syntax_uid: str) -> Encoded:
        """Write the identifier; its character set is the plainest that has all of it."""
        elements = Elements(transfer_syntax_uid)
        try:
            data = encode_attributes(self.attributes, elements, ("ascii",))
        except UnicodeEncodeError:
            data = self._in_character_set(elements)
        if transfer_syntax_uid == DEFLATED:
            data = deflated(data)
        return Encoded(data, transfer_syntax_uid)

    def _in_character_set(self, elements: Elements) -> bytes:
        for term, encoding in _CHARACTER_SETS:
            said = {f"{SPECIFIC_CHARACTER_SET:08X}": {"vr": "CS", "Value": [term]}}
            try:
                return encode_attributes(self.attributes | said, elements, (encoding,))
            except UnicodeEncodeError:
                continue
        raise ValueError("a key has characters that no character set of DICOM has")


def texts_at(attributes: Attributes, path: Path) -> Iterator[str]:
    """Yield the values at ``path``, of sequences those of each item; "" for an empty one."""
    held = attributes.get(f"{path[0]:08X}")
    if held is None:
        return
    if len(path) > 1:
        for item in held.get("Value", ()) if held["vr"] == "SQ" else ():
            yield from texts_at(item or {}, path[1:])
    elif held["vr"] == "SQ":
        yield f"{len(held.get('Value', ()))} items"
    elif "InlineBinary" in held:
        yield _text_or_base64(held["InlineBinary"])
    else:
        yield "\\".join(map(_text, held.get("Value", ())))


def _text_or_base64(inline: str) -> str:
    """Return bytes as the text that they are, such as those of unknown attributes, or base64."""
    data = base64.b64decode(inline).rstrip(b"\0 ")
    text = data.decode("ascii", "replace")
    return text if data.isascii() and text.isprintable() else inline


def _text(value: Any) -> str:
    if isinstance(value, dict):
        groups = [value.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")]
        return "=".join(groups).rstrip("=")
    return "" if value is None else str(value)


def vr_of(tag: int) -> str:
    """Return the VR of an attribute (PS3.6); of an ambiguous one the first."""
    from pydicom.datadict import dictionary_VR

    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    try:
        return dictionary_VR(tag).partition(" or ")[0]
    except KeyError:
        return "UN"


def name_of(tag: int) -> str:
    """Return the keyword of an attribute, or its tag."""
    from pydicom.datadict import keyword_for_tag

    return keyword_for_tag(tag) or f"{tag >> 16:04X},{tag & 0xFFFF:04X}"


def path_name(path: Path) -> str:
    """Return the keywords of a path."""
    return ".".join(map(name_of, path))


def _parsed(part: str) -> tuple[int, int | None]:
    from pydicom.datadict import keyword_dict

    match = _PART.fullmatch(part.strip())
    if match is None:
        raise ValueError(
            f"{part!r} is neither a keyword such as PatientName nor a tag such as 0010,0010"
        )
    item = int(match["item"]) if match["item"] else None
    if match["keyword"] is not None and match["tag"] is None:
        if match["keyword"] in keyword_dict:
            return keyword_dict[match["keyword"]], item
        meant = closest(match["keyword"], list(keyword_dict))
        hint = f"; did you mean {meant}?" if meant else ""
        raise ValueError(f"no attribute has the keyword {match['keyword']}{hint}")
    return int(match["tag"] or match["group"] + match["element"], 16), item


def _items(within: Attributes, tag: int, part: str) -> list[Attributes]:
    if vr_of(tag) != "SQ":
        raise ValueError(f"{part} is no sequence, so nothing is within it")
    items: list[Attributes] = within.setdefault(f"{tag:08X}", {"vr": "SQ", "Value": []})["Value"]
    return items


def _item(within: Attributes, tag: int, number: int, part: str) -> Attributes:
    items = _items(within, tag, part)
    if number > len(items) or number >= _MOST_ITEMS:
        raise ValueError(f"{part}: items are given in order, from [0] to [{_MOST_ITEMS - 1}]")
    if number == len(items):
        items.append({})
    return items[number]


def _attribute(tag: int, value: str) -> dict[str, Any]:
    vr = vr_of(tag)
    if not value:
        return {"vr": vr}
    if vr in BULK_VRS:
        return {"vr": vr, "InlineBinary": base64.b64encode(value.encode()).decode()}
    try:
        if vr in INTEGER_VRS:
            return {"vr": vr, "Value": [int(each) for each in value.split("\\")]}
        if vr in FLOAT_VRS:
            return {"vr": vr, "Value": [float(each) for each in value.split("\\")]}
    except ValueError:
        raise ValueError(f"{name_of(tag)} takes numbers, not {value!r}") from None
    # Wild cards, ranges and lists stand as they were written.
    return {"vr": vr, "Value": [{"Alphabetic": value} if vr == "PN" else value]}


def _leaves(attributes: Attributes, above: Path = ()) -> Iterator[Path]:
    for key, held in attributes.items():
        path = (*above, int(key, 16))
        items = held.get("Value", ()) if held["vr"] == "SQ" else ()
        if items:
            for item in items:
                yield from _leaves(item, path)
        else:
            yield path
