"""The audit trail as a file: one message a line."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final


class AuditFile:
    """Appends to a file of its owner's alone; goes on with a new one when it was rotated away."""

    batch: Final = 500

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def deliver(self, messages: Sequence[bytes]) -> int:
        """Append, and make it durable; return 0. Raises OSError, and then nothing was appended."""
        try:
            fd = self._opened()
            before = os.fstat(fd).st_size
            lines = b"".join(message + b"\n" for message in messages)
            try:
                self._append(fd, lines)
            except OSError:
                os.ftruncate(fd, before)
                raise
        except OSError:
            self.close()
            raise
        return 0

    def _append(self, fd: int, lines: bytes) -> None:
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fdatasync(fd)

    def _opened(self) -> int:
        if self._fd is not None and not self._is_current(self._fd):
            self.close()
        if self._fd is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._fd = os.open(self._path, flags, 0o600)
            found = os.fstat(self._fd)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a file", str(self._path))
            # A crash may have left half a line.
            if found.st_size and os.pread(self._fd, 1, found.st_size - 1) != b"\n":
                self._append(self._fd, b"\n")
        return self._fd

    def _is_current(self, fd: int) -> bool:
        """Tell whether the open file is still the one that has the name."""
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(fd))

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
