"""A bounded reader of the elements that precede the pixel data.

Walks the elements of a data set (PS3.5 §7) without decoding them, jumps over long values, and
stops where nothing follows that is wanted to be known. pydicom's full parse costs several times
the time that an object of a few kilobytes may take altogether.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from dicomnode.errors import CannotUnderstand
from dicomnode.storage.encoding import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
    WINDOW_BYTES,
    Window,
)
from dicomnode.storage.text import decode_text, encodings_of

# Tags from here on are not looked at: Content Sequence (0040,A730), waveforms, pixels.
HEADER_END: Final = 0x0040_A500
_NEVER: Final = 1 << 32
_MAX_ELEMENTS: Final = 200_000
_MAX_DEPTH: Final = 64
_MAX_ITEMS: Final = 256


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What is kept of a data set, in bytes; values longer than ``value`` are passed over."""

    value: int
    kept: int
    inflated: int
    private: bool


# Nothing that objects are searched for by is longer.
_OF_OBJECT: Final = _Bounds(16 * 1024, 1024 * 1024, 16 * 1024 * 1024, private=False)

_DEFLATED: Final = frozenset((DEFLATED, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"))


@dataclass(frozen=True, slots=True)
class _Layout:
    """How elements are laid out: with or without VR, and in which byte order."""

    explicit: bool
    short: struct.Struct
    implicit: struct.Struct
    length: struct.Struct
    us: struct.Struct


def _layout(explicit: bool, order: str) -> _Layout:
    return _Layout(
        explicit,
        struct.Struct(order + "HH2sH"),
        struct.Struct(order + "HHI"),
        struct.Struct(order + "I"),
        struct.Struct(order + "H"),
    )


_IMPLICIT_LITTLE = _layout(False, "<")
_EXPLICIT_LITTLE = _layout(True, "<")
_EXPLICIT_BIG = _layout(True, ">")


@dataclass(frozen=True, slots=True)
class Header:
    """Raw values by tag, as they stand in the data set (padding included), up to ``end``."""

    values: Mapping[int, bytes]
    encodings: tuple[str, ...]
    _layout: _Layout
    end: int = _NEVER

    @property
    def sop_class_uid(self) -> str:
        """SOP Class UID (0008,0016), "" when absent."""
        return self.uid(0x0008_0016)

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018), "" when absent."""
        return self.uid(0x0008_0018)

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID (0020,000D), "" when absent."""
        return self.uid(0x0020_000D)

    @property
    def series_instance_uid(self) -> str:
        """Series Instance UID (0020,000E), "" when absent."""
        return self.uid(0x0020_000E)

    def uid(self, tag: int) -> str:
        """Return a UID without its padding; not checked, see ``files.valid_uid``."""
        value = self.values.get(tag)
        return value.decode("ascii", "replace").strip(" \x00") if value else ""

    def text(self, tag: int, vr: str) -> str:
        """Return a string value in Unicode, without padding; "" when absent or empty.

        Bytes that the character set does not know become U+FFFD. Of a US the digits.
        """
        value = self.values.get(tag)
        if not value:
            return ""
        if vr == "US":
            numbers = self._layout.us.iter_unpack(value[: len(value) & ~1])
            return "\\".join(str(number) for (number,) in numbers)
        return decode_text(value, self.encodings, vr)

    def integer(self, tag: int, vr: str) -> int | None:
        """Return the first value of an IS or US; None when absent or no 32-bit number."""
        value = self.values.get(tag)
        if not value:
            return None
        if vr == "US":
            return self._layout.us.unpack_from(value)[0] if len(value) >= 2 else None
        try:
            number = int(value.split(b"\\", 1)[0].strip(b" \x00"))
        except ValueError:
            return None
        return number if -(2**31) <= number < 2**31 else None

    def items(self, tag: int) -> list[Header]:
        """Return the items of a sequence; [] when absent, too long, or malformed."""
        value = self.values.get(tag)
        if not value:
            return []
        try:
            return _items(_Bytes(value), self._layout, self.encodings)
        except CannotUnderstand:
            return []


def read_header(
    fd: int, offset: int, size: int, transfer_syntax_uid: str, end: int = HEADER_END
) -> Header:
    """Read the header of the data set of ``size`` bytes at ``offset`` of an open file.

    The file position stays where it is. Reading stops at the tag ``end``. Raises CannotUnderstand
    for anything that is not a well-formed data set up to there.
    """
    return _read(Window(fd, offset, size), transfer_syntax_uid, end)


def read_front(
    data: bytes, transfer_syntax_uid: str, *, is_whole: bool, end: int = HEADER_END
) -> Header | None:
    """Read as ``read_header``, from the first bytes of a data set or from all of them.

    None when more bytes are needed to tell. Raises CannotUnderstand when ``data`` is the whole.
    """
    if is_whole:
        return _read(_Bytes(data), transfer_syntax_uid, end)
    if len(data) < WINDOW_BYTES:
        return None
    try:
        return _read(_Front(data), transfer_syntax_uid, end)
    except (_Beyond, CannotUnderstand):
        return None


def read_to_end(fd: int, offset: int, size: int, transfer_syntax_uid: str) -> Header:
    """Read as ``read_header``, but walk on to the end, which must be that of an element.

    Raises CannotUnderstand for a data set that is cut short anywhere.
    """
    return _read(Window(fd, offset, size), transfer_syntax_uid, _NEVER)


def read_identifier(data: bytes, transfer_syntax_uid: str, max_bytes: int) -> Header:
    """Read all of an identifier, private elements too, of at most ``max_bytes`` when inflated.

    Raises CannotUnderstand.
    """
    bounds = _Bounds(max_bytes, max_bytes, max_bytes, private=True)
    return _read(_Bytes(data), transfer_syntax_uid, _NEVER, bounds)


def read_elements(
    fd: int, offset: int, size: int, transfer_syntax_uid: str, tags: Container[int], last: int
) -> tuple[bytes, bool, bool]:
    """Return the elements of ``tags``, none beyond ``last``; long ones are left out.

    As they stand in the data set; then whether they have VRs, and whether they are little endian.
    Of a damaged data set those before the damage. Raises CannotUnderstand for a deflated one.
    """
    source: _Source = Window(fd, offset, size)
    if transfer_syntax_uid in _DEFLATED:
        source = _Inflated(source, _OF_OBJECT.inflated)
    layout = _layout_of(source, transfer_syntax_uid)
    found, position = bytearray(), 0
    for _ in range(_MAX_ELEMENTS):
        try:
            tag, start, end = _extent(source, position, layout)
        except (CannotUnderstand, struct.error):
            break  # the end, or damage
        if tag > last or len(found) > _OF_OBJECT.kept:
            break
        if tag in tags and end - start <= WINDOW_BYTES:
            element = source.read(position, end - position)
            found += element if len(element) == end - position else b""
        position = end
    return bytes(found), layout.explicit, layout is not _EXPLICIT_BIG


def _extent(source: _Source, position: int, layout: _Layout) -> tuple[int, int, int]:
    """Return the tag of the element at ``position``, and where its value starts and ends."""
    head = source.read(position, 12)
    group, element, length = layout.implicit.unpack_from(head)
    vr, start = b"", position + 8
    if layout.explicit:
        vr, length = layout.short.unpack_from(head)[2:]
        if vr not in SHORT_VRS and vr.isalpha():
            (length,) = layout.length.unpack_from(head, 8)
            start += 4
    if length == UNDEFINED:
        return group << 16 | element, start, _end_of_sequence(source, start, layout, vr)
    return group << 16 | element, start, start + length


def _read(
    source: _Source, transfer_syntax_uid: str, stop: int, bounds: _Bounds = _OF_OBJECT
) -> Header:
    if transfer_syntax_uid in _DEFLATED:
        source = _Inflated(source, bounds.inflated)
    layout = _layout_of(source, transfer_syntax_uid)
    try:
        values, _ = _scan(source, 0, layout, stop, bounds)
    except struct.error:
        raise CannotUnderstand("the data set is cut short") from None
    encodings = encodings_of(values.get(0x0008_0005, b"").strip(b" \0"))
    return Header(values, encodings, layout, stop)


def _layout_of(source: _Source, transfer_syntax_uid: str) -> _Layout:
    """Return the layout of the transfer syntax, unless the first element plainly has another.

    Little endian with and without VR is mixed up by enough senders for every toolkit to look.
    """
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        return _EXPLICIT_BIG
    vr = source.read(0, 6)[4:]
    if transfer_syntax_uid in IMPLICIT:
        return _EXPLICIT_LITTLE if vr in SHORT_VRS else _IMPLICIT_LITTLE
    return _EXPLICIT_LITTLE if vr.isalpha() else _IMPLICIT_LITTLE


# -- where bytes come from ---------------------------------------------------------------------


class _Source(Protocol):
    """Bytes by position; a read past the end is short."""

    def read(self, position: int, size: int) -> bytes: ...


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, position: int, size: int) -> bytes:
        return self._data[position : position + size]


