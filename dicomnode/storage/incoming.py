"""A temporary file on its way into the store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from dicomnode.errors import CannotUnderstand, OutOfResources
from dicomnode.storage.disk import (
    begin_writing_back,
    disk_errors,
    fsync_directory,
    rename_without_replacing,
    write_all,
)
from dicomnode.storage.part10 import file_digest, read_file_meta
from dicomnode.storage.paths import object_path, stem, valid_uid

if TYPE_CHECKING:
    from dicomnode.storage.files import FileStore


class IncomingFile:
    """One object on its way into the store; ends with place, place_over, quarantine or discard.

    ``fd`` stays readable until then. ``data_set_offset`` is where the data set starts.
    """

    __slots__ = (
        "_file_hash",
        "_hash",
        "_meta",
        "_path",
        "_store",
        "data_set_bytes",
        "data_set_offset",
        "fd",
    )

    def __init__(self, store: FileStore, fd: int, path: str, meta: bytes) -> None:
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self._file_hash = hashlib.sha256(meta)
        # Written together with the first fragments; None once it is.
        self._meta: bytes | None = meta
        self.fd = fd
        self.data_set_offset = len(meta)
        self.data_set_bytes = 0

    @property
    def size_bytes(self) -> int:
        """The size of the whole file."""
        return self.data_set_offset + self.data_set_bytes

    def append(self, fragments: Sequence[memoryview], *, flush_follows: bool = True) -> None:
        """Write data set bytes and hash them; the views are not kept.

        With ``flush_follows`` the disk begins to write them while they are hashed, and more of
        them arrives. Raises OutOfResources.
        """
        start = self.size_bytes if self._meta is None else 0
        with disk_errors():
            if self._meta is None:
                self.data_set_bytes += write_all(self.fd, fragments)
            else:
                written = write_all(self.fd, [self._meta, *fragments])
                self.data_set_bytes = written - self.data_set_offset
                self._meta = None
        if flush_follows and self._store.flushes:
            begin_writing_back(self.fd, start, self.size_bytes - start)
        update, update_file = self._hash.update, self._file_hash.update
        for fragment in fragments:
            update(fragment)
            update_file(fragment)

    def sha256(self) -> str:
        """Return the SHA-256 (hex) of the data set bytes so far."""
        return self._hash.hexdigest()

    def file_sha256(self) -> str:
        """Return the SHA-256 (hex) of the whole file so far."""
        return self._file_hash.hexdigest()

    def flush(self) -> None:
        """Make the bytes survive power loss (nothing in relaxed durability)."""
        if self._store.flushes:
            with disk_errors():
                os.fdatasync(self.fd)

    def place(self, study_uid: str, series_uid: str, sop_uid: str, *, flush: bool = True) -> str:
        """Give the object its name, replacing nothing, durably; return its relative path.

        Without ``flush`` the name is durable only after ``FileStore.settle``. Raises
        FileExistsError when the name is taken (this object stays as it is), DataSetMismatch for
        what is no UID, OutOfResources.
        """
        rel = object_path(study_uid, series_uid, sop_uid)
        directory = os.path.dirname(rel)
        target = self._store.abs_path(rel)
        with disk_errors(passing=FileExistsError):
            self._store.make_directory(directory, flush=flush)
            try:
                rename_without_replacing(self._path, target)
            except FileNotFoundError:
                # The directory became empty and was removed since we knew it.
                self._store.forget_directory(directory)
                self._store.make_directory(directory, flush=flush)
                rename_without_replacing(self._path, target)
            if flush and self._store.flushes:
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
                kept = store.quarantine().keep(target, stem(rel), reason, file_digest(target))
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
