"""Where an export is written: a directory or a ZIP file, which are there whole or not at all.

Everything goes to a temporary name beside the final one. ZIP members are stored as they are: most
pixel data is compressed already, and what is not is read back as fast as the disk gives it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from dicomnode.errors import ExportFailed
from dicomnode.integrity import custody_file
from dicomnode.storage.disk import fsync_directory, rename_without_replacing, sync_filesystem

# The comment of a ZIP file that we wrote: with the SHA-256 (hex) of all that stands before it.
SEAL: Final = b"dicomnode, SHA-256 of all bytes before: "
DIGEST_CHARACTERS: Final = 64
# From here on a member's sizes do not fit into its header (APPNOTE.TXT 4.4.8).
_ZIP64_BYTES: Final = 0xFFFF_0000
_READ_BYTES: Final = 1024 * 1024
_REGULAR_FILE: Final = 0o100644 << 16
_UNIX: Final = 3
# Of a rename that replaces nothing, and of the hard link in its place: NFS, FAT, directories.
_NO_SUCH_RENAMING: Final = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Target(Protocol):
    """Takes the files of an export."""

    container: str

    def write(self, name: str, size: int, pieces: Iterable[bytes]) -> None:
        """Write a file; ``size`` is about how long it is. Raises OSError."""

    def finish(self) -> None:
        """Make all of it durable, under no name yet. Raises OSError."""


@contextmanager
def writing(path: Path) -> Iterator[Target]:
    """Give what is written in the block the name ``path``; what fails leaves nothing behind.

    A name that ends in .zip becomes a ZIP file, any other a directory. The block calls ``finish``.
    Raises ExportFailed, also when there is something of that name.
    """
    path = path.absolute()
    if os.path.lexists(path):
        raise ExportFailed(f"{path} is there already: nothing is ever written over")
    if not path.parent.is_dir():
        raise ExportFailed(f"there is no directory {path.parent}")
    is_zip = path.suffix.lower() == ".zip"
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with _ZipFile(part) if is_zip else _Directory(part) as target:
            yield target
        _name(part, path, is_directory=not is_zip)
    except OSError as error:
        if error.errno in _FULL:
            raise ExportFailed(
                f"no room for the export at {path.parent}: {error.strerror}; nothing was exported"
            ) from error
        raise
    finally:
        _remove(part)


def _name(part: Path, path: Path, *, is_directory: bool) -> None:
    try:
        rename_without_replacing(str(part), str(path))
    except FileExistsError:
        raise _came_into_being(path) from None
    except OSError as error:
        if error.errno not in _NO_SUCH_RENAMING:
            raise
        _rename_onto_own(part, path, is_directory=is_directory)
    fsync_directory(str(path.parent))


def _rename_onto_own(part: Path, path: Path, *, is_directory: bool) -> None:
    """Rename where that cannot be asked to replace nothing: onto something empty of our own."""
    try:
        if is_directory:
            path.mkdir()
        else:
            path.touch(exist_ok=False)
    except FileExistsError:
        raise _came_into_being(path) from None
    part.rename(path)


def _came_into_being(path: Path) -> ExportFailed:
    return ExportFailed(f"{path} has come into being meanwhile; nothing was exported")


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()


class _Directory:
    container = custody_file.DIRECTORY

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made = {path}

    def __enter__(self) -> _Directory:
        self._path.mkdir()
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, name: str, size: int, pieces: Iterable[bytes]) -> None:
        path = self._path / name
        if path.parent not in self._made:
            path.parent.mkdir(parents=True)
            self._made.add(path.parent)
        with path.open("xb", buffering=0) as file:
            for piece in pieces:
                _write(file, piece)

    def finish(self) -> None:
        sync_filesystem(str(self._path))


def _write(file: BinaryIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[file.write(rest) :]


class _ZipFile:
    container = custody_file.ZIP

    def __init__(self, path: Path) -> None:
        self._path = path
        self._moment = datetime.now(UTC).timetuple()[:6]

    def __enter__(self) -> _ZipFile:
        self._file = self._path.open("x+b")
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._zip.comment = SEAL + b"0" * DIGEST_CHARACTERS
        return self

    def __exit__(self, *error: object) -> None:
        # Closing writes the directory of the ZIP file, for which there may be no room either.
        with suppress(OSError, ValueError):
            self._zip.close()
        with suppress(OSError):
            self._file.close()

    def write(self, name: str, size: int, pieces: Iterable[bytes]) -> None:
        member = zipfile.ZipInfo(name, self._moment)
        member.create_system = _UNIX
        member.external_attr = _REGULAR_FILE
        member.file_size = size
        with self._zip.open(member, "w", force_zip64=size >= _ZIP64_BYTES) as file:
            for piece in pieces:
                file.write(piece)

    def finish(self) -> None:
        self._zip.close()
        self._file.flush()
        size = self._file.tell()
        digest = sealed_digest(self._file, size)
        self._file.seek(size - DIGEST_CHARACTERS)
        self._file.write(digest.encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def sealed_digest(file: BinaryIO, size: int) -> str:
    """Return the SHA-256 (hex) of all bytes of a file of ``size`` bytes before its own digest."""
    digest = hashlib.sha256()
    file.seek(0)
    left = size - DIGEST_CHARACTERS
    while left > 0 and (piece := file.read(min(left, _READ_BYTES))):
        digest.update(piece)
        left -= len(piece)
    return digest.hexdigest()
