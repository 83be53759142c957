"""Stored objects on their way out: the bytes of the file, or those of a conversion.

Small ones are read whole, in a thread, with one call; large ones in pieces, one ahead of the
network. Nothing is copied, and of the File Meta its length and transfer syntax are looked at.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from dicomnode.errors import CannotUnderstand, CatalogError, OutOfResources, Unreadable
from dicomnode.index.entry import InstanceRow
from dicomnode.scu.conversion import Converters
from dicomnode.scu.sources import PIECE_BYTES, Pieces
from dicomnode.services.verified_reads import VerifiedReads
from dicomnode.storage.disk import OpenFile
from dicomnode.storage.encoding import DEFLATED
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import read_file_meta

# Preamble, prefix, and File Meta Information Group Length (0002,0000) up to its value.
_PREFIX: Final = b"DICM\x02\x00\x00\x00UL\x04\x00"
_PREFIX_AT: Final = 128
_GROUP_LENGTH_AT: Final = _PREFIX_AT + len(_PREFIX)
_GROUP_LENGTH: Final = struct.Struct("<I")
# More than File Meta has, but for private information in it.
_FIRST_READ_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class Sendable:
    """A data set of ``size`` bytes that can be sent once."""

    data_set: memoryview | Pieces
    size: int


class StoredObjects:
    """Reads the archive's objects for sending.

    Those that ``verified`` wants to see are compared with what was received, for ``reader``, and
    not handed out where they are something else. Long ones, and those that are converted, are read
    for that before they are read for being sent.
    """

    def __init__(
        self,
        files: FileStore,
        converters: Converters,
        threads: Executor,
        verified: VerifiedReads | None = None,
        reader: str = "",
    ) -> None:
        self._verified = verified
        self._reader = reader
        self._files = files
        self._converters = converters
        self._threads = threads

    async def fetch(self, row: InstanceRow, transfer_syntax_uid: str) -> Sendable:
        """Return the data set of an object in a transfer syntax, ready to be sent.

        Raises Unreadable, ConversionFailed.
        """
        loop = asyncio.get_running_loop()
        offset, size = row.size_bytes - row.data_set_bytes, row.data_set_bytes
        if transfer_syntax_uid == row.transfer_syntax_uid:
            found = await loop.run_in_executor(self._threads, self._opened, row)
            if isinstance(found, OpenFile):
                return Sendable(Pieces(found, offset, size, self._threads, _padding(row)), size)
            return Sendable(found, size)
        await loop.run_in_executor(self._threads, self._checked, row)
        file, converted_size = await self._converters.convert(
            self._files.abs_path(row.path),
            offset,
            size,
            row.transfer_syntax_uid,
            transfer_syntax_uid,
        )
        return Sendable(Pieces(file, 0, converted_size, self._threads), converted_size)

    def _checked(self, row: InstanceRow) -> OpenFile:
        """Return the file of ``row``, which is what the index says."""
        with self._read_errors(row):
            return self._check(row)

    def _opened(self, row: InstanceRow) -> memoryview | OpenFile:
        """Return the whole data set, or for a long one its file."""
        with self._read_errors(row):
            return self._check(row) if row.data_set_bytes > PIECE_BYTES else self._read(row)

    def _check(self, row: InstanceRow) -> OpenFile:
        file = self._open_file(row)
        if self._verified is not None and self._verified.wants(row):
            self._verified.check_file(row)
        _check_meta(file, row, file.read(_FIRST_READ_BYTES, 0))
        return file

    def _read(self, row: InstanceRow) -> memoryview:
        file = self._open_file(row)
        data = file.read(row.size_bytes, 0)
        if len(data) != row.size_bytes:
            raise Unreadable("the file is shorter than it was")
        if self._verified is not None and self._verified.wants(row):
            self._verified.check_bytes(row, data)
        _check_meta(file, row, data)
        return memoryview(data + _padding(row))[row.size_bytes - row.data_set_bytes :]

    @contextmanager
    def _read_errors(self, row: InstanceRow) -> Iterator[None]:
        """Turn what goes wrong into Unreadable; a file that is not whole gets on the list."""
        try:
            with _read_errors():
                yield
        except Unreadable:
            if self._verified is not None:
                with _read_errors():
                    self._verified.failed(row, self._reader)
            raise

    def _open_file(self, row: InstanceRow) -> OpenFile:
        file = OpenFile(self._files.open_object(row.path))
        size = os.fstat(file.fileno()).st_size
        if size != row.size_bytes:
            raise Unreadable(f"the file has {size} bytes, {row.size_bytes} by the index")
        return file


def _padding(row: InstanceRow) -> bytes:
    """Return the null that follows a deflated data set of odd length (PS3.5 §A.5).

    Some that are received lack it; receivers that ask for even fragments would abort.
    """
    return b"\0" if row.transfer_syntax_uid == DEFLATED and row.data_set_bytes & 1 else b""


@contextmanager
def _read_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unreadable(f"the file cannot be read: {error.strerror}") from error
    except OutOfResources as error:
        raise Unreadable(error.comment) from error
    except CatalogError as error:
        raise Unreadable(f"the file cannot be compared with the index: {error}") from error


def _check_meta(file: OpenFile, row: InstanceRow, head: bytes) -> None:
    """Check that the data set begins where the index says, and is in that transfer syntax.

    Another object may have taken the place of the one that the index had. Raises Unreadable.
    """
    offset = row.size_bytes - row.data_set_bytes
    if head[_PREFIX_AT:_GROUP_LENGTH_AT] == _PREFIX and len(head) >= _GROUP_LENGTH_AT + 4:
        (length,) = _GROUP_LENGTH.unpack_from(head, _GROUP_LENGTH_AT)
        is_there = _GROUP_LENGTH_AT + 4 + length == offset
        if is_there and head.find(_transfer_syntax(row.transfer_syntax_uid), 0, offset) >= 0:
            return
    # Files that came otherwise than by C-STORE may have a wrong length, or none.
    try:
        meta = read_file_meta(file.fileno())
    except CannotUnderstand as error:
        raise Unreadable(f"the file is damaged: {error.comment}") from error
    if meta.data_set_offset != offset:
        raise Unreadable("the file's data set does not begin where the index says")
    if meta.transfer_syntax_uid != row.transfer_syntax_uid:
        raise Unreadable("the file is in another transfer syntax than the index says")


@lru_cache(maxsize=64)
def _transfer_syntax(uid: str) -> bytes:
    """Return Transfer Syntax UID (0002,0010) as File Meta has it."""
    value = uid.encode() + b"\0" * (len(uid) & 1)
    return b"\x02\x00\x10\x00UI" + len(value).to_bytes(2, "little") + value
