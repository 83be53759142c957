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
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from dicomnode.errors import (
    CannotUnderstand,
    ConfigurationError,
    DataSetMismatch,
    OutOfResources,
    StoreLocked,
)
from dicomnode.storage.disk import (
    OpenDirectory,
    disk_errors,
    fsync_directory,
    rename_without_replacing,
    sync_filesystem,
    write_all,
)
from dicomnode.storage.part10 import digest_from, file_digest, read_file_meta
from dicomnode.storage.quarantine import Quarantine

Durability = Literal["full", "relaxed"]

_FILE_MODE: Final = 0o640
_DIRECTORY_MODE: Final = 0o750
# Series directories that are known to exist, so that no object pays for makedirs.
_KNOWN_DIRECTORIES: Final = 4096
# Series directories that are kept open, so that flushing one is a single call.
_OPEN_DIRECTORIES: Final = 64

# Slashes in objects/<2 hex>/<study>: what is above is never removed.
_DEPTH_OF_STUDIES: Final = 2

_UID = re.compile(r"[0-9.]{1,64}\Z")


def valid_uid(uid: str) -> bool:
    """Tell whether ``uid`` may name a file: 1-64 digits and dots, and not dots alone.

    Wider than PS3.5 §9.1 on purpose: leading zeros and doubled dots exist in real archives.
    """
    return _UID.match(uid) is not None and uid.strip(".") != ""


def uid_path_component(uid: str) -> str:
    """Return ``uid`` as a path component; the only way for a UID into a path.

    Raises DataSetMismatch when it is no UID.
    """
    if not valid_uid(uid):
        raise DataSetMismatch("a UID of the data set is missing or no UID")
    return uid


