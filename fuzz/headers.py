"""Objects as they are received and as they stand in files (PS3.5 §7, PS3.10 §7.1)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from dicomnode.errors import CannotUnderstand, DicomnodeError
from dicomnode.index.entry import key_values
from dicomnode.index.keys import KEYS
from dicomnode.storage.encoding import WINDOW_BYTES
from dicomnode.storage.header import Header, read_front, read_header, read_to_end
from dicomnode.storage.part10 import file_meta, parse_file_meta
from tests.fuzz.recordings import recordings
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT
from tests.wire import CT_IMAGE_STORAGE

_SYNTAXES = (EXPLICIT, IMPLICIT, BIG, DEFLATED)


def seeds() -> Iterator[bytes]:
    """Yield the objects that were recorded, and a file."""
    for recording in recordings():
        for _, data in recording.data_sets():
            # Of the pixels a few are enough.
            for chosen in range(len(_SYNTAXES)):
                yield bytes([chosen]) + data[:600]
                yield bytes([chosen | 8]) + data[:600]
    yield b"\4" + file_meta(CT_IMAGE_STORAGE, "1.2.3", EXPLICIT, source_ae_title="CT_1")


def one(data: bytes) -> None:
    """Read a header, or do not understand it; what is read becomes a row of the index."""
    if not data:
        return
    syntax, content = _SYNTAXES[data[0] & 3], data[1:]
    if data[0] & 4:
        with contextlib.suppress(CannotUnderstand):
            parse_file_meta(content)
        return
    if data[0] & 8:
        # The first bytes of an object, more than which there would be.
        read_front(content.ljust(WINDOW_BYTES, b"\x20"), syntax, is_whole=False)
        return
    fd = os.memfd_create("object")
    try:
        os.write(fd, content)
        header = _understood(fd, content, syntax)
    finally:
        os.close(fd)
    if header is not None:
        key_values(header, KEYS)


def _understood(fd: int, content: bytes, syntax: str) -> Header | None:
    header = None
    with contextlib.suppress(CannotUnderstand):
        header = read_header(fd, 0, len(content), syntax)
    # What is read to its end has a header; it is the same one.
    with contextlib.suppress(DicomnodeError):
        whole = read_to_end(fd, 0, len(content), syntax)
        assert header is not None
        assert whole.sop_instance_uid == header.sop_instance_uid
    return header
