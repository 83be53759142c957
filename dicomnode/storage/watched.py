"""A directory that others write into: looked through and read without trusting what is in it.

One level of folders below it. Symbolic links are not followed, what is no regular file is not
opened, and a folder's ``lockfile`` is locked for reading meanwhile, as wlmscpfs does.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Final

_LOCK_NAME: Final = "lockfile"
_LOCK_ATTEMPTS: Final = 10
_LOCK_PAUSE_SECONDS: Final = 0.02
# Files that are read while a folder is locked.
_READ_TOGETHER: Final = 250
_OPEN_ROOT: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_FOLDER: Final = _OPEN_ROOT | os.O_NOFOLLOW
# A pipe would block whoever opens it for reading.
_OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Locked(OSError):
    """Whoever writes into a folder has it locked."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A file's content; ``stamp`` changes whenever it does, ``modified_at`` as the file has it.

    None for a file that is longer than may be, or no regular file any more.
    """

    stamp: str
    modified_at: float
    data: bytes | None


@dataclass(slots=True)
class Listing:
    """What is in a directory, by path relative to it.

    ``files`` have their stamps; ``strange`` is what is no regular file, in words; ``unread`` are
    the folders that could not be looked into. ``identity`` is another one when the directory is.
    """

    identity: tuple[int, int]
    files: dict[str, str] = field(default_factory=dict)
    strange: dict[str, str] = field(default_factory=dict)
    unread: dict[str, OSError] = field(default_factory=dict)


class WatchedDirectory:
    """The directory ``root``; ``pause`` waits for so many seconds.

    ``suffixes``, in lower case, end the names of the files that count. ``admits`` says in words
    why a folder is not looked into, None when it is. No more than ``max_files`` are listed.
    """

    def __init__(
        self,
        root: Path,
        *,
        suffixes: tuple[str, ...],
        admits: Callable[[str], str | None],
        pause: Callable[[float], object],
        max_files: int,
    ) -> None:
        self._root = root
        self._suffixes = suffixes
        self._admits = admits
        self._pause = pause
        self._max_files = max_files

    def listing(self) -> Listing:
        """Look through the directory. Raises OSError when it cannot be read."""
        with _opened(os.fspath(self._root), _OPEN_ROOT) as root:
            of_root = os.fstat(root)
            listing = Listing((of_root.st_dev, of_root.st_ino))
            with self._locked(root):
                folders = self._list(root, "", listing)
            for name in folders:
                if words := self._admits(name):
                    listing.strange[name] = words
                    continue
                try:
                    with _opened(name, _OPEN_FOLDER, root) as folder, self._locked(folder):
                        self._list(folder, f"{name}/", listing)
                except FileNotFoundError:
                    continue  # gone since it was listed
                except OSError as error:
                    listing.unread[name] = error
        return listing

    def _list(self, folder: int, prefix: str, listing: Listing) -> list[str]:
        """Enter the files of an open folder into the listing; return the folders in it."""
        folders: list[str] = []
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name = entry.name
            if name.startswith(".") or name == _LOCK_NAME:
                continue
            path = prefix + name
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(name)
            elif words := self._strangeness(name, status, len(listing.files), not prefix):
                listing.strange[path] = words
            elif name.lower().endswith(self._suffixes):
                listing.files[path] = _stamp(status)
        return folders

    def _strangeness(
        self, name: str, status: os.stat_result, listed: int, may_be_folder: bool
    ) -> str:
        """Say why a file is not read; "" when it is, or does not count."""
        is_link = stat.S_ISLNK(status.st_mode)
        if not name.lower().endswith(self._suffixes) and not (is_link and may_be_folder):
            return ""
        if is_link:
            return "is a symbolic link, and those are not followed"
        if not stat.S_ISREG(status.st_mode):
            return "is no regular file"
        if not name.isprintable():
            return "has a name that is not printable text"
        if listed >= self._max_files:
            return f"is beyond the first {self._max_files} files"
        return ""

    def read(self, paths: Sequence[str], max_bytes: int) -> Iterator[dict[str, Contents | OSError]]:
        """Yield the contents of files, or why one cannot be read, some together.

        Files of folders that are locked or gone are left out. Raises OSError when the directory
        cannot be opened.
        """
        for folder, group in groupby(sorted(paths, key=_folder_of), key=_folder_of):
            while some := list(islice(group, _READ_TOGETHER)):
                with _opened(os.fspath(self._root), _OPEN_ROOT) as root:
                    yield self._read(root, folder, some, max_bytes)

    def _read(
        self, root: int, folder: str, paths: Sequence[str], max_bytes: int
    ) -> dict[str, Contents | OSError]:
        found: dict[str, Contents | OSError] = {}
        # What is wrong with the folder itself, the next listing tells.
        with (
            suppress(OSError),
            _opened(folder or ".", _OPEN_FOLDER, root) as fd,
            self._locked(fd),
        ):
            for path in paths:
                try:
                    found[path] = _contents(path.rpartition("/")[2], fd, max_bytes)
                except OSError as error:
                    found[path] = error
        return found

    @contextmanager
    def _locked(self, folder: int) -> Iterator[None]:
        """Hold a shared lock on the folder's lockfile, where it has one. Raises OSError."""
        try:
            lock = os.open(_LOCK_NAME, _OPEN_FILE, dir_fd=folder)
        except FileNotFoundError:
            yield
            return
        try:
            self._lock(lock)
            yield
        finally:
            os.close(lock)

    def _lock(self, lock: int) -> None:
        for _ in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                self._pause(_LOCK_PAUSE_SECONDS)
            else:
                return
        raise Locked(0, f"another program has its {_LOCK_NAME} locked")


@contextmanager
def _opened(path: str, flags: int, folder: int | None = None) -> Iterator[int]:
    fd = os.open(path, flags, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)


def _contents(name: str, folder: int, max_bytes: int) -> Contents:
    fd = os.open(name, _OPEN_FILE, dir_fd=folder)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        fits = stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes
        data = file.read(max_bytes + 1) if fits else b""
    whole = fits and len(data) <= max_bytes
    return Contents(_stamp(status), status.st_mtime, data if whole else None)


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]
