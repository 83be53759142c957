"""A walk over every element of a stored data set, and the headers that a new one is written with.

Nothing is decoded: values are named by where they lie, so that a data set can be written again
in another transfer syntax (PS3.5 Annex A) without a byte of any value being understood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from dicomnode.errors import ConversionFailed
from dicomnode.storage.encoding import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT,
    IMPLICIT_LITTLE,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
    Encoding,
    Window,
)

PIXEL_DATA: Final = 0x7FE0_0010

_MAX_DEPTH: Final = 64
_UN: Final = b"UN"
_SQ: Final = b"SQ"


class Source(Window):
    """The bytes of a data set in an open file."""

    def exactly(self, position: int, size: int) -> bytes:
        """Return ``size`` bytes. Raises ConversionFailed when there are fewer, OSError."""
        data = self.read(position, size)
        if len(data) != size:
            raise cut_short()
        return data


class Memory(Source):
    """A data set in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(-1, 0, len(data))
        self._data = data

    def read(self, position: int, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end."""
        return self._data[position : position + size]


def cut_short() -> ConversionFailed:
    """Return the error for a data set that ends inside of something."""
    return ConversionFailed("the stored data set is cut short")


def encoding_of(source: Source, transfer_syntax_uid: str) -> Encoding:
    """Return how the data set is really laid out.

    Little endian with and without VR is mixed up by enough senders for every toolkit to look.
    """
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return EXPLICIT_BIG
    vr = source.read(0, 6)[4:]
    # Without VR the first value would be 16 KiB or longer for its length to look like one.
    explicit = vr.isalpha() and (vr in SHORT_VRS or transfer_syntax_uid not in IMPLICIT)
    return EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE


@dataclass(slots=True)
class DataSet:
    """The data set, or one item of a sequence in it, while it is walked over.

    ``start`` tells it from all others; ``around`` is the one that holds it.
    """

    start: int
    around: DataSet | None
    encoding: Encoding


@dataclass(slots=True)
class Element:
    """An element with a value of ``length`` bytes at ``start``; ``vr`` is as in PS3.6.

    Of an implicit encoding that can be one such as ``b"US or SS"``.
    """

    data_set: DataSet
    tag: int
    vr: bytes
    start: int
    length: int


@dataclass(slots=True)
class Encapsulated:
    """Pixel data in fragments (PS3.5 §A.4); the value starts at ``start``, offset table first.

    At ``end`` the delimiter after the last fragment is over.
    """

    data_set: DataSet
    start: int
    end: int


@dataclass(slots=True)
class SequenceStart:
    """A sequence that has items or might have; its items are laid out as ``holder`` is."""

    tag: int
    vr: bytes
    holder: DataSet


class ItemStart:
    """An item of the innermost sequence begins."""


class ItemEnd:
    """The innermost item ends."""


class SequenceEnd:
    """The innermost sequence ends."""


Event = Element | Encapsulated | SequenceStart | ItemStart | ItemEnd | SequenceEnd


@dataclass(slots=True)
class _Level:
    """A sequence or a data set that is open; ``end`` is None where a delimiter ends it."""

    data_set: DataSet
    end: int | None
    is_sequence: bool


def walk(source: Source, encoding: Encoding, *, into_unknown: bool = False) -> Iterator[Event]:
    """Yield what the data set consists of, in order.

    With ``into_unknown`` the sequences of PS3.6 that come as UN of defined length are walked into,
    too. Raises ConversionFailed where it is no well-formed data set, OSError.
    """
    levels = [_Level(DataSet(0, None, encoding), source.size, False)]
    position = 0
    while levels:
        level = levels[-1]
        if level.end is not None and position >= level.end:
            if position > level.end:
                raise ConversionFailed("an element reaches beyond the item that holds it")
            levels.pop()
            if levels:
                yield SequenceEnd() if level.is_sequence else ItemEnd()
            continue
        if len(levels) > 2 * _MAX_DEPTH:
            raise ConversionFailed("sequences are nested too deeply")
        if level.is_sequence:
            tag, length = _item_header(source, position, level.data_set.encoding)
            position += 8
            if tag == SEQUENCE_END and level.end is None:
                levels.pop()
                yield SequenceEnd()
            elif tag == SEQUENCE_END and position == level.end:
                pass  # superfluous, but clear
            elif tag == ITEM:
                inner = DataSet(position, level.data_set, level.data_set.encoding)
                levels.append(_Level(inner, _end(position, length), False))
                yield ItemStart()
            else:
                raise ConversionFailed("a sequence holds something that is no item")
            continue
        if len(levels) == 1 and _is_padding(source, position):
            return
        element = _element(source, position, level.data_set)
        position = element.start
        if element.tag == ITEM_END and level.end is None:
            levels.pop()
            yield ItemEnd()
        elif element.tag == ITEM_END and position == level.end and len(levels) > 1:
            pass  # superfluous, but clear
        elif element.tag in (ITEM, ITEM_END, SEQUENCE_END):
            raise ConversionFailed("a data set holds a delimiter where none may be")
        elif element.tag == PIXEL_DATA and element.length == UNDEFINED:
            end = _after_fragments(source, position, level.data_set.encoding)
            yield Encapsulated(level.data_set, position, end)
            position = end
        elif _is_sequence(element, into_unknown):
            # PS3.5 §6.2.2: of undefined length, UN is a sequence in Implicit VR Little Endian.
            inner_encoding = IMPLICIT_LITTLE if element.vr == _UN else level.data_set.encoding
            holder = DataSet(position, level.data_set, inner_encoding)
            levels.append(_Level(holder, _end(position, element.length), True))
            yield SequenceStart(element.tag, element.vr, holder)
        else:
            position += element.length
            if position > source.size:
                raise cut_short()
            yield element


def _is_sequence(element: Element, into_unknown: bool) -> bool:
    """Tell whether there are items to walk into; UN hides that (PS3.5 §6.2.2)."""
    if element.length in (UNDEFINED, 0):
        return element.length == UNDEFINED
    hidden = into_unknown and element.vr == _UN and element.data_set.encoding.explicit
    return element.vr == _SQ or (hidden and implicit_vr(element.tag) == _SQ)


def _is_padding(source: Source, position: int) -> bool:
    """Tell whether only zeros are left, too few for an element: senders even out files so."""
    rest = source.size - position
    return rest < 8 and source.read(position, rest) == bytes(rest)


def _end(position: int, length: int) -> int | None:
    return None if length == UNDEFINED else position + length


def _item_header(source: Source, position: int, encoding: Encoding) -> tuple[int, int]:
    group, number, length = encoding.integers("HHI").unpack(source.exactly(position, 8))
    return group << 16 | number, length


def _element(source: Source, position: int, data_set: DataSet) -> Element:
    encoding = data_set.encoding
    head = source.exactly(position, 8)
    group, number = encoding.integers("HH").unpack_from(head)
    tag = group << 16 | number
    if not encoding.explicit or group == 0xFFFE:
        (length,) = encoding.integers("I").unpack_from(head, 4)
        return Element(data_set, tag, implicit_vr(tag), position + 8, length)
    vr = head[4:6]
    if vr in SHORT_VRS:
        (length,) = encoding.integers("H").unpack_from(head, 6)
        return Element(data_set, tag, vr, position + 8, length)
    if not vr.isalpha():
        # No VR at all; read with a short length, as pydicom and DCMTK do.
        (length,) = encoding.integers("H").unpack_from(head, 6)
        return Element(data_set, tag, _UN, position + 8, length)
    (length,) = encoding.integers("I").unpack(source.exactly(position + 8, 4))
    return Element(data_set, tag, vr, position + 12, length)


def _after_fragments(source: Source, position: int, encoding: Encoding) -> int:
    while True:
        tag, length = _item_header(source, position, encoding)
        position += 8
        if tag == SEQUENCE_END:
            return position
        if tag != ITEM or length == UNDEFINED:
            raise ConversionFailed("the compressed pixel data holds something that is no fragment")
        position += length


@lru_cache(maxsize=4096)
def implicit_vr(tag: int) -> bytes:
    """Return the VR of an element that comes without (PS3.6); UN for what is not known."""
    group, number = tag >> 16, tag & 0xFFFF
    if number == 0:
        return b"UL"
    if group & 1:
        return b"LO" if 0x10 <= number <= 0xFF else _UN  # a private creator (PS3.5 §7.8.1)
    # Late: who only wants to know what can be converted need not wait for pydicom.
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag).encode()
    except KeyError:
        return _UN
