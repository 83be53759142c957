"""Compressed pixel data into native frames, with pydicom's decoders (PS3.5 §8.2, Annex A.4)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dicomnode.errors import ConversionFailed

JPEG_BASELINE: Final = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
# What pydicom has decoders for. Video (PS3.5 §A.4.5 on) cannot be had as native frames.
COMPRESSED: Final = frozenset(
    f"1.2.840.10008.1.2.{suffix}"
    for suffix in (
        *("4.50", "4.51", "4.57", "4.70", "4.80", "4.81"),
        *("4.90", "4.91", "4.201", "4.202", "4.203", "5"),
    )
)

_MAX_FRAME_BYTES: Final = 256 * 1024 * 1024
_MAX_BITS_ALLOCATED: Final = 64
# Chrominance that native pixel data cannot have, or that the codec itself turns into RGB
# (PS3.3 §C.7.6.3.1.2).
_NOT_NATIVE: Final = frozenset(("YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"))


@dataclass(frozen=True, slots=True)
class ImagePixels:
    """What the Image Pixel module says of pixel data (PS3.3 §C.7.6.3)."""

    rows: int
    columns: int
    samples_per_pixel: int
    photometric_interpretation: str
    planar_configuration: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    number_of_frames: int

    @property
    def frame_bytes(self) -> int:
        """The length of one native frame."""
        return self.rows * self.columns * self.samples_per_pixel * (self.bits_allocated // 8)


@dataclass(frozen=True, slots=True)
class NativePixels:
    """Decoded pixel data of ``length`` bytes, little endian; the attributes describe it anew."""

    frames: Iterator[bytes]
    length: int
    photometric_interpretation: str
    planar_configuration: int


def decode(
    fd: int, start: int, pixels: ImagePixels, transfer_syntax_uid: str, max_bytes: int
) -> NativePixels:
    """Begin to decode the encapsulated pixel data whose value is at ``start`` of an open file.

    One frame at a time is in memory. Raises ConversionFailed, and so do the frames.
    """
    _check(pixels, max_bytes)
    frames = _frames(fd, start, pixels, transfer_syntax_uid)
    first, described = next(frames, (b"", {}))
    return NativePixels(
        _all_alike(first, frames, pixels),
        pixels.frame_bytes * pixels.number_of_frames,
        str(described.get("photometric_interpretation", pixels.photometric_interpretation)),
        int(described.get("planar_configuration", 0)),
    )


def _check(pixels: ImagePixels, max_bytes: int) -> None:
    if not 0 < pixels.bits_allocated <= _MAX_BITS_ALLOCATED or pixels.bits_allocated % 8:
        raise ConversionFailed(f"pixels of {pixels.bits_allocated} bits cannot be decoded")
    if pixels.frame_bytes == 0 or pixels.number_of_frames < 1:
        raise ConversionFailed("the image has no rows, no columns, or no frames")
    if pixels.frame_bytes > _MAX_FRAME_BYTES:
        raise ConversionFailed(f"a frame of {pixels.frame_bytes} bytes is too large to decode")
    if pixels.frame_bytes * pixels.number_of_frames > max_bytes:
        total = pixels.frame_bytes * pixels.number_of_frames
        raise ConversionFailed(f"decoded it would have {total} bytes, more than {max_bytes}")


def _frames(
    fd: int, start: int, pixels: ImagePixels, transfer_syntax_uid: str
) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
    try:
        # numpy and the codecs take their time; a node that converts nothing never loads them.
        import numpy as np
        from pydicom.pixels.decoders.base import get_decoder
    except ImportError as error:
        raise _no_decoder(transfer_syntax_uid) from error
    decoder = get_decoder(transfer_syntax_uid)
    if not decoder.is_available:
        raise _no_decoder(transfer_syntax_uid)
    interpretation = pixels.photometric_interpretation
    lossy_jpeg = transfer_syntax_uid in (JPEG_BASELINE, JPEG_EXTENDED)
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(start)
        try:
            frame: np.ndarray
            for frame, described in decoder.iter_array(
                file,
                # Full resolution luminance and chrominance can be native, but only after lossy
                # JPEG is it common that viewers expect RGB; of lossless codecs nothing is changed.
                as_rgb=interpretation in _NOT_NATIVE or lossy_jpeg,
                rows=pixels.rows,
                columns=pixels.columns,
                samples_per_pixel=pixels.samples_per_pixel,
                photometric_interpretation=interpretation,
                planar_configuration=pixels.planar_configuration,
                bits_allocated=pixels.bits_allocated,
                bits_stored=pixels.bits_stored,
                pixel_representation=pixels.pixel_representation,
                number_of_frames=pixels.number_of_frames,
                pixel_keyword="PixelData",
                # Bits above Bits Stored stay as they are: there may be overlays in them.
                correct_unused_bits=False,
            ):
                # Codecs give a byte for what is stored in no more bits.
                bits = max(frame.dtype.itemsize * 8, pixels.bits_allocated)
                dtype = f"<{frame.dtype.kind}{bits // 8}"
                yield frame.astype(dtype, copy=False).tobytes(), described
        except ConversionFailed:
            raise
        except MemoryError:
            raise ConversionFailed("decoding needs too much memory") from None
        except Exception as error:
            # Codecs raise whatever they like for bytes that they do not understand.
            raise ConversionFailed(f"the pixel data cannot be decoded: {_short(error)}") from error


def _all_alike(
    first: bytes, others: Iterator[tuple[bytes, Mapping[str, Any]]], pixels: ImagePixels
) -> Iterator[bytes]:
    count = 0
    frame = first
    while frame:
        if len(frame) != pixels.frame_bytes:
            raise ConversionFailed(
                f"a decoded frame has {len(frame)} bytes instead of {pixels.frame_bytes}"
            )
        count += 1
        if count > pixels.number_of_frames:
            break
        yield frame
        frame, _ = next(others, (b"", {}))
    if count != pixels.number_of_frames:
        raise ConversionFailed(
            f"the pixel data does not hold the {pixels.number_of_frames} frames that it should"
        )


def _no_decoder(transfer_syntax_uid: str) -> ConversionFailed:
    from pydicom._uid_dict import UID_dictionary

    name = UID_dictionary[transfer_syntax_uid][0]
    return ConversionFailed(
        f"no decoder for {name} is installed",
        "Install the decoders on the node (pip install 'dicomnode[codecs]'), and restart it.",
    )


def _short(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return words[:200] or type(error).__name__
