"""Data sets that are read and written deflated, a piece at a time (PS3.5 §A.5)."""

from __future__ import annotations

import zlib
from typing import BinaryIO, Final

from dicomnode.errors import ConversionFailed
from dicomnode.storage.encoding import Window

_PIECE_BYTES: Final = 1024 * 1024


def inflate(source: Window, target: BinaryIO, max_bytes: int) -> int:
    """Write a deflated data set inflated; return its bytes. Raises ConversionFailed, OSError."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    position = written = 0
    try:
        while not inflater.eof:
            piece = inflater.unconsumed_tail
            if not piece:
                piece = source.read(position, _PIECE_BYTES)
                position += len(piece)
            data = inflater.decompress(piece, _PIECE_BYTES)
            written += target.write(data)
            if written > max_bytes:
                raise ConversionFailed(f"inflated it would have more than {max_bytes} bytes")
            if not piece and not data:
                raise ConversionFailed("the deflated data set is cut short")
    except zlib.error:
        raise ConversionFailed("the data set is not deflated as it should be") from None
    target.flush()
    return written


class Output:
    """Where the data set is written to, deflated on the way if it must be.

    Takes at most ``max_bytes``. Raises ConversionFailed for more, OSError.
    """

    def __init__(self, target: BinaryIO, max_bytes: int, *, deflated: bool) -> None:
        self._target = target
        self._room = max_bytes
        self._deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS) if deflated else None
        self._written = 0

    def write(self, data: bytes) -> None:
        """Write a piece of the data set."""
        self._put(self._deflate.compress(data) if self._deflate else data)

    def close(self) -> int:
        """Write what is left, and return how much there is of all."""
        if self._deflate:
            self._put(self._deflate.flush())
            if self._written & 1:
                self._put(b"\0")  # PS3.5 §A.5
        self._target.flush()
        return self._written

    def _put(self, data: bytes) -> None:
        self._written += len(data)
        if self._written > self._room:
            raise ConversionFailed(f"the data set would have more than {self._room} bytes")
        self._target.write(data)
