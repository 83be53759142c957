"""What ``send`` sends: objects in files, folders, ZIP files and the node's own store.

Each source yields what can be sent as ``Item``, and what cannot as ``Skipped``. All of it blocks.
"""

from __future__ import annotations

import asyncio
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from dicomnode.errors import Unreadable
from dicomnode.scu.objects import FileKind, Instance, file_instance, file_kind
from dicomnode.scu.sources import PIECE_BYTES, Pieces
from dicomnode.storage.disk import OpenFile
from dicomnode.storage.part10 import is_part10

if TYPE_CHECKING:
    from dicomnode.scu.fronts import Front

# No storage SOP class: a directory of other objects (PS3.4 Annex F).
_MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"
# Preamble and prefix (PS3.10 §7.1).
_PREFIX_END: Final = 132
_ZIP_PREFIX: Final = b"PK\x03\x04"
# Members are sent as they are read, so this bounds time and not memory.
_MAX_MEMBER_BYTES: Final = 64 * 1024**3
_ZIP_ERRORS: Final = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # encrypted, or a way of compressing that this Python lacks
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
)


@dataclass(frozen=True, slots=True)
class Item:
    """One object that can be sent; ``load`` opens it, as often as it is called."""

    name: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int
    load: Callable[[], Instance]

    @property
    def kind(self) -> tuple[str, str]:
        """SOP class and transfer syntax."""
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(frozen=True, slots=True)
class Skipped:
    """What is not sent; ``is_wanted`` tells that it should have been, and its absence is a failure.

    So is what was named on the command line, and a DICOM file that is damaged or cannot be read.
    """

    name: str
    why: str
    is_wanted: bool = False


Found = Iterator[Item | Skipped]


