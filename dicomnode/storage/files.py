"""The files of the archive: one directory that holds every object as a Part 10 file.

Layout under the storage directory::

    .lock         held (flock) by the one process that uses the directory
    incoming/     objects that are still arriving; nothing here has been acknowledged
    objects/      <2 hex>/<StudyInstanceUID>/<SeriesInstanceUID>/<SOPInstanceUID>.dcm
    quarantine/   what could not be kept under its name, each with a .json that says why

Everything here blocks and is meant for worker threads. A ``FileStore`` may be used from any
thread; an ``IncomingFile`` from one thread at a time.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from dicomnode.errors import ConfigurationError, OutOfResources, StoreLocked
from dicomnode.storage.disk import (
    OpenDirectory,
    OpenFile,
    disk_errors,
    fsync_directory,
    reports_lost_writes,
    sync_filesystem,
    write_all,
)
from dicomnode.storage.incoming import IncomingFile
from dicomnode.storage.part10 import digest_from, file_digest, read_file_meta
from dicomnode.storage.paths import stem
from dicomnode.storage.quarantine import Quarantine

Durability = Literal["full", "relaxed"]

_FILE_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750
# Series directories that are known to exist, so that no object pays for makedirs.
_KNOWN_DIRECTORIES: Final = 4096
# Series directories that are kept open, so that flushing one is a single call.
_OPEN_DIRECTORIES: Final = 64

# Long for a rename, which is all that is waited for.
_ARRIVAL_SECONDS: Final = 10.0

# Long for the time between a file and its row.
_RECENT_SECONDS: Final = 60.0

# Slashes in objects/<2 hex>/<study>: what is above is never removed.
_DEPTH_OF_STUDIES: Final = 2


class _Announced:
    """An object whose name comes in a moment; a plain lock, as hardly anybody ever waits for it."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def arrived(self) -> None:
        """Let go on who waits; to be called once."""
        self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Return once the name is there; False when that takes longer than ``seconds``."""
        if not self._lock.acquire(timeout=seconds):
            return False
        self._lock.release()
        return True


class FileStore:
    """The storage directory, locked for one process.

    ``durability`` "full" flushes files and directory entries before they count as placed;
    "relaxed" leaves that to the operating system.
    """

    def __init__(self, directory: Path, *, durability: Durability) -> None:
        self.directory = directory
        self.durability: Durability = durability
        self._root = os.fspath(directory.absolute())
        self._lock_fd = -1
        self._serial = itertools.count(1)
        self._session = os.urandom(6).hex()
        # Series directories that exist, and whether they are durable.
        self._known: dict[str, bool] = {}
        self._open_directories: dict[str, OpenDirectory] = {}
        self._directories = threading.Lock()
        self._quarantine = Quarantine(self._root, flush=durability == "full")
        # Paths of objects that have a row and get their name in a moment.
        self._announced: dict[str, _Announced] = {}
        # Open from the beginning, so that no write that the system loses meanwhile is missed.
        self._objects: OpenDirectory | None = None

    @property
    def flushes(self) -> bool:
        """Whether objects survive power loss once placed."""
        return self.durability == "full"

    @property
    def settles(self) -> bool:
        """Whether ``settle`` can be relied on here."""
        return self.flushes and reports_lost_writes(f"{self._root}/objects")

    # -- opening -------------------------------------------------------------------------------

    def open(self) -> None:
        """Lock the directory and make what it lacks.

        Raises StoreLocked when another process holds it, ConfigurationError when it cannot be
        made or spans several filesystems.
        """
        try:
            root = self.directory.absolute()
            missing = [path for path in root.parents if not path.exists()]
            self.directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._lock()
            for name in ("objects", "incoming", "quarantine"):
                os.makedirs(f"{self._root}/{name}", mode=_DIRECTORY_MODE, exist_ok=True)
            devices = {os.stat(f"{self._root}/{name}").st_dev for name in ("objects", "incoming")}
            self._objects = OpenDirectory(f"{self._root}/objects")
            fsync_directory(self._root)
            for path in (root, *missing):
                with suppress(PermissionError):  # ours to use, not to look around in
                    fsync_directory(os.fspath(path.parent))
        except OSError as error:
            self.close()
            raise ConfigurationError(
                [f"storage.directory: {error.filename}: {error.strerror}"]
            ) from error
        if len(devices) > 1:
            self.close()
            raise ConfigurationError(
                ["storage.directory: incoming/ and objects/ must be on one filesystem"]
            )

    def close(self) -> None:
        """Give the lock back."""
        self._open_directories.clear()
        self._objects = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> FileStore:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _lock(self) -> None:
        fd = os.open(f"{self._root}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise StoreLocked(
                f"storage directory {self._root} is in use by process {holder}"
            ) from None
        except OSError:
            os.close(fd)
            raise
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._lock_fd = fd

    # -- objects -------------------------------------------------------------------------------

    def begin(self, meta: bytes) -> IncomingFile:
        """Make a new temporary file that starts with ``meta`` (see ``part10.file_meta``).

        Raises OutOfResources.
        """
        path = self.new_temporary()
        with disk_errors():
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        return IncomingFile(self, fd, path, meta)

    def abs_path(self, rel: str) -> str:
        """Return the absolute path of ``rel``, a path that this class gave."""
        return f"{self._root}/{rel}"

    def remove(self, rel: str) -> None:
        """Delete a file of the store, and its series and study directories when left empty."""
        with disk_errors():
            os.unlink(self.abs_path(rel))
            self._forget_empty(rel)

    def remove_all(self, rels: Iterable[str]) -> None:
        """Delete files of one series; returns when they are gone durably.

        Those that are gone already do no harm. Raises OutOfResources.
        """
        with disk_errors():
            last = ""
            for last in rels:
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.unlink(self.abs_path(last))
            if last:
                with suppress(FileNotFoundError):  # all that led there is gone too
                    self._forget_empty(last)

    def park(self, rel: str, reason: str, *, sha256: str = "", name: str = "") -> str:
        """Move a file of the store to the quarantine; return its path there, relative.

        ``name`` is the SOP Instance UID when the file's own name is another.
        """
        with disk_errors():
            source = self.abs_path(rel)
            kept = self._quarantine.keep(
                source, name or stem(rel), reason, sha256 or file_digest(source)
            )
            os.unlink(source)
            self._forget_empty(rel)
        return kept

    def put_back(self, kept: str, rel: str) -> None:
        """Give ``rel`` back to the file that ``place_over`` kept; it stays in the quarantine too.

        Raises OutOfResources.
        """
        with disk_errors():
            aside = self.new_temporary()
            os.link(self.abs_path(kept), aside)
            os.replace(aside, self.abs_path(rel))
            with suppress(FileNotFoundError):  # stays where both were one file
                os.unlink(aside)
            if self.flushes:
                fsync_directory(os.path.dirname(self.abs_path(rel)))

    def exists(self, rel: str) -> bool:
        """Tell whether the store has a file. Raises OutOfResources when that cannot be told."""
        with disk_errors():
            try:
                os.stat(self.abs_path(rel))
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def make_durable(self) -> None:
        """Make all files and names survive power loss, whoever made them (not when relaxed).

        Raises OutOfResources.
        """
        if self.flushes:
            with disk_errors():
                sync_filesystem(f"{self._root}/objects")

    def announce(self, rel: str) -> None:
        """Have whoever misses ``rel`` wait for ``arrived``."""
        self._announced[rel] = _Announced()

    def arrived(self, rel: str) -> None:
        """Let go on who waits for ``rel``, announced or not: it is placed, or will not be."""
        if announced := self._announced.pop(rel, None):
            announced.arrived()

    def settle(self) -> None:
        """Make what has been placed or announced up to now survive power loss, flushed or not.

        Raises OutOfResources when anything may have been lost since ``open``; asked again it
        does not tell.
        """
        assert self._objects is not None
        for announced in list(self._announced.values()):
            if not announced.wait(_ARRIVAL_SECONDS):
                raise OutOfResources("an object does not get its name")
        with disk_errors():
            self._objects.flush_filesystem()

    def flush_object(self, rel: str) -> None:
        """Make a placed file and its name survive power loss. Raises OutOfResources."""
        with disk_errors():
            file = OpenFile(os.open(self.abs_path(rel), os.O_RDONLY | os.O_CLOEXEC))
            os.fdatasync(file.fileno())
            self._flush_name(rel)

    def _flush_name(self, rel: str) -> None:
        """Make the name of a placed file and what leads to it survive power loss."""
        directory = os.path.dirname(rel)
        self.make_directory(directory)
        self.flush_directory(directory)

    def secure(self, rel: str, contents: bytes) -> bool:
        """Have a file with these bytes survive power loss; tell whether it was written anew.

        Nobody else may place an object of its UID meanwhile. Raises OutOfResources.
        """
        if self._has(rel, contents):
            return False
        with disk_errors():
            directory = os.path.dirname(rel)
            self.forget_directory(directory)
            self.make_directory(directory)
            path = self.new_temporary()
            file = OpenFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _FILE_MODE))
            try:
                write_all(file.fileno(), [contents])
                os.fdatasync(file.fileno())
                os.replace(path, self.abs_path(rel))
            except OSError:
                with suppress(OSError):  # recovery removes what stays
                    os.unlink(path)
                raise
            self.flush_directory(directory)
        return True

    def _has(self, rel: str, contents: bytes) -> bool:
        """Tell whether a file has these bytes, and they and its name survive power loss."""
        try:
            file = OpenFile(os.open(self.abs_path(rel), os.O_RDONLY | os.O_CLOEXEC))
            if file.read(len(contents) + 1, 0) != contents:
                return False
            os.fdatasync(file.fileno())
            self._flush_name(rel)
        except OSError:
            return False
        return True

    def open_object(self, rel: str) -> int:
        """Return a file descriptor for reading, which the caller owns. Raises OutOfResources."""
        path = self.abs_path(rel)
        with disk_errors():
            # Looked up first: it may arrive between the two.
            announced = self._announced.get(rel)
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                if announced is None:
                    raise
            announced.wait(_ARRIVAL_SECONDS)
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def digest_file(self, rel: str) -> str:
        """Return the SHA-256 (hex) of the data set bytes of an object, read from disk.

        Raises CannotUnderstand when it is no Part 10 file, OutOfResources when it cannot be read.
        """
        fd = self.open_object(rel)
        with disk_errors():
            try:
                return digest_from(fd, read_file_meta(fd).data_set_offset)
            finally:
                os.close(fd)

    def digest_whole_file(self, rel: str) -> str:
        """Return the SHA-256 (hex) of a file, read from disk. Raises OutOfResources."""
        fd = self.open_object(rel)
        with disk_errors():
            try:
                return digest_from(fd, 0)
            finally:
                os.close(fd)

    def free_bytes(self) -> int:
        """Return the bytes that an unprivileged process may still write."""
        with disk_errors():
            status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def check_writable(self) -> None:
        """Make a file and drop it. Raises OutOfResources when that cannot be done."""
        self.begin(b"").discard()

    def leftovers(self) -> list[str]:
        """Return the temporary files of earlier runs, as paths relative to the directory."""
        with disk_errors():
            names = os.listdir(f"{self._root}/incoming")
        return [f"incoming/{name}" for name in sorted(names) if not name.startswith(self._session)]

    def walk(self, after: str = "") -> Iterator[tuple[str, list[str]]]:
        """Yield each series directory, relative, and the names of the files in it.

        In byte order of study directory, then series, from behind the series directory ``after``.
        Those that are removed meanwhile are left out. Raises OutOfResources.
        """
        after_study, after_fan_out = os.path.dirname(after), os.path.dirname(os.path.dirname(after))
        with disk_errors():
            for fan_out in self._subdirectories("objects", after_fan_out):
                for study in self._subdirectories(fan_out, after_study):
                    for series in self._subdirectories(study):
                        if study == after_study and series <= after:
                            continue
                        with suppress(FileNotFoundError):
                            with os.scandir(self.abs_path(series)) as entries:
                                names = [entry.name for entry in entries if entry.is_file()]
                            yield series, names

    def _subdirectories(self, rel: str, first: str = "") -> list[str]:
        with suppress(FileNotFoundError), os.scandir(self.abs_path(rel)) as entries:
            found = sorted(f"{rel}/{entry.name}" for entry in entries if entry.is_dir())
            return [path for path in found if path >= first]
        return []

    def is_recent(self, rel: str) -> bool:
        """Tell whether a file has been put in its place just now, or is no longer there."""
        try:
            return time.time() - os.stat(self.abs_path(rel)).st_ctime < _RECENT_SECONDS
        except OSError:
            return True

    # -- for IncomingFile ----------------------------------------------------------------------

    def new_temporary(self) -> str:
        """Return an absolute path in ``incoming/`` that was not given before."""
        return f"{self._root}/incoming/{self._session}-{next(self._serial)}.part"

    def make_directory(self, rel: str, *, flush: bool = True) -> None:
        """Make ``objects/<2 hex>/<study>/<series>``, durable with ``flush``, unless it is known."""
        known = self._known.get(rel)
        if known or (known is False and not flush):
            return
        series = self.abs_path(rel)
        study = os.path.dirname(series)
        fan_out = os.path.dirname(study)
        with self._directories:
            for path in (fan_out, study, series):
                with suppress(FileExistsError):
                    os.mkdir(path, _DIRECTORY_MODE)
                # Even for one that exists: whoever made it may have died before this.
                if flush and self.flushes:
                    fsync_directory(os.path.dirname(path))
            if len(self._known) >= _KNOWN_DIRECTORIES:
                self._known.clear()
            self._known[rel] = flush

    def forget_directory(self, rel: str) -> None:
        """Look again whether ``rel`` exists the next time."""
        self._known.pop(rel, None)
        self._open_directories.pop(rel, None)

    def flush_directory(self, rel: str) -> None:
        """Make the entries of the directory ``rel`` survive power loss. Raises OSError."""
        directory = self._open_directories.get(rel)
        if directory is None:
            directory = OpenDirectory(self.abs_path(rel))
            if len(self._open_directories) >= _OPEN_DIRECTORIES:
                self._open_directories.clear()
            self._open_directories[rel] = directory
        directory.flush()

    def quarantine(self) -> Quarantine:
        """Return the keeper of ``quarantine/``."""
        return self._quarantine

    def _forget_empty(self, rel: str) -> None:
        directory = os.path.dirname(rel)
        with self._directories:
            while directory.count("/") >= _DEPTH_OF_STUDIES:
                self.forget_directory(directory)
                try:
                    os.rmdir(self.abs_path(directory))
                except (FileNotFoundError, NotADirectoryError):
                    pass
                except OSError:
                    break
                directory = os.path.dirname(directory)
            if self.flushes:
                fsync_directory(self.abs_path(directory))
