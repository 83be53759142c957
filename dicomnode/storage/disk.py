"""Small blocking helpers around the operating system's file calls."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from dicomnode.errors import OutOfResources

# Linux takes 1024 buffers in one writev (IOV_MAX).
_BUFFERS_PER_CALL = 1024
# For what one call writes Linux takes memory in one piece where it can: memory that nobody has used
# yet, which a virtual machine first has to get from its host. Small pieces are of what was freed.
_BYTES_PER_CALL = 16 * 1024

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


_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


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


def is_shortage(error: BaseException) -> bool:
    """Tell whether a file could not be read for what the process lacked: that is no fault of it.

    ``error`` is an OSError, or what ``disk_errors`` made of one.
    """
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in _SHORTAGES


def write_all(fd: int, buffers: Sequence[memoryview | bytes]) -> int:
    """Write every byte of ``buffers`` at the file position; return how many. Raises OSError."""
    total, lot, room = 0, list[memoryview](), _BYTES_PER_CALL
    for buffer in buffers:
        view = memoryview(buffer)
        total += len(view)
        while view:
            piece, view = view[:room], view[room:]
            lot.append(piece)
            room -= len(piece)
            if not room or len(lot) == _BUFFERS_PER_CALL:
                _write(fd, lot, _BYTES_PER_CALL - room)
                lot, room = [], _BYTES_PER_CALL
    if lot:
        _write(fd, lot, _BYTES_PER_CALL - room)
    return total


def _write(fd: int, buffers: Sequence[memoryview], size: int) -> None:
    written = os.writev(fd, buffers)
    if written != size:
        _write_rest(fd, buffers, written)


def _write_rest(fd: int, buffers: Sequence[memoryview], written: int) -> None:
    """Write what a partial ``writev`` left of ``buffers``."""
    for buffer in buffers:
        if written >= len(buffer):
            written -= len(buffer)
            continue
        rest = buffer[written:]
        written = 0
        while rest:
            rest = rest[os.write(fd, rest) :]


def begin_writing_back(fd: int, offset: int, size: int) -> None:
    """Have the system begin to bring these bytes of a file to the disk, without waiting for it.

    A flush that follows has less to do. Nothing is promised by it, and its failure means nothing:
    of writes that are lost the flush tells, as this does not look for errors (sync_file_range(2)).
    """
    if _sync_file_range is not None:
        _sync_file_range(fd, offset, size, _SYNC_FILE_RANGE_WRITE)


def fsync_directory(path: str) -> None:
    """Make the entries of a directory survive power loss. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class OpenDirectory:
    """A directory that is kept open; closed when the last thread that uses it lets go of it."""

    __slots__ = ("_fd",)

    def __init__(self, path: str) -> None:
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def flush(self) -> None:
        """Make its entries survive power loss. Raises OSError."""
        os.fsync(self._fd)

    def flush_filesystem(self) -> None:
        """Make everything on its filesystem survive power loss.

        Raises OSError, also for what was lost since the directory was opened; once for each loss.
        """
        if _syncfs is None:
            os.sync()
        elif _syncfs(self._fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        # Before Linux 5.17 syncfs keeps to itself that the filesystem's log has failed.
        os.fsync(self._fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            with suppress(OSError):
                os.close(self._fd)


class OpenFile:
    """A file open for reading; closed when the last one that uses it lets go of it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> OpenFile:
        """Open the file at ``path``. Raises OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def read(self, size: int, position: int) -> bytes:
        """Return up to ``size`` bytes at ``position``. Raises OSError."""
        return os.pread(self._fd, size, position)

    def fileno(self) -> int:
        """Return the file descriptor, to be used only while this object is held."""
        return self._fd

    def uncache(self) -> None:
        """Let the system forget what it has read of the file, where that can be asked for."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self._fd)


def sync_filesystem(path: str) -> None:
    """Make everything on the filesystem of the directory ``path`` durable. Raises OSError."""
    OpenDirectory(path).flush_filesystem()


def reports_lost_writes(path: str) -> bool:
    """Tell whether flushing the filesystem of ``path`` as a whole can be relied on.

    syncfs(2): Linux tells of writes that were lost since 5.8. Other filesystems than these may
    leave the flushing to somebody who is not asked.
    """
    if _syncfs is None or _statfs is None or _linux_version() < (5, 8):
        return False
    # struct statfs begins with the type; the rest is less than as much again as it ever was.
    answer = (ctypes.c_long * 64)()
    if _statfs(os.fsencode(path), ctypes.byref(answer)) != 0:
        return False
    return answer[0] in _LOCAL_FILESYSTEMS


def _linux_version() -> tuple[int, ...]:
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return tuple(map(int, numbers.groups())) if numbers else ()


def rename_without_replacing(source: str, target: str) -> None:
    """Rename a file, atomically, unless ``target`` exists.

    Raises FileExistsError and other OSErrors; then ``source`` still has its name.
    """
    if _renameat2 is not None:
        if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), 1) == 0:
            return
        code = ctypes.get_errno()
        # Filesystems without it, NFS for one, say so by these.
        if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(code, os.strerror(code), source, None, target)
    os.link(source, target)
    os.unlink(source)


_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)
# Linux's rename with RENAME_NOREPLACE (1), which Python does not offer.
_renameat2 = getattr(_libc, "renameat2", None)
_syncfs = getattr(_libc, "syncfs", None)
_statfs = getattr(_libc, "statfs", None)
_sync_file_range = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2
# The magic numbers of ext2 to ext4, XFS and Btrfs.
_LOCAL_FILESYSTEMS = (0xEF53, 0x5846_5342, 0x9123_683E)
