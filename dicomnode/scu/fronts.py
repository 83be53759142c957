"""What an object is, told from its first bytes: of members of archives, and of bare data sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dicomnode.errors import CannotUnderstand, Unreadable
from dicomnode.scu.objects import check_identity
from dicomnode.storage.encoding import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.storage.header import Header, read_front
from dicomnode.storage.part10 import is_part10, parse_file_meta

# As much as tells what an object is: the longest File Meta, and the first elements behind it.
FRONT_BYTES: Final = 320 * 1024
# The element behind SOP Instance UID (0008,0018): nothing beyond it is looked at.
_BEHIND_IDENTITY: Final = 0x0008_0019
# File Meta without preamble begins with its group length or its version.
_BARE_META: Final = (b"\x02\0\0\0", b"\x02\0\x01\0")
_PREAMBLE_AND_PREFIX: Final = bytes(128) + b"DICM"
_GROUP_8: Final = b"\x08\0"


@dataclass(frozen=True, slots=True)
class Front:
    """What an object is, and where its data set begins."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set_offset: int


def read_identity(front: bytes, *, is_whole: bool) -> Front:
    """Tell what the object is that begins with ``front``, of which ``FRONT_BYTES`` will do.

    It may lack preamble, or preamble and File Meta: then its data set has to begin with group
    0008, uncompressed in little endian. Raises Unreadable.
    """
    try:
        return _identity(front, is_whole)
    except CannotUnderstand as error:
        raise Unreadable(error.comment) from error


def _identity(front: bytes, is_whole: bool) -> Front:
    lacking = b""
    if not is_part10(front):
        if front[:2] == _GROUP_8:
            syntax = EXPLICIT_VR_LITTLE_ENDIAN if _has_vr(front) else IMPLICIT_VR_LITTLE_ENDIAN
            header = read_front(front, syntax, is_whole=is_whole, end=_BEHIND_IDENTITY)
            return _front(header, "", "", syntax, 0)
        if front[:4] not in _BARE_META:
            raise CannotUnderstand("no DICM prefix: not a DICOM file")
        lacking = _PREAMBLE_AND_PREFIX
    meta = parse_file_meta(lacking + front)
    offset = meta.data_set_offset - len(lacking)
    syntax = meta.transfer_syntax_uid
    try:
        header = read_front(front[offset:], syntax, is_whole=is_whole, end=_BEHIND_IDENTITY)
    except CannotUnderstand:
        header = None  # File Meta alone has to say it
    return _front(header, meta.sop_class_uid, meta.sop_instance_uid, syntax, offset)


def _has_vr(front: bytes) -> bool:
    return front[4:6].isalpha() and front[4:6].isupper()


def _front(
    header: Header | None, sop_class_uid: str, sop_instance_uid: str, syntax: str, offset: int
) -> Front:
    """Prefer what the data set says: where the File Meta says otherwise, that is wrong."""
    if header is not None:
        sop_class_uid = header.sop_class_uid or sop_class_uid
        sop_instance_uid = header.sop_instance_uid or sop_instance_uid
    check_identity(sop_class_uid, sop_instance_uid, syntax)
    return Front(sop_class_uid, sop_instance_uid, syntax, offset)
