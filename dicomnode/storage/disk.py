"""Small blocking helpers around the operating system's file calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from types import TracebackType

from dicomnode.errors import OutOfResources

# Linux takes 1024 buffers in one writev (IOV_MAX).
_BUFFERS_PER_CALL = 1024

_WORDS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota exceeded",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.EIO: "disk input/output error",
    errno.EROFS: "storage is read-only",
    errno.EACCES: "storage is not writable",
    errno.EPERM: "storage is not writable",
    errno.ENOENT: "a file of the storage is missing",
}


class disk_errors:
    """Turn OSError into OutOfResources; the comment goes to peers and names no path.

    ``passing`` is let through as it is.
    """

    __slots__ = ("_passing",)

    def __init__(self, *, passing: type[OSError] | tuple[type[OSError], ...] = ()) -> None:
        self._passing = passing

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, self._passing):
            code = error.errno or 0
            words = _WORDS.get(code) or f"disk error {errno.errorcode.get(code, code)}"
            raise OutOfResources(words) from error


def write_all(fd: int, buffers: Sequence[memoryview | bytes]) -> int:
    """Write every byte of ``buffers`` at the file position; return how many. Raises OSError."""
    if len(buffers) <= _BUFFERS_PER_CALL:
        total = sum(map(len, buffers))
        written = os.writev(fd, buffers)
        if written != total:
            _write_rest(fd, buffers, written)
        return total
    step = _BUFFERS_PER_CALL
    return sum(write_all(fd, buffers[i : i + step]) for i in range(0, len(buffers), step))


def _write_rest(fd: int, buffers: Sequence[memoryview | bytes], written: int) -> None:
    """Write what a partial ``writev`` left of ``buffers``."""
    for buffer in buffers:
        if written >= len(buffer):
            written -= len(buffer)
            continue
        rest = memoryview(buffer)[written:]
        written = 0
        while rest:
            rest = rest[os.write(fd, rest) :]


def fsync_directory(path: str) -> None:
    """Make the entries of a directory survive power loss. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
