"""Compares two data sets element by element, however each of them is encoded.

What only says how a data set is written does not count: VR, byte order, padding, lengths, character
set. Text is compared as text, numbers as numbers, anything else byte by byte.
"""

from __future__ import annotations

import array
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dicomnode.errors import ConversionFailed
from dicomnode.storage.elements import (
    PIXEL_DATA,
    Element,
    Encapsulated,
    ItemEnd,
    ItemStart,
    Memory,
    SequenceEnd,
    SequenceStart,
    Source,
    implicit_vr,
    walk,
)
from dicomnode.storage.encoding import EXPLICIT_LITTLE, SEQUENCE_END, UNDEFINED, Encoding
from dicomnode.storage.json_model import STRING_VRS, TEXT_VRS
from dicomnode.storage.text import decode_text, encodings_of

# Longer values are compared by their digests.
_KEPT_BYTES: Final = 4096
_PIECE_BYTES: Final = 1024 * 1024
_SPECIFIC_CHARACTER_SET: Final = 0x0008_0005
# Length to End, Data Set Trailing Padding, the extended offset table: how it is written.
_NOT_COMPARED: Final = frozenset(
    (0x0008_0001, _SPECIFIC_CHARACTER_SET, 0xFFFC_FFFC, 0x7FE0_0001, 0x7FE0_0002, 0x7FE0_0003)
)
_NUMBER_BYTES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "SV", "UV", "OV"), 8),
}
_TYPE_CODES: Final = {2: "H", 4: "I", 8: "Q"}
_ITEM_TAG: Final = b"\xfe\xff\x00\xe0"
_MAX_NESTED: Final = 16

