"""How data sets are laid out as bytes, for all that read or write them (PS3.5 §7.1, Annex A)."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
# GE: pixels big endian, elements not.
GE_BIG_ENDIAN_PIXELS: Final = "1.2.840.113619.5.2"
_PAPYRUS_3: Final = "1.2.840.10008.1.20"  # retired
# Transfer syntaxes without VRs.
IMPLICIT: Final = frozenset((IMPLICIT_VR_LITTLE_ENDIAN, _PAPYRUS_3, GE_BIG_ENDIAN_PIXELS))

UNDEFINED: Final = 0xFFFF_FFFF
ITEM: Final = 0xFFFE_E000
ITEM_END: Final = 0xFFFE_E00D
SEQUENCE_END: Final = 0xFFFE_E0DD

# PS3.5 Table 7.1-2: these have a 16-bit length, every other VR, known or to come, a 32-bit one.
SHORT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
MAX_SHORT_LENGTH: Final = 0xFFFE

WINDOW_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are laid out: with or without VR, and in which byte order ("<" or ">")."""

    explicit: bool
    order: str

    def integers(self, layout: str) -> struct.Struct:
        """Return the struct of ``layout`` in this byte order."""
        return _struct(self.order + layout)

    def tag_and_length(self, tag: int, length: int) -> bytes:
        """Return an item's or a delimiter's header (PS3.5 §7.5)."""
        return self.integers("HHI").pack(tag >> 16, tag & 0xFFFF, length)

    def header(self, tag: int, vr: bytes, length: int) -> bytes:
        """Return an element's header; a VR of 16-bit length must fit, see ``fits``."""
        if not self.explicit:
            return self.tag_and_length(tag, length)
        if vr in SHORT_VRS:
            return self.integers("HH2sH").pack(tag >> 16, tag & 0xFFFF, vr, length)
        return self.integers("HH2sHI").pack(tag >> 16, tag & 0xFFFF, vr, 0, length)

    def fits(self, vr: bytes, length: int) -> bool:
        """Tell whether a value of ``length`` bytes can be written with its VR (PS3.5 §6.2.2)."""
        return not self.explicit or vr not in SHORT_VRS or length <= MAX_SHORT_LENGTH


@lru_cache(maxsize=16)
def _struct(layout: str) -> struct.Struct:
    return struct.Struct(layout)


IMPLICIT_LITTLE: Final = Encoding(False, "<")
EXPLICIT_LITTLE: Final = Encoding(True, "<")
EXPLICIT_BIG: Final = Encoding(True, ">")


class Elements:
    """Writes elements in one uncompressed transfer syntax (PS3.5 §7.1)."""

    def __init__(self, transfer_syntax_uid: str) -> None:
        self.order = ">" if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN else "<"
        self.explicit = transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN
        self._tag = struct.Struct(self.order + "HH")
        self._short = struct.Struct(self.order + "H")
        self._long = struct.Struct(self.order + "I")

    def element(self, tag: int, vr: str, value: bytes) -> bytes:
        """Return a whole element; ``value`` is padded here."""
        return self.writer(tag, vr)(value)

    def writer(self, tag: int, vr: str) -> Callable[[bytes], bytes]:
        """Return what makes a whole element of a value."""
        head = self._tag.pack(tag >> 16, tag & 0xFFFF)
        pad = b"\0" if vr in ("UI", "OB", "UN") else b" "
        pack = self._long.pack
        limit = 0xFFFF_FFFE
        if self.explicit and tag != ITEM:
            if vr.encode() in SHORT_VRS:
                head, pack, limit = head + vr.encode(), self._short.pack, MAX_SHORT_LENGTH
            else:
                head += vr.encode() + b"\0\0"

        def write(value: bytes) -> bytes:
            if len(value) > limit:
                value = value[:limit].rpartition(b"\\")[0]
            if len(value) & 1:
                value += pad
            return head + pack(len(value)) + value

        return write

    def items(self, tag: int, items: Iterable[bytes]) -> bytes:
        """Return a sequence of items whose elements are given."""
        return self.element(tag, "SQ", b"".join(self.element(ITEM, "", item) for item in items))

    def integer(self, value: int) -> bytes:
        """Return the value of a US."""
        return self._short.pack(value & 0xFFFF)


class Window:
    """Part of an open file, read through a window that moves over it.

    ``offset`` is where the part begins in the file, ``size`` how long it is; positions count from
    there. Small reads cost no system call each.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.fd = fd
        self.offset = offset
        self.size = size
        self._window = b""
        self._base = 0

    def read(self, position: int, size: int) -> bytes:
        """Return ``size`` bytes, fewer at the end. Raises OSError."""
        start = position - self._base
        if start >= 0 and start + size <= len(self._window):
            return self._window[start : start + size]
        wanted = max(0, min(max(size, WINDOW_BYTES), self.size - position))
        self._window = os.pread(self.fd, wanted, self.offset + position) if wanted else b""
        self._base = position
        return self._window[:size]


def deflated(data_set: bytes) -> bytes:
    """Return a data set as Deflated Explicit VR Little Endian has it, of even length (§A.5)."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = compressor.compress(data_set) + compressor.flush()
    return data + b"\0" * (len(data) & 1)


class InflatedTooLong(ValueError):
    """A deflated data set has more bytes than there is room for."""


def inflated(data: bytes, max_bytes: int) -> bytes:
    """Return a deflated data set inflated.

    Raises ValueError for one that is none, InflatedTooLong for one of more than ``max_bytes``.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data_set = inflater.decompress(data, max_bytes + 1)
    except zlib.error:
        raise ValueError("the data set is not deflated as it should be") from None
    if len(data_set) > max_bytes:
        raise InflatedTooLong(f"inflated the data set has more than {max_bytes} bytes")
    if not inflater.eof:
        raise ValueError("the data set is cut short")
    return data_set
