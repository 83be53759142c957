"""Received objects as Part 10 files (PS3.10 §7)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from dicomnode.dimse.status import Status
from dicomnode.errors import StatusError
from dicomnode.scu.receiving import Receive, ReceivedObject
from dicomnode.storage.disk import disk_errors, write_all
from dicomnode.storage.part10 import file_meta
from dicomnode.storage.paths import valid_uid


def into(directory: str | os.PathLike[str], *, source_ae_title: str = "") -> Receive:
    """Return a ``Receive`` that writes ``<SOP Instance UID>.dcm`` files into ``directory``.

    Files that are there already are replaced. What cannot be written is answered with A700H.
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

    The file has its name once it is whole: ``put`` is given its temporary path and its final one,
    and by default replaces a file that was there. ``on_piece`` is given what is written. Both are
    called in threads. Raises OutOfResources, AssociationAborted, and what ``put`` does.
    """
    part = path.with_name(f".{path.name}.{token_hex(8)}.part")
    meta = file_meta(
        arriving.sop_class_uid,
        arriving.sop_instance_uid,
        arriving.transfer_syntax_uid,
        source_ae_title=source_ae_title,
    )
    size = 0
    fd = await asyncio.to_thread(_create, part, meta)
    try:
        try:
            async for piece in arriving:
                size += len(piece)
                await asyncio.to_thread(_write, fd, piece, on_piece)
        finally:
            os.close(fd)
        await asyncio.to_thread(_put, part, path, put)
    except BaseException:
        await asyncio.to_thread(_remove, part)
        raise
    return size


def _create(path: Path, content: bytes) -> int:
    with disk_errors():
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        write_all(fd, [content])
    return fd


def _write(fd: int, piece: bytes, on_piece: Callable[[bytes], object]) -> None:
    with disk_errors():
        write_all(fd, [piece])
    on_piece(piece)


def _put(part: Path, path: Path, put: Callable[[Path, Path], None]) -> None:
    with disk_errors():
        put(part, path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
