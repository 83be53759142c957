"""Received objects as Part 10 files (PS3.10 §7)."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from dicomnode.dimse.status import Status
from dicomnode.errors import StatusError
from dicomnode.scu.receiving import Receive, ReceivedObject
from dicomnode.scu.threads import to_the_end
from dicomnode.storage.disk import disk_errors, write_all
from dicomnode.storage.part10 import file_meta
from dicomnode.storage.paths import valid_uid


def into(directory: str | os.PathLike[str], *, source_ae_title: str = "") -> Receive:
    """Return a ``Receive`` that writes ``<SOP Instance UID>.dcm`` files into ``directory``.

    The directory is made where it is not there; files that are there already are replaced. What
    cannot be written is answered with A700H.
    """
    folder = Path(directory)

    async def receive(arriving: ReceivedObject) -> None:
        uid = arriving.sop_instance_uid
        if not valid_uid(uid):
            raise StatusError("not a UID", status=Status.CANNOT_UNDERSTAND)
        await save(arriving, folder / f"{uid}.dcm", source_ae_title=source_ae_title)

    return receive


async def save(
    arriving: ReceivedObject,
    path: Path,
    *,
    source_ae_title: str = "",
    on_piece: Callable[[bytes], object] = lambda piece: None,
    put: Callable[[Path, Path], None] = os.replace,
) -> int:
    """Write an object to ``path`` as it arrives; return the bytes of its data set.

    Directories that it lacks are made. The file has its name once it is whole: ``put`` is given
    its temporary path and its final one, and by default replaces a file that was there.
    ``on_piece`` is given what is written. Both are called in threads. Raises OutOfResources,
    AssociationAborted, and what ``put`` does.
    """
    part = _Part(path.with_name(f".{path.name}.{token_hex(8)}.part"))
    meta = file_meta(
        arriving.sop_class_uid,
        arriving.sop_instance_uid,
        arriving.transfer_syntax_uid,
        source_ae_title=source_ae_title,
    )
    size = 0
    try:
        await to_the_end(part.create, meta)
        async for piece in arriving:
            size += len(piece)
            await to_the_end(part.write, piece, on_piece)
        await to_the_end(part.put, path, put)
    except BaseException:
        await to_the_end(part.remove)
        raise
    return size


class _Part:
    """A file that is being written, and has not its name yet; all of it blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def create(self, content: bytes) -> None:
        with disk_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o666)
            write_all(self._fd, [content])

    def write(self, piece: bytes, on_piece: Callable[[bytes], object]) -> None:
        with disk_errors():
            write_all(self._fd, [piece])
        on_piece(piece)

    def put(self, path: Path, put: Callable[[Path, Path], None]) -> None:
        with disk_errors():
            # Some filesystems tell only here that what was written does not fit.
            self._close()
            put(self._path, path)

    def remove(self) -> None:
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self._path.unlink()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