# Tags, and between them the numbers of items from 1 on.
Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What an element has: bytes in little endian, or their digest where they are many."""

    vr: str
    length: int
    data: bytes
    encodings: tuple[str, ...]
    is_digest: bool = False

    def is_same(self, other: Value) -> bool:
        """Tell whether two values say the same."""
        # Of sequences the length counts items.
        if self.is_digest or other.is_digest or "SQ" in (self.vr, other.vr):
            return (self.length, self.data) == (other.length, other.data)
        vr = other.vr if self.vr == "UN" else self.vr
        if self.data == other.data and (vr not in TEXT_VRS or self.encodings == other.encodings):
            return True
        if vr in TEXT_VRS:
            return self._text(vr) == other._text(vr)
        return self.data.strip(b" \0") == other.data.strip(b" \0") and vr in STRING_VRS

    def _text(self, vr: str) -> str:
        return decode_text(self.data, self.encodings, vr).rstrip(" \0")

    def shown(self) -> str:
        """Return it for people; that can be patient data."""
        if self.vr == "SQ":
            return f"{self.length} items"
        if self.is_digest or self.vr not in STRING_VRS:
            some = "" if self.is_digest else f": {self.data[:16].hex(' ')}"
            return f"{self.length} bytes{some}"
        return repr(self._text(self.vr)[:64])


@dataclass(frozen=True, slots=True)
class Difference:
    """An element that is not the same; None on the side that does not have it."""

    path: Path
    ours: Value | None
    theirs: Value | None


@dataclass(frozen=True, slots=True)
class Contents:
    """A data set's elements by path; ``pixels`` is the SHA-256 of the pixel data, "" for none.

    That of encapsulated pixel data is of its fragments, without the offset table (PS3.5 §A.4).
    """

    elements: Mapping[Path, Value]
    pixels: str


def differences(ours: Contents, theirs: Contents) -> list[Difference]:
    """Return the elements that are not the same, pixel data left out."""
    found = []
    for path in sorted(ours.elements.keys() | theirs.elements.keys()):
        one, other = ours.elements.get(path), theirs.elements.get(path)
        if one is None or other is None or not one.is_same(other):
            found.append(Difference(path, one, other))
    return found


def contents(source: Source, encoding: Encoding) -> Contents:
    """Read a data set. Raises ConversionFailed where it is not well-formed, OSError."""
    return _Reader().read(source, encoding)


class _Reader:
    """Gathers the elements of a walk; the path to where it is stands on a stack."""

    def __init__(
        self, path: Path = (), encodings: tuple[str, ...] = encodings_of(b""), depth: int = 0
    ) -> None:
        self._elements: dict[Path, Value] = {}
        self._pixels = ""
        self._path = list(path)
        self._encodings = [encodings]
        self._depth = depth

    def read(self, source: Source, encoding: Encoding) -> Contents:
        for event in walk(source, encoding):
            match event:
                case Element():
                    self._element(source, event)
                case SequenceStart(tag):
                    self._path += (tag, 0)
                case ItemStart():
                    self._path[-1] += 1
                    self._encodings.append(self._encodings[-1])
                case ItemEnd():
                    self._encodings.pop()
                case SequenceEnd():
                    # How many items there are counts, empty ones too.
                    count = self._path.pop()
                    self._elements[*self._path] = Value("SQ", count, b"", ())
                    self._path.pop()
                case Encapsulated(start=start):
                    self._pixels = _digest(_fragments(source, start, encoding))
        return Contents(self._elements, self._pixels)

    def _element(self, source: Source, element: Element) -> None:
        tag, length, encoding = element.tag, element.length, element.data_set.encoding
        if tag == _SPECIFIC_CHARACTER_SET:
            self._encodings[-1] = encodings_of(source.read(element.start, length).strip(b" \0"))
        if tag in _NOT_COMPARED or tag & 0xFFFF == 0:
            return
        vr = element.vr if element.vr != b"UN" else implicit_vr(tag)
        if vr in (b"SQ", b"UN") and length and self._is_nested(source, element):
            return
        name = vr.decode("ascii", "replace").partition(" or ")[0]
        size = _NUMBER_BYTES.get(name, 1) if encoding.order == ">" and element.vr != b"UN" else 1
        pieces = _pieces(source, element.start, length, size)
        if tag == PIXEL_DATA and not self._path:
            self._pixels = _digest(pieces)
        elif length > _KEPT_BYTES:
            digest = _digest(pieces).encode()
            self._elements[*self._path, tag] = Value(name, length, digest, (), is_digest=True)
        else:
            data = b"".join(pieces)
            encodings = self._encodings[-1] if name in TEXT_VRS else ()
            self._elements[*self._path, tag] = Value(name, length, data, encodings)

    def _is_nested(self, source: Source, element: Element) -> bool:
        """Take a sequence apart that came as UN of defined length; tell whether it was one."""
        if self._depth >= _MAX_NESTED or source.read(element.start, 4) != _ITEM_TAG:
            return False
        # Of undefined length, its items are read as they are (PS3.5 §6.2.2).
        data = EXPLICIT_LITTLE.header(element.tag, b"UN", UNDEFINED)
        data += source.read(element.start, element.length)
        data += EXPLICIT_LITTLE.tag_and_length(SEQUENCE_END, 0)
        inner = _Reader((*self._path,), self._encodings[-1], self._depth + 1)
        try:
            found = inner.read(Memory(data), EXPLICIT_LITTLE)
        except ConversionFailed:
            return False
        self._elements.update(found.elements)
        return True


def _pieces(source: Source, start: int, length: int, size: int) -> Iterator[bytes]:
    """Yield a value in little endian; its numbers have ``size`` bytes."""
    for position in range(start, start + length, _PIECE_BYTES):
        piece = source.exactly(position, min(_PIECE_BYTES, start + length - position))
        if size == 1 or len(piece) % size:
            yield piece
        else:
            numbers = array.array(_TYPE_CODES[size], piece)
            numbers.byteswap()
            yield numbers.tobytes()


def _fragments(source: Source, position: int, encoding: Encoding) -> Iterator[bytes]:
    """Yield what the fragments of encapsulated pixel data hold, without the offset table."""
    is_first = True
    while True:
        head = source.exactly(position, 8)
        group, number, length = encoding.integers("HHI").unpack(head)
        position += 8
        if group << 16 | number == SEQUENCE_END:
            return
        if not is_first:
            yield from _pieces(source, position, length, 1)
        position += length
        is_first = False


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