def named(path: Path) -> Found:
    """Yield what is found at a path of the command line: a file, a folder, or a ZIP file."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield Skipped(str(path), error.strerror or str(error), is_wanted=True)
        return
    if stat.S_ISDIR(mode):
        yield from _folder(path)
    elif not stat.S_ISREG(mode):
        yield Skipped(str(path), "neither a file nor a folder", is_wanted=True)
    elif _is_zip(path):
        yield from _archive(path)
    else:
        yield _file(str(path), is_wanted=True)


def _folder(root: Path) -> Found:
    """Yield what is below a folder, in the order of names; links are not followed out of it."""
    home = os.path.realpath(root)
    troubles: list[Skipped] = []

    def trouble(error: OSError) -> None:
        troubles.append(Skipped(str(error.filename), error.strerror or str(error), is_wanted=True))

    for where, folders, files in os.walk(root, onerror=trouble):
        folders.sort()
        for name in sorted(files):
            yield _inside(os.path.join(where, name), home)
        for name in folders:
            if os.path.islink(os.path.join(where, name)):
                yield Skipped(os.path.join(where, name), "a link to a folder")
    yield from troubles


def _inside(path: str, home: str) -> Item | Skipped:
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        return Skipped(path, error.strerror or str(error))
    if stat.S_ISLNK(mode):
        if os.path.commonpath((home, os.path.realpath(path))) != home:
            return Skipped(path, "a link out of the folder")
        # What it leads to is in the folder, and comes by itself.
        return Skipped(path, "a link within the folder")
    if not stat.S_ISREG(mode):
        return Skipped(path, "no file")
    return _file(path)


def _file(path: str, *, is_wanted: bool = False) -> Item | Skipped:
    load: Callable[[], Instance]
    try:
        kind = file_kind(path)
        load = partial(file_instance, path)
    except Unreadable as error:
        try:
            kind, load = _bare_file(path)
        except (OSError, Unreadable):
            why = str(error).removeprefix(f"{path}: ")
            return Skipped(path, why, is_wanted=is_wanted or not _is_foreign(path))
    if kind.sop_class_uid == _MEDIA_DIRECTORY:
        return Skipped(path, "a DICOMDIR: it is no object", is_wanted=is_wanted)
    return Item(
        path, kind.sop_class_uid, kind.sop_instance_uid, kind.transfer_syntax_uid, kind.size, load
    )


def _is_foreign(path: str) -> bool:
    """Tell whether a file does not even claim to be DICOM, and can be read so far."""
    try:
        return not is_part10(OpenFile.at(path).read(_PREFIX_END, 0))
    except OSError:
        return False


def _bare_file(path: str) -> tuple[FileKind, Callable[[], Instance]]:
    """Tell what a file holds that lacks preamble or File Meta. Raises OSError, Unreadable."""
    # Late, as below: most files need no look into their data sets, and it takes pydicom.
    from dicomnode.scu.fronts import FRONT_BYTES, read_identity

    file = OpenFile.at(path)
    size = os.fstat(file.fileno()).st_size
    front = read_identity(file.read(FRONT_BYTES, 0), is_whole=size <= FRONT_BYTES)
    kind = FileKind(
        path=Path(path),
        sop_class_uid=front.sop_class_uid,
        sop_instance_uid=front.sop_instance_uid,
        transfer_syntax_uid=front.transfer_syntax_uid,
        size=size - front.data_set_offset,
    )
    return kind, partial(_bare_instance, path, front)


def _bare_instance(path: str, front: Front) -> Instance:
    try:
        file = OpenFile.at(path)
        size = os.fstat(file.fileno()).st_size - front.data_set_offset
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror}") from error
    return Instance(
        sop_class_uid=front.sop_class_uid,
        sop_instance_uid=front.sop_instance_uid,
        transfer_syntax_uid=front.transfer_syntax_uid,
        data_set=Pieces(file, front.data_set_offset, size, None),
        size=size,
        path=os.path.abspath(path),
        offset=front.data_set_offset,
    )


# -- ZIP files ---------------------------------------------------------------------------------


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ZIP_PREFIX)) == _ZIP_PREFIX
    except OSError:
        return False


def _archive(path: Path) -> Found:
    """Yield the members of a ZIP file; their names are for messages only."""
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        yield Skipped(str(path), f"a damaged ZIP file: {error}", is_wanted=True)
        return
    for member in archive.infolist():
        if not member.filename.endswith("/"):
            yield _member(f"{path}!{member.filename}", archive, member)


def _member(name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Item | Skipped:
    from dicomnode.scu.fronts import FRONT_BYTES, read_identity

    if member.file_size > _MAX_MEMBER_BYTES:
        return Skipped(name, "too long")
    data = b""
    try:
        with archive.open(member) as file:
            data = file.read(FRONT_BYTES)
        front = read_identity(data, is_whole=member.file_size <= FRONT_BYTES)
    except Unreadable as error:
        return Skipped(name, str(error), is_wanted=is_part10(data))
    except _ZIP_ERRORS as error:
        return Skipped(name, f"cannot be unpacked: {error}", is_wanted=True)
    if front.sop_class_uid == _MEDIA_DIRECTORY:
        return Skipped(name, "a DICOMDIR: it is no object")
    size = member.file_size - front.data_set_offset
    return Item(
        name,
        front.sop_class_uid,
        front.sop_instance_uid,
        front.transfer_syntax_uid,
        size,
        partial(_member_instance, name, archive, member, front),
    )


def _member_instance(
    name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, front: Front
) -> Instance:
    try:
        unpacked = Unpacked(name, archive.open(member))
        unpacked.take(front.data_set_offset)
        size = member.file_size - front.data_set_offset
        whole = memoryview(unpacked.take(size)) if size <= PIECE_BYTES else None
    except _ZIP_ERRORS as error:
        raise Unreadable(f"{name}: cannot be unpacked: {error}") from error
    return Instance(
        sop_class_uid=front.sop_class_uid,
        sop_instance_uid=front.sop_instance_uid,
        transfer_syntax_uid=front.transfer_syntax_uid,
        data_set=unpacked if whole is None else whole,
        size=size,
    )


class Unpacked:
    """A long member on its way out; a ``channel.DataSetSource``."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._file = file

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes; raises EOFError when there are fewer."""
        data = self._file.read(size)
        if len(data) != size:
            raise EOFError("it is shorter than the ZIP file says")
        return data

    async def read(self) -> bytes:
        """Return the next piece, b"" after the last. Raises Unreadable."""
        try:
            return await asyncio.to_thread(self._file.read, PIECE_BYTES)
        except _ZIP_ERRORS as error:
            raise Unreadable(f"{self._name}: cannot be unpacked: {error}") from error
