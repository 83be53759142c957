"""Data sets on their way out that are too long for one piece of memory."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Final

from dicomnode.errors import Unreadable
from dicomnode.storage.disk import OpenFile

# Data sets up to this are read whole, longer ones in pieces of it.
PIECE_BYTES: Final = 1024 * 1024


class Pieces:
    """A long data set, read one piece ahead; a ``channel.DataSetSource``.

    It is ``size`` bytes of ``file`` from ``offset`` on, and ``padding``; ``threads`` read them.
    """

    def __init__(
        self, file: OpenFile, offset: int, size: int, threads: Executor | None, padding: bytes = b""
    ) -> None:
        self._file = file
        self._padding = padding
        self._position = offset
        self._end = offset + size
        self._threads = threads
        self._ahead: asyncio.Future[bytes] | None = None

    async def read(self) -> bytes:
        """Return the next piece, b"" after the last. Raises Unreadable, OSError."""
        ahead = self._ahead or self._begin()
        if ahead is None:
            padding, self._padding = self._padding, b""
            return padding
        piece = await ahead
        if not piece:
            raise Unreadable("the file is shorter than it was")
        self._position += len(piece)
        self._ahead = self._begin()
        return piece

    def _begin(self) -> asyncio.Future[bytes] | None:
        size = min(PIECE_BYTES, self._end - self._position)
        if size == 0:
            return None
        loop = asyncio.get_running_loop()
        ahead = loop.run_in_executor(self._threads, self._file.read, size, self._position)
        # Nobody asks for its error when the message is given up.
        ahead.add_done_callback(lambda done: done.cancelled() or done.exception())
        return ahead


class InTurns:
    """A data set in memory, ``size`` bytes at a time, others having their turn in between."""

    def __init__(self, data_set: bytes | memoryview, size: int) -> None:
        self._rest = memoryview(data_set)
        self._size = size

    async def read(self) -> memoryview:
        """Return the next piece, an empty one after the last."""
        await asyncio.sleep(0)
        piece, self._rest = self._rest[: self._size], self._rest[self._size :]
        return piece
