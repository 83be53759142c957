"""What can be stored with a peer: files, Datasets, and data sets as they lie in memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomnode.dimse.channel import DataSetSource
from dicomnode.errors import CannotUnderstand, Unreadable
from dicomnode.scu.sources import PIECE_BYTES, Pieces
from dicomnode.storage.disk import OpenFile
from dicomnode.storage.encoding import DEFLATED, EXPLICIT_VR_LITTLE_ENDIAN
from dicomnode.storage.part10 import FileMeta, read_file_meta
from dicomnode.storage.paths import valid_uid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_IDENTITY = (0x0008_0016, 0x0008_0018)
# The same as they stand in a little endian data set, among its first elements.
_SOP_CLASS, _SOP_INSTANCE = b"\x08\0\x16\0", b"\x08\0\x18\0"
_FRONT_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An object to be sent: its data set of ``size`` bytes, and what it is.

    ``path`` and ``offset`` say where in a file the data set lies, if it does. A ``data_set``
    that is a source can be sent once.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: bytes | memoryview | DataSetSource
    size: int
    path: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """What a file holds: enough to propose contexts for it (a ``proposals.Kind`` and a UID)."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int

    @property
    def kind(self) -> tuple[str, str]:
        """SOP class and transfer syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid


def file_kind(path: str | os.PathLike[str]) -> FileKind:
    """Read what the Part 10 file at ``path`` holds; blocks. Raises Unreadable."""
    _, meta, size = _open(path)
    return FileKind(
        path=Path(path),
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        size=size,
    )


def file_instance(path: str | os.PathLike[str]) -> Instance:
    """Open the Part 10 file at ``path`` for sending its data set as it lies; blocks.

    Up to 1 MiB is read at once. Raises Unreadable.
    """
    file, meta, size = _open(path)
    data_set: memoryview | Pieces
    # A deflated data set of odd length is sent with the null that it lacks (PS3.5 §A.5).
    padding = b"\0" if meta.transfer_syntax_uid == DEFLATED and size & 1 else b""
    if size > PIECE_BYTES:
        data_set = Pieces(file, meta.data_set_offset, size, None, padding)
    else:
        data = _read(file, size, meta.data_set_offset, path)
        data_set = memoryview(data + padding if padding else data)
    return Instance(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        data_set=data_set,
        size=size,
        path=os.path.abspath(path),
        offset=meta.data_set_offset,
    )


def _open(path: str | os.PathLike[str]) -> tuple[OpenFile, FileMeta, int]:
    """Return the open file, what it says of itself, and the size of its data set."""
    try:
        file = OpenFile.at(path)
        meta = read_file_meta(file.fileno())
        size = os.fstat(file.fileno()).st_size - meta.data_set_offset
        front = file.read(_FRONT_BYTES, meta.data_set_offset)
        named = _names(front, _SOP_CLASS, meta.sop_class_uid)
        if not (named and _names(front, _SOP_INSTANCE, meta.sop_instance_uid)):
            meta = _identified(file, meta, size)
        check_identity(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    except CannotUnderstand as error:
        raise Unreadable(f"{path}: {error}") from error
    return file, meta, size


def _names(front: bytes, tag: bytes, uid: str) -> bool:
    """Tell whether a data set's first bytes plainly have ``uid`` as the value of ``tag``.

    The header of both elements is 8 bytes long in either little endian transfer syntax.
    """
    value = uid.encode("ascii", "replace")
    value += b"\0" * (len(value) & 1)
    at = front.find(value) if value else -1
    if at < 8 or front[at - 8 : at - 4] != tag:
        return False
    length = front[at - 2 : at] if front[at - 4 : at - 2] == b"UI" else front[at - 4 : at]
    return int.from_bytes(length, "little") == len(value)


def check_identity(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
    """Raise CannotUnderstand for an object that can be neither proposed nor named in a request.

    Proposed all the same, it would keep every other object from its association.
    """
    if not (sop_class_uid and sop_instance_uid):
        raise CannotUnderstand("it names no SOP class or no SOP instance")
    for what, uid in (
        ("SOP class", sop_class_uid),
        ("SOP instance", sop_instance_uid),
        ("transfer syntax", transfer_syntax_uid),
    ):
        if not valid_uid(uid):
            raise CannotUnderstand(f"its {what} is {uid!r}, which is no UID")


def _identified(file: OpenFile, meta: FileMeta, size: int) -> FileMeta:
    """Take from the data set what it is: where the File Meta says otherwise, that is wrong."""
    from dicomnode.storage.header import read_header

    header = read_header(file.fileno(), meta.data_set_offset, size, meta.transfer_syntax_uid)
    return replace(
        meta,
        sop_class_uid=header.sop_class_uid or meta.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid or meta.sop_instance_uid,
    )


def _read(file: OpenFile, size: int, offset: int, path: str | os.PathLike[str]) -> bytes:
    data = file.read(size, offset)
    if len(data) != size:
        raise Unreadable(f"{path}: the file is shorter than it was")
    return data


def dataset_instance(data_set: Dataset) -> Instance:
    """Write a pydicom Dataset in its own transfer syntax, for sending; blocks.

    Without one it is written in Explicit VR Little Endian. Raises ValueError.
    """
    from dicomnode.scu.datasets import encode

    meta: Any = getattr(data_set, "file_meta", None)
    syntax = str(getattr(meta, "TransferSyntaxUID", "") or EXPLICIT_VR_LITTLE_ENDIAN)
    sop_class_uid, sop_instance_uid = (
        str(data_set.get(tag, "") and data_set[tag].value) for tag in _IDENTITY
    )
    if not (sop_class_uid and sop_instance_uid):
        raise ValueError("the Dataset has no SOP Class UID or no SOP Instance UID")
    try:
        check_identity(sop_class_uid, sop_instance_uid, syntax)
    except CannotUnderstand as error:
        raise ValueError(f"the Dataset cannot be sent: {error.comment}") from None
    data = encode(data_set, syntax)
    return Instance(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        transfer_syntax_uid=syntax,
        data_set=data,
        size=len(data),
    )


async def instance_of(what: str | os.PathLike[str] | Dataset | Instance) -> Instance:
    """Return ``what`` ready for sending. Raises Unreadable, ValueError."""
    if isinstance(what, Instance):
        return what
    if isinstance(what, str | os.PathLike):
        return await asyncio.to_thread(file_instance, what)
    return await asyncio.to_thread(dataset_instance, what)


async def file_kinds(paths: Iterable[str | os.PathLike[str]]) -> list[FileKind]:
    """Return what each of ``paths`` holds. Raises Unreadable."""
    listed = list(paths)
    return await asyncio.to_thread(lambda: [file_kind(path) for path in listed])
