"""A stored data set in another transfer syntax (PS3.5 Annex A).

Values are copied as they are, and only numbers change their byte order: nothing is decoded into
text and back, so that neither odd characters nor malformed values get lost. Sequences and items
are written with undefined length, because then one pass is enough. Compressed pixel data becomes
native (``storage.pixels``). What is not kept: group lengths, which are retired and would be wrong.

Everything here blocks, works for long, and runs codecs on bytes from peers: it is meant for a
process of its own.
"""

from __future__ import annotations

import array
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from dicomnode.errors import ConversionFailed
from dicomnode.storage.deflation import Output, inflate
from dicomnode.storage.elements import (
    PIXEL_DATA,
    DataSet,
    Element,
    Encapsulated,
    Event,
    ItemEnd,
    ItemStart,
    SequenceEnd,
    SequenceStart,
    Source,
    encoding_of,
    walk,
)
from dicomnode.storage.encoding import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    GE_BIG_ENDIAN_PIXELS,
    IMPLICIT_LITTLE,
    IMPLICIT_VR_LITTLE_ENDIAN,
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    UNDEFINED,
    Encoding,
)
from dicomnode.storage.pixels import COMPRESSED, ImagePixels, NativePixels, decode

# What can be written; the last resort last.
_WRITTEN: Final[dict[str, Encoding]] = {
    EXPLICIT_VR_LITTLE_ENDIAN: EXPLICIT_LITTLE,
    IMPLICIT_VR_LITTLE_ENDIAN: IMPLICIT_LITTLE,
    DEFLATED: EXPLICIT_LITTLE,
    EXPLICIT_VR_BIG_ENDIAN: EXPLICIT_BIG,
}
_READ: Final = COMPRESSED | _WRITTEN.keys() | {GE_BIG_ENDIAN_PIXELS}

_PIECE_BYTES: Final = 1024 * 1024
_MAX_COMPRESSED_IMAGES: Final = 64