def object_path(study_uid: str, series_uid: str, sop_uid: str) -> str:
    """Return the path of an object, relative to the storage directory; checks the UIDs."""
    study = uid_path_component(study_uid)
    series = uid_path_component(series_uid)
    sop = uid_path_component(sop_uid)
    fan_out = hashlib.sha256(study.encode()).hexdigest()[:2]
    return f"objects/{fan_out}/{study}/{series}/{sop}.dcm"


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
        self._known: dict[str, None] = {}
        self._open_directories: dict[str, OpenDirectory] = {}
        self._directories = threading.Lock()
        self._quarantine = Quarantine(self._root, flush=durability == "full")

    @property
    def flushes(self) -> bool:
        """Whether objects survive power loss once placed."""
        return self.durability == "full"

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

    def park(self, rel: str, reason: str, *, sha256: str = "", name: str = "") -> str:
        """Move a file of the store to the quarantine; return its path there, relative.

        ``name`` is the SOP Instance UID when the file's own name is another.
        """
        with disk_errors():
            source = self.abs_path(rel)
            kept = self._quarantine.keep(
                source, name or _stem(rel), reason, sha256 or file_digest(source)
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

    def open_object(self, rel: str) -> int:
        """Return a file descriptor for reading, which the caller owns. Raises OutOfResources."""
        with disk_errors():
            return os.open(self.abs_path(rel), os.O_RDONLY | os.O_CLOEXEC)

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

    def walk(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each series directory, relative, and the names of the files in it.

        In byte order of study directory, then series. Raises OutOfResources.
        """
        with disk_errors():
            for fan_out in self._subdirectories("objects"):
                for study in self._subdirectories(fan_out):
                    for series in self._subdirectories(study):
                        with os.scandir(self.abs_path(series)) as entries:
                            names = [entry.name for entry in entries if entry.is_file()]
                        yield series, names

    def _subdirectories(self, rel: str) -> list[str]:
        with os.scandir(self.abs_path(rel)) as entries:
            return sorted(f"{rel}/{entry.name}" for entry in entries if entry.is_dir())

    # -- for IncomingFile ----------------------------------------------------------------------

    def new_temporary(self) -> str:
        """Return an absolute path in ``incoming/`` that was not given before."""
        return f"{self._root}/incoming/{self._session}-{next(self._serial)}.part"

    def make_directory(self, rel: str) -> None:
        """Make ``objects/<2 hex>/<study>/<series>`` durable, unless it is known to exist."""
        if rel in self._known:
            return
        series = self.abs_path(rel)
        study = os.path.dirname(series)
        fan_out = os.path.dirname(study)
        with self._directories:
            for path in (fan_out, study, series):
                with suppress(FileExistsError):
                    os.mkdir(path, _DIRECTORY_MODE)
                # Even for one that exists: whoever made it may have died before this.
                if self.flushes:
                    fsync_directory(os.path.dirname(path))
            if len(self._known) >= _KNOWN_DIRECTORIES:
                self._known.clear()
            self._known[rel] = None

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
                except OSError:
                    if self.flushes:
                        fsync_directory(self.abs_path(directory))
                    return
                directory = os.path.dirname(directory)


class IncomingFile:
    """One object on its way into the store; ends with place, place_over, quarantine or discard.

    ``fd`` stays readable until then. ``data_set_offset`` is where the data set starts.
    """

    __slots__ = ("_hash", "_meta", "_path", "_store", "data_set_bytes", "data_set_offset", "fd")

    def __init__(self, store: FileStore, fd: int, path: str, meta: bytes) -> None:
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        # Written together with the first fragments; None once it is.
        self._meta: bytes | None = meta
        self.fd = fd
        self.data_set_offset = len(meta)
        self.data_set_bytes = 0

    @property
    def size_bytes(self) -> int:
        """The size of the whole file."""
        return self.data_set_offset + self.data_set_bytes

    def append(self, fragments: Sequence[memoryview]) -> None:
        """Write data set bytes and hash them; the views are not kept.

        Raises OutOfResources.
        """
        with disk_errors():
            if self._meta is None:
                self.data_set_bytes += write_all(self.fd, fragments)
            else:
                written = write_all(self.fd, [self._meta, *fragments])
                self.data_set_bytes = written - self.data_set_offset
                self._meta = None
        update = self._hash.update
        for fragment in fragments:
            update(fragment)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the data set bytes so far."""
        return self._hash.hexdigest()

    def flush(self) -> None:
        """Make the bytes survive power loss (nothing in relaxed durability)."""
        if self._store.flushes:
            with disk_errors():
                os.fdatasync(self.fd)

    def place(self, study_uid: str, series_uid: str, sop_uid: str) -> str:
        """Give the object its name, replacing nothing, durably; return its relative path.

        Raises FileExistsError when the name is taken (this object stays as it is),
        DataSetMismatch for what is no UID, OutOfResources.
        """
        rel = object_path(study_uid, series_uid, sop_uid)
        directory = os.path.dirname(rel)
        target = self._store.abs_path(rel)
        with disk_errors(passing=FileExistsError):
            self._store.make_directory(directory)
            try:
                rename_without_replacing(self._path, target)
            except FileNotFoundError:
                # The directory became empty and was removed since we knew it.
                self._store.forget_directory(directory)
                self._store.make_directory(directory)
                rename_without_replacing(self._path, target)
            if self._store.flushes:
                self._settle(directory, target)
            self._close()
        return rel

    def _settle(self, directory: str, target: str) -> None:
        """Make the name durable; take it back when that fails, as nobody will be told of it."""
        try:
            self._store.flush_directory(directory)
        except OSError:
            with suppress(OSError):
                os.unlink(target)
            raise

    def place_over(
        self, study_uid: str, series_uid: str, sop_uid: str, *, reason: str = "replaced"
    ) -> str:
        """Give the object its name; what had the name before is kept in the quarantine first.

        Returns its path there, or "" when there was nothing. The temporary name stays until
        ``discard``, which is for when the index has followed: it tells recovery to look.
        Raises DataSetMismatch for what is no UID, OutOfResources.
        """
        rel = object_path(study_uid, series_uid, sop_uid)
        store, target = self._store, self._store.abs_path(rel)
        kept = ""
        with disk_errors():
            store.make_directory(os.path.dirname(rel))
            if store.exists(rel):
                kept = store.quarantine().keep(target, _stem(rel), reason, file_digest(target))
            aside = store.new_temporary()
            os.link(self._path, aside)
            try:
                if store.flushes:
                    fsync_directory(os.path.dirname(aside))
                os.replace(aside, target)
                if store.flushes:
                    fsync_directory(os.path.dirname(target))
            except OSError:
                with suppress(OSError):
                    os.unlink(aside)
                if kept:
                    with suppress(OutOfResources):
                        store.put_back(kept, rel)
                raise
        return kept

    def quarantine(self, reason: str) -> str:
        """Move the object to the quarantine, durably; return its path there, relative.

        Raises OutOfResources.
        """
        with disk_errors():
            try:
                stem = read_file_meta(self.fd).sop_instance_uid
            except CannotUnderstand:
                stem = ""
            rel = self._store.quarantine().keep(
                self._path, stem if valid_uid(stem) else "unknown", reason, self.sha256()
            )
        self.discard()
        return rel

    def discard(self) -> None:
        """Drop the object; may be called again, and after any other ending."""
        if self.fd >= 0:
            with suppress(OSError):  # recovery removes what stays
                os.unlink(self._path)
            self._close()

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        with suppress(OSError):  # the file is closed all the same, and flushed where it counts
            os.close(fd)


def _stem(rel: str) -> str:
    return os.path.basename(rel).removesuffix(".dcm")
