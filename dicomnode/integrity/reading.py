"""An export of unknown origin as files by name: a directory or a ZIP file.

Nothing is unpacked, no link is followed, and a name is never used to find a file unless it was
found in the directory itself.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Final, Protocol

from dicomnode.integrity.findings import Differs, Finding, Kind
from dicomnode.integrity.writing import DIGEST_CHARACTERS, SEAL, sealed_digest

_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_DEPTH: Final = 32
_STORED_OR_DEFLATED: Final = frozenset((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
_ENCRYPTED: Final = 0x1
# More than images shrink to: all that a ZIP file may unpack to, as a multiple of its own size.
_MAX_RATIO: Final = 64
_ALWAYS_ALLOWED_BYTES: Final = 64 * 1024 * 1024
# What zipfile raises for damaged files; some make it seek to where no file has anything.
_ZIP_ERRORS: Final = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # of which NotImplementedError is one
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class File(Protocol):
    """A file that is read from its beginning; reading raises OSError, and Differs for damage."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, b"" at the end."""

    def readline(self, size: int, /) -> bytes:
        """Return the next line, or ``size`` bytes of it."""


class Source(Protocol):
    """The files of an export; ``findings`` are about what is there and may not be."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """How long each file is, in bytes, by name."""

    findings: list[Finding]
    is_zip: bool

    def open(self, name: str) -> AbstractContextManager[File]:
        """Open one of ``sizes`` for reading; from any thread. Raises OSError, Differs."""

    def check_container(self, *, must_be_sealed: bool) -> None:
        """Check what is around the files. Raises Differs, OSError."""


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a directory or a ZIP file. Raises OSError, and Differs for a ZIP file that is none."""
    if stat.S_ISDIR(path.stat().st_mode):
        yield DirectorySource(path)
        return
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except _ZIP_ERRORS as error:
            raise Differs(Kind.CONTAINER, f"no ZIP file, or a damaged one: {error}") from None
        with archive:
            yield ZipSource(file, archive)


class DirectorySource:
    """A directory."""

    is_zip = False

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self.sizes: dict[str, int] = {}
        self.findings: list[Finding] = []
        self._list("", 0)

    def _list(self, folder: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            self.findings.append(Finding(Kind.ADDED, folder, "folders that were not exported"))
            return
        is_empty = True
        with os.scandir(os.path.join(self._root, folder)) as entries:
            for entry in entries:
                is_empty = False
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_symlink():
                    self.findings.append(Finding(Kind.ADDED, name, "a link: it is not followed"))
                elif entry.is_dir():
                    self._list(name, depth + 1)
                elif entry.is_file():
                    self.sizes[name] = entry.stat(follow_symlinks=False).st_size
                else:
                    self.findings.append(Finding(Kind.ADDED, name, "no regular file"))
        if is_empty and folder:
            self.findings.append(Finding(Kind.ADDED, folder, "an empty folder"))

    def open(self, name: str) -> AbstractContextManager[File]:
        """Open a file, which must still be one."""
        file = os.fdopen(os.open(os.path.join(self._root, name), _OPEN_FILE), "rb")
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise Differs(Kind.UNREADABLE, "no regular file")
        return file

    def check_container(self, *, must_be_sealed: bool) -> None:
        """A directory has nothing around its files."""


class ZipSource:
    """A ZIP file; what it says of its members is checked before one is read."""

    is_zip = True

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile) -> None:
        self._file = file
        self._archive = archive
        self._size = os.fstat(file.fileno()).st_size
        self._members: dict[str, zipfile.ZipInfo] = {}
        self.findings: list[Finding] = []
        for member in archive.infolist():
            if words := self._objection(member):
                self.findings.append(Finding(Kind.CONTAINER, member.filename, words))
            elif not (member.is_dir() and member.file_size == 0):
                self._members[member.filename] = member
        self.sizes = {name: member.file_size for name, member in self._members.items()}
        if sum(self.sizes.values()) > _MAX_RATIO * self._size + _ALWAYS_ALLOWED_BYTES:
            raise Differs(
                Kind.CONTAINER,
                f"it claims to unpack to more than {_MAX_RATIO} times its size, and is not read",
            )

    def _objection(self, member: zipfile.ZipInfo) -> str:
        if not member.filename:
            return "a file without a name"
        if member.filename in self._members:
            return "two files of one name"
        if member.flag_bits & _ENCRYPTED:
            return "it is encrypted"
        if member.compress_type not in _STORED_OR_DEFLATED:
            return "it is compressed in a way that is not read"
        if stat.S_ISLNK(member.external_attr >> 16):
            return "a link"
        return ""

    def open(self, name: str) -> AbstractContextManager[File]:
        """Open a member; reading it raises Differs where it is damaged."""
        try:
            return _Member(self._archive.open(self._members[name]))
        except _ZIP_ERRORS as error:
            raise _damaged(error) from None

    def check_container(self, *, must_be_sealed: bool) -> None:
        """Compare all bytes with the digest at the end, if the ZIP file has one or must."""
        end = len(SEAL) + DIGEST_CHARACTERS
        # Apart from the file that members are read from, at the same time.
        with open(self._file.name, "rb") as file:
            file.seek(max(0, self._size - end))
            seal, digest = (tail := file.read(end))[: len(SEAL)], tail[len(SEAL) :]
            if seal != SEAL:
                if must_be_sealed:
                    raise Differs(
                        Kind.CONTAINER,
                        "it is not the ZIP file that was exported; if it was unpacked and packed"
                        " again, unpack it and verify the directory",
                    )
                return
            if sealed_digest(file, self._size).encode() != digest:
                raise Differs(Kind.CONTAINER, "the ZIP file has been changed")


class _Member:
    """A member as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        try:
            return self._file.read(size)
        except _ZIP_ERRORS as error:
            raise _damaged(error) from None

    def readline(self, size: int, /) -> bytes:
        """Return the next line, or ``size`` bytes of it."""
        try:
            return self._file.readline(size)
        except _ZIP_ERRORS as error:
            raise _damaged(error) from None


def _damaged(error: Exception) -> Differs:
    return Differs(Kind.UNREADABLE, f"it cannot be unpacked: {error}")