class _Beyond(Exception):
    """What is asked for has not arrived yet."""


class _Front:
    """The first bytes of something longer; what lies beyond them is not to be had."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, position: int, size: int) -> bytes:
        if position + size > len(self._data):
            raise _Beyond
        return self._data[position : position + size]


class _Inflated:
    """The front of a deflated data set (PS3.5 §A.5), inflated as far as it is asked for."""

    def __init__(self, source: _Source, max_bytes: int) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._position = 0
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._data = bytearray()

    def read(self, position: int, size: int) -> bytes:
        end = position + size
        while len(self._data) < end and not self._inflate.eof:
            if len(self._data) > self._max_bytes:
                raise CannotUnderstand("the deflated header is too long")
            chunk = self._inflate.unconsumed_tail or self._next_chunk()
            if not chunk:
                break
            try:
                self._data += self._inflate.decompress(chunk, WINDOW_BYTES)
            except zlib.error:
                raise CannotUnderstand("the data set is not deflated as it should be") from None
        return bytes(self._data[position:end])

    def _next_chunk(self) -> bytes:
        chunk = self._source.read(self._position, WINDOW_BYTES)
        self._position += len(chunk)
        return chunk


# -- walking -----------------------------------------------------------------------------------


def _scan(
    source: _Source, position: int, layout: _Layout, stop: int, bounds: _Bounds = _OF_OBJECT
) -> tuple[dict[int, bytes], int]:
    """Return the values within ``bounds`` up to the tag ``stop``, and where that stands.

    One loop, as it runs for every element of every object received. ``window`` holds the bytes
    at ``base``; ``at`` counts from there.
    """
    values: dict[int, bytes] = {}
    room, longest, odd = bounds.kept, bounds.value, 0 if bounds.private else 1
    base, at = position, 0
    window = source.read(base, WINDOW_BYTES)
    limit = len(window)
    last = limit < WINDOW_BYTES
    explicit = layout.explicit
    unpack_short, unpack_implicit = layout.short.unpack_from, layout.implicit.unpack_from
    vr = b""
    for _ in range(_MAX_ELEMENTS):
        if at + 12 > limit and not last:
            base, at = base + at, 0
            window = source.read(base, WINDOW_BYTES)
            limit = len(window)
            last = limit < WINDOW_BYTES
        if at >= limit:
            if at > limit or not last:
                raise CannotUnderstand("the data set is cut short")
            return values, base + at
        if explicit:
            group, element, vr, length = unpack_short(window, at)
            start = at + 8
            # Letters that are no short VR; what is no letters is read as a short VR, as
            # pydicom and DCMTK do.
            if vr not in SHORT_VRS and vr.isalpha():
                (length,) = layout.length.unpack_from(window, start)
                start += 4
        else:
            group, element, length = unpack_implicit(window, at)
            start = at + 8
        tag = group << 16 | element
        if tag >= stop:
            return values, base + at
        if length == UNDEFINED:
            end = _end_of_sequence(source, base + start, layout, vr) - base
            length = end - start - 8
        else:
            end = start + length
        if length <= longest and not group & odd:
            room -= length
            if room < 0:
                raise CannotUnderstand("the header is too long")
            if end <= limit:
                values[tag] = window[start : start + length]
            else:
                values[tag] = _exactly(source, base + start, length)
        at = end
    raise CannotUnderstand("the header has too many elements")


def _exactly(source: _Source, position: int, length: int) -> bytes:
    value = source.read(position, length)
    if len(value) != length:
        raise CannotUnderstand("the data set is cut short")
    return value


def _end_of_sequence(source: _Source, position: int, layout: _Layout, vr: bytes) -> int:
    """Return where a sequence of undefined length ends, its delimiter included.

    ``position`` is where its first item starts. Sequences and items of defined length are
    jumped over. Of undefined length they nest: ``open_items`` has the layout of each item that
    is open, and the one of the sequence around it.
    """
    layout = _IMPLICIT_LITTLE if vr == b"UN" else layout  # PS3.5 §6.2.2 note 2 (CP-246)
    layouts = [layout]
    in_item = False
    for _ in range(_MAX_ELEMENTS):
        head = source.read(position, 12)
        group, element, length = layout.implicit.unpack_from(head)
        tag = group << 16 | element
        position += 8
        if not in_item:
            if tag == SEQUENCE_END:
                layouts.pop()
                if not layouts:
                    return position
                layout, in_item = layouts[-1], True
            elif tag != ITEM:
                raise CannotUnderstand("a sequence holds something that is no item")
            elif length == UNDEFINED:
                in_item = True
            else:
                position += length
            continue
        if tag == ITEM_END:
            in_item = False
            continue
        vr = b""
        if layout.explicit:
            vr, length = layout.short.unpack_from(head)[2:]
            if vr not in SHORT_VRS and vr.isalpha():
                (length,) = layout.length.unpack_from(head, 8)
                position += 4
        if length != UNDEFINED:
            position += length
            continue
        if len(layouts) >= _MAX_DEPTH:
            raise CannotUnderstand("sequences are nested too deeply")
        layout = _IMPLICIT_LITTLE if vr == b"UN" else layout
        layouts.append(layout)
        in_item = False
    raise CannotUnderstand("a sequence has too many elements")


def _items(source: _Source, layout: _Layout, encodings: tuple[str, ...]) -> list[Header]:
    items: list[Header] = []
    position = 0
    while len(items) < _MAX_ITEMS:
        head = source.read(position, 8)
        if len(head) < 8:
            break
        group, element, length = layout.implicit.unpack_from(head)
        if group << 16 | element != ITEM:
            break
        position += 8
        if length == UNDEFINED:
            values, position = _element_values(source, position, layout)
            position += 8
        else:
            content = _Bytes(_exactly(source, position, length))
            values, _ = _element_values(content, 0, layout)
            position += length
        items.append(Header(values, encodings, layout))
    return items


def _element_values(
    source: _Source, position: int, layout: _Layout
) -> tuple[dict[int, bytes], int]:
    try:
        return _scan(source, position, layout, ITEM_END)
    except struct.error:
        raise CannotUnderstand("an item is cut short") from None