# Bytes of the numbers that a value consists of (PS3.5 §7.3).
_NUMBER_BYTES: Final[dict[bytes, int]] = {
    **dict.fromkeys((b"US", b"SS", b"OW", b"AT"), 2),
    **dict.fromkeys((b"UL", b"SL", b"FL", b"OF", b"OL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"SV", b"UV", b"OV"), 8),
}
_TYPE_CODES: Final = {2: "H", 4: "I", 8: "Q"}
# Padding to an even length (PS3.5 §6.2): NUL for these, space for other text.
_PADDED_BY_NUL: Final = frozenset(b"UI OB OW OD OF OL OV UN".split())

_LENGTH_TO_END: Final = 0x0008_0001
_SAMPLES_PER_PIXEL: Final = 0x0028_0002
_PHOTOMETRIC_INTERPRETATION: Final = 0x0028_0004
_PLANAR_CONFIGURATION: Final = 0x0028_0006
_NUMBER_OF_FRAMES: Final = 0x0028_0008
_ROWS: Final = 0x0028_0010
_COLUMNS: Final = 0x0028_0011
_BITS_ALLOCATED: Final = 0x0028_0100
_BITS_STORED: Final = 0x0028_0101
_PIXEL_REPRESENTATION: Final = 0x0028_0103
_FACTS: Final = frozenset(
    (
        *(_SAMPLES_PER_PIXEL, _PHOTOMETRIC_INTERPRETATION, _PLANAR_CONFIGURATION),
        *(_NUMBER_OF_FRAMES, _ROWS, _COLUMNS, _BITS_ALLOCATED, _BITS_STORED),
        _PIXEL_REPRESENTATION,
    )
)
_MAX_FACT_BYTES: Final = 64
_ITEM_TAG: Final = b"\xfe\xff\x00\xe0"
# Extended Offset Table, its lengths, and Encapsulated Pixel Data Value Total Length
_OF_FRAGMENTS: Final = frozenset((0x7FE0_0001, 0x7FE0_0002, 0x7FE0_0003))


def can_convert(stored: str, wanted: str) -> bool:
    """Tell whether data sets in the transfer syntax ``stored`` can be had in ``wanted``.

    A single one may be broken, or its decoder not installed: see ``convert``.
    """
    return wanted in _WRITTEN and stored in _READ


def convert(
    fd: int,
    offset: int,
    size: int,
    stored: str,
    wanted: str,
    target: BinaryIO,
    *,
    max_bytes: int,
    directory: str | None = None,
) -> int:
    """Write the data set of ``size`` bytes at ``offset`` of an open file to ``target``.

    Returns the bytes written, at most ``max_bytes``. A deflated one is inflated into a temporary
    file in ``directory`` first. Raises ConversionFailed with the reason, OSError.
    """
    if not can_convert(stored, wanted):
        raise ConversionFailed(f"{stored} cannot be converted to {wanted}")
    output = Output(target, max_bytes, deflated=wanted == DEFLATED)
    with tempfile.TemporaryFile(dir=directory) as inflated:
        source = Source(fd, offset, size)
        if stored == DEFLATED:
            source = Source(inflated.fileno(), 0, inflate(source, inflated, max_bytes))
        encoding = encoding_of(source, stored)
        plan = _Plan.of(walk(source, encoding), source, stored, max_bytes)
        writer = _Writer(source, plan, _WRITTEN[wanted], output, stored == GE_BIG_ENDIAN_PIXELS)
        for event in walk(source, encoding):
            writer.write(event)
    return output.close()


@dataclass(slots=True)
class _Plan:
    """What must be known of a data set before it can be written, by the start of each item.

    ``facts`` are values that the meaning of others depends on, ``native`` the pixel data that
    takes the place of compressed ones.
    """

    facts: dict[int, dict[int, bytes]] = field(default_factory=dict)
    native: dict[int, NativePixels] = field(default_factory=dict)

    @classmethod
    def of(
        cls, events: Iterator[Event], source: Source, transfer_syntax_uid: str, max_bytes: int
    ) -> _Plan:
        plan = cls()
        compressed: list[Encapsulated] = []
        for event in events:
            match event:
                case Element(tag=tag, length=length) if tag in _FACTS and length <= _MAX_FACT_BYTES:
                    value = source.exactly(event.start, length)
                    plan.facts.setdefault(event.data_set.start, {})[tag] = value
                case Element(tag=tag, start=start) if tag == PIXEL_DATA:
                    if transfer_syntax_uid in COMPRESSED and source.read(start, 4) == _ITEM_TAG:
                        raise ConversionFailed("the compressed pixel data has a defined length")
                case Encapsulated():
                    compressed.append(event)
        if len(compressed) > _MAX_COMPRESSED_IMAGES:
            raise ConversionFailed("the object holds too many compressed images")
        if compressed and transfer_syntax_uid not in COMPRESSED:
            raise ConversionFailed("the pixel data is compressed, the transfer syntax is not")
        for pixels in compressed:
            plan.native[pixels.data_set.start] = decode(
                source.fd,
                source.offset + pixels.start,
                plan.image_pixels(pixels.data_set),
                transfer_syntax_uid,
                max_bytes,
            )
        return plan

    def image_pixels(self, data_set: DataSet) -> ImagePixels:
        """Return the Image Pixel module of a data set that has pixel data."""
        allocated = self.number(data_set, _BITS_ALLOCATED)
        return ImagePixels(
            rows=self.number(data_set, _ROWS),
            columns=self.number(data_set, _COLUMNS),
            samples_per_pixel=self.number(data_set, _SAMPLES_PER_PIXEL, 1),
            photometric_interpretation=self.text(data_set, _PHOTOMETRIC_INTERPRETATION),
            planar_configuration=self.number(data_set, _PLANAR_CONFIGURATION),
            bits_allocated=allocated,
            bits_stored=self.number(data_set, _BITS_STORED, allocated),
            pixel_representation=self.number(data_set, _PIXEL_REPRESENTATION),
            number_of_frames=self._frames(data_set),
        )

    def _frames(self, data_set: DataSet) -> int:
        text = self.text(data_set, _NUMBER_OF_FRAMES)
        try:
            return int(text or 1) or 1  # 0 is common where there is one
        except ValueError:
            raise ConversionFailed("Number of Frames is no number") from None

    def number(self, data_set: DataSet, tag: int, default: int = 0) -> int:
        """Return the US value of ``tag`` in the data set itself."""
        value = self.facts.get(data_set.start, {}).get(tag, b"")
        if len(value) < 2:
            return default
        number: int = data_set.encoding.integers("H").unpack_from(value)[0]
        return number

    def text(self, data_set: DataSet, tag: int) -> str:
        """Return the CS or IS value of ``tag`` in the data set itself."""
        value = self.facts.get(data_set.start, {}).get(tag, b"")
        return value.decode("ascii", "replace").strip(" \0")

    def signed(self, data_set: DataSet) -> bool:
        """Tell whether pixels are signed, in the data set or the nearest one around it."""
        around: DataSet | None = data_set
        while around is not None:
            if _PIXEL_REPRESENTATION in self.facts.get(around.start, ()):
                return self.number(around, _PIXEL_REPRESENTATION) == 1
            around = around.around
        return False


class _Writer:
    """Writes the elements that a walk yields in the encoding ``wanted``."""

    def __init__(
        self,
        source: Source,
        plan: _Plan,
        wanted: Encoding,
        output: Output,
        pixels_are_big_endian: bool,
    ) -> None:
        self._source = source
        self._plan = plan
        self._wanted = wanted
        self._put = output.write
        self._pixels_are_big_endian = pixels_are_big_endian

    def write(self, event: Event) -> None:
        match event:
            case Element():
                self._element(event)
            case SequenceStart(tag=tag):
                self._put(self._wanted.header(tag, b"SQ", UNDEFINED))
            case ItemStart():
                self._put(self._wanted.tag_and_length(ITEM, UNDEFINED))
            case ItemEnd():
                self._put(self._wanted.tag_and_length(ITEM_END, 0))
            case SequenceEnd():
                self._put(self._wanted.tag_and_length(SEQUENCE_END, 0))
            case Encapsulated(data_set=data_set):
                self._pixels(self._plan.native[data_set.start], data_set)

    def _element(self, element: Element) -> None:
        tag = element.tag
        if tag & 0xFFFF == 0 or tag == _LENGTH_TO_END:
            return
        native = self._plan.native.get(element.data_set.start)
        if native is not None:
            if tag in _OF_FRAGMENTS:
                return
            if tag == _PHOTOMETRIC_INTERPRETATION:
                self._value(tag, b"CS", native.photometric_interpretation.encode())
                return
            if tag == _PLANAR_CONFIGURATION:
                value = self._wanted.integers("H").pack(native.planar_configuration)
                self._value(tag, b"US", value)
                return
        self._copy(element)

    def _copy(self, element: Element) -> None:
        wanted = self._wanted
        vr = self._vr(element)
        odd = element.length & 1
        number_bytes = _NUMBER_BYTES.get(vr, 1)
        if not wanted.fits(vr, element.length + odd):
            vr = b"UN"
        # The value of a UN is always little endian (PS3.5 §6.2.2).
        order = "<" if vr == b"UN" else wanted.order
        swapped = element.data_set.encoding.order != order
        if element.tag == PIXEL_DATA and self._pixels_are_big_endian:
            wide = self._plan.number(element.data_set, _BITS_ALLOCATED) > 8
            swapped = (order == "<") == wide
        self._put(wanted.header(element.tag, vr, element.length + odd))
        position, end = element.start, element.start + element.length
        while position < end:
            piece = self._source.exactly(position, min(_PIECE_BYTES, end - position))
            position += len(piece)
            self._put(_swap(piece, number_bytes) if swapped else piece)
        if odd:
            self._put(_padding(vr))

    def _vr(self, element: Element) -> bytes:
        """Return the VR to write; that of an implicit encoding can depend (PS3.5 §A.1, Annex A)."""
        vr = element.vr
        if len(vr) == 2:
            return vr
        if b"OW" in vr:
            return b"OW"
        return b"SS" if b"SS" in vr and self._plan.signed(element.data_set) else b"US"

    def _value(self, tag: int, vr: bytes, value: bytes) -> None:
        if len(value) & 1:
            value += _padding(vr)
        self._put(self._wanted.header(tag, vr, len(value)) + value)

    def _pixels(self, native: NativePixels, data_set: DataSet) -> None:
        odd = native.length & 1
        wide = self._plan.number(data_set, _BITS_ALLOCATED) > 8
        self._put(self._wanted.header(PIXEL_DATA, b"OW" if wide else b"OB", native.length + odd))
        swapped = wide and self._wanted.order == ">"
        for frame in native.frames:
            self._put(_swap(frame, 2) if swapped else frame)
        if odd:
            self._put(b"\0")


def _padding(vr: bytes) -> bytes:
    return b"\0" if vr in _PADDED_BY_NUL or vr in _NUMBER_BYTES else b" "


def _swap(data: bytes, number_bytes: int) -> bytes:
    """Reverse the byte order of each number; bytes that are left over at the end stay."""
    if number_bytes == 1:
        return data
    whole = len(data) // number_bytes * number_bytes
    numbers = array.array(_TYPE_CODES[number_bytes], data[:whole])
    numbers.byteswap()
    return numbers.tobytes() + data[whole:]
