"""The Part 10 wrapping around a stored data set (PS3.10 §7.1): preamble, prefix, File Meta."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from dataclasses import dataclass

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomnode.errors import CannotUnderstand

_PREAMBLE_AND_PREFIX = bytes(128) + b"DICM"
# File Meta is a few hundred bytes; private information (0002,0102) may make it longer.
_FIRST_READ_BYTES = 4096
_MAX_META_BYTES = 256 * 1024
_HASH_READ_BYTES = 1024 * 1024
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT"))

_SHORT_HEADER = struct.Struct("<HH2sH")
_LONG_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What File Meta says of the data set that starts at ``data_set_offset`` (bytes)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    source_ae_title: str
    data_set_offset: int


def file_meta(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    *,
    source_ae_title: str = "",
) -> bytes:
    """Return everything that precedes the data set in a Part 10 file.

    The preamble is zero; Source Application Entity Title (0002,0016) is left out when empty
    (PS3.10 Table 7.1-1).
    """
    elements = [
        _VERSION,
        _uid(0x0002, sop_class_uid),
        _uid(0x0003, sop_instance_uid),
        _uid(0x0010, transfer_syntax_uid),
        _IMPLEMENTATION,
    ]
    if source_ae_title:
        elements.append(_text(0x0016, b"AE", source_ae_title))
    group = b"".join(elements)
    length = b"\x02\x00\x00\x00UL\x04\x00" + _LONG_LENGTH.pack(len(group))
    return _PREAMBLE_AND_PREFIX + length + group


def _uid(element: int, value: str) -> bytes:
    data = value.encode("ascii", "replace")
    if len(data) & 1:
        data += b"\x00"
    return _SHORT_HEADER.pack(2, element, b"UI", len(data)) + data


def _text(element: int, vr: bytes, value: str) -> bytes:
    data = value.encode("ascii", "replace")
    if len(data) & 1:
        data += b" "
    return _SHORT_HEADER.pack(2, element, vr, len(data)) + data


_VERSION = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
_IMPLEMENTATION = _uid(0x0012, IMPLEMENTATION_CLASS_UID) + _text(
    0x0013, b"SH", IMPLEMENTATION_VERSION_NAME
)


def read_file_meta(fd: int) -> FileMeta:
    """Read the File Meta of an open file; the file position stays where it is.

    Raises CannotUnderstand when the file is no Part 10 file or names no transfer syntax.
    """
    head = os.pread(fd, _FIRST_READ_BYTES, 0)
    if len(head) == _FIRST_READ_BYTES and is_part10(head):
        with contextlib.suppress(CannotUnderstand):
            meta = parse_file_meta(head)
            # Only what follows the last element shows that it is the last.
            if meta.data_set_offset + _SHORT_HEADER.size <= len(head):
                return meta
        head += os.pread(fd, _MAX_META_BYTES - _FIRST_READ_BYTES, _FIRST_READ_BYTES)
    return parse_file_meta(head)


def is_part10(head: bytes) -> bool:
    """Tell whether the first bytes of a file are those of a Part 10 file."""
    return head[128:132] == b"DICM"


def parse_file_meta(head: bytes) -> FileMeta:
    """Read the File Meta at the beginning of ``head``; raises as ``read_file_meta``."""
    if not is_part10(head):
        raise CannotUnderstand("no DICM prefix: not a DICOM file")
    values, offset = _group_two(head)
    transfer_syntax_uid = _string(values.get(0x0010, b""))
    if not transfer_syntax_uid:
        raise CannotUnderstand("File Meta names no transfer syntax")
    return FileMeta(
        sop_class_uid=_string(values.get(0x0002, b"")),
        sop_instance_uid=_string(values.get(0x0003, b"")),
        transfer_syntax_uid=transfer_syntax_uid,
        source_ae_title=_string(values.get(0x0016, b"")),
        data_set_offset=offset,
    )


def _group_two(head: bytes) -> tuple[dict[int, bytes], int]:
    """Return the values of group 0002 by element number, and where the group ends.

    The group length (0002,0000) is relied on only where it ends the group after an element and
    the Transfer Syntax UID: files with a wrong one are common, and in others the data set begins
    with elements of group 0002.
    """
    values: dict[int, bytes] = {}
    position = 132
    end = 0
    while position + 8 <= len(head):
        group, element, vr, length = _SHORT_HEADER.unpack_from(head, position)
        if group != 2 or (position == end and 0x0010 in values):
            return values, position
        start = position + 8
        if vr in _LONG_VRS:
            if start + 4 > len(head):
                raise CannotUnderstand("File Meta is cut short")
            (length,) = _LONG_LENGTH.unpack_from(head, start)
            start += 4
        position = start + length
        if position > len(head):
            raise CannotUnderstand("File Meta is cut short or too long")
        values[element] = head[start:position]
        if element == 0 and length == 4:
            end = position + _LONG_LENGTH.unpack_from(head, start)[0]
    if len(head) >= _MAX_META_BYTES:
        raise CannotUnderstand("File Meta is too long")
    return values, position


def _string(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \x00")


def file_digest(path: str) -> str:
    """Return the SHA-256 (hex) of a file's data set, or of all of it when it is no Part 10 file.

    Raises OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            offset = read_file_meta(fd).data_set_offset
        except CannotUnderstand:
            offset = 0
        return digest_from(fd, offset)
    finally:
        os.close(fd)


def digest_from(fd: int, offset: int) -> str:
    """Return the SHA-256 (hex) of an open file from ``offset`` to its end. Raises OSError."""
    digest = hashlib.sha256()
    while chunk := os.pread(fd, _HASH_READ_BYTES, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


def both_digests(fd: int, offset: int) -> tuple[str, str]:
    """Return the SHA-256 (hex) of an open file from ``offset`` to its end, and of the whole.

    Reads it once. Raises OSError.
    """
    digest, whole = hashlib.sha256(), hashlib.sha256(os.pread(fd, offset, 0))
    while chunk := os.pread(fd, _HASH_READ_BYTES, offset):
        digest.update(chunk)
        whole.update(chunk)
        offset += len(chunk)
    return digest.hexdigest(), whole.hexdigest()
