"""Makes files and index agree: at every start, and as ``dicomnode reindex``.

Files are the truth. An object that a crash left between its file and its row is indexed; one
that was still arriving was acknowledged to nobody and goes. Rows whose file is missing are only
reported: the file may come back with a mounted disk or a backup.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dicomnode.errors import (
    CannotUnderstand,
    CatalogError,
    DataSetMismatch,
    OutOfResources,
    StatusError,
)
from dicomnode.index.attachment import Together
from dicomnode.index.catalog import (
    Added,
    AddOutcome,
    AlreadyHeld,
    Catalog,
    InstanceEntry,
    InstanceRow,
    ObjectAttachment,
)
from dicomnode.observe.logs import Logger
from dicomnode.services.custody import Custodian
from dicomnode.services.known_digests import Damage, KnownDigests
from dicomnode.services.placing import Forwarding
from dicomnode.services.removing import finish_removals
from dicomnode.storage.disk import disk_errors
from dicomnode.storage.files import FileStore
from dicomnode.storage.header import HEADER_END, read_header, read_to_end
from dicomnode.storage.part10 import both_digests, read_file_meta
from dicomnode.storage.paths import object_path, valid_uid

# ``done`` files of ``total``, or of an unknown number.
Progress = Callable[[int, int | None], None]

# Files that are read and hashed at once, and rows that may wait for the index.
_READERS = 4
_OUTSTANDING = 256
_MAX_PROBLEMS = 100
_EXTENSION = ".dcm"

# When a file is found and entered, as the custody log says it.
_START = "the start of the node"
_REINDEX = "dicomnode reindex"


@dataclass(slots=True)
class RecoveryReport:
    """What was found and done; ``problems`` has one line for each of the first hundred."""

    files_restored: int = 0
    orphans_indexed: int = 0
    rows_without_file: int = 0
    temps_removed: int = 0
    temps_quarantined: int = 0
    unreadable: int = 0
    damaged: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"files indexed {self.orphans_indexed}, rows without file {self.rows_without_file}, "
            f"temporary files removed {self.temps_removed} and quarantined "
            f"{self.temps_quarantined}, unreadable files {self.unreadable}, damaged files "
            f"{self.damaged}, "
            f"files restored {self.files_restored}"
        )


def reconcile(
    files: FileStore,
    catalog: Catalog,
    *,
    log: Logger,
    progress: Progress | None = None,
    forwarding: Forwarding | None = None,
    custodian: Custodian | None = None,
) -> RecoveryReport:
    """Make the index agree with the files; for a start, before anything is served.

    Names are compared; only files without a row are opened. ``progress`` counts the files
    entered. What nobody has been told is stored gets the attachment of ``forwarding``, as its
    sender will be told when it comes again; the objects of an index that is built anew do not.
    ``custodian`` records what is entered.
    Raises CatalogError, OutOfResources.
    """
    if catalog.rebuilt_from is not None:
        log.warning(
            "the index has been made by another version and is built anew from the files",
            schema_version=catalog.rebuilt_from,
        )
    if catalog.unrestored:
        log.error(
            "objects that only the index has cannot be written to files, which is tried again",
            objects=catalog.counts().unsettled,
            reason=catalog.unrestored,
        )
    if catalog.is_new:
        forwarding = None
    run = _Run(
        files, catalog, log, progress, total=None, forwarding=forwarding, custodian=custodian
    )
    deleted = finish_removals(files, catalog)
    run.report_left(deleted)
    run.enter((path for path in run.replacements() if path not in deleted), is_other=True)
    run.clear_incoming()
    run.enter(path for path in _orphans(files, catalog, run) if path not in deleted)
    run.known.forget_entered()
    catalog.filled()
    return run.report


def rebuild(
    files: FileStore,
    catalog: Catalog,
    progress: Progress | None = None,
    *,
    log: Logger | None = None,
    custodian: Custodian | None = None,
) -> RecoveryReport:
    """Empty the index and enter every file again; nothing may be served meanwhile.

    Raises CatalogError, OutOfResources.
    """
    if catalog.unrestored:
        raise CatalogError(
            f"the index has the only copy of {catalog.counts().unsettled} objects, and their files"
            f" cannot be written: {catalog.unrestored}"
        )
    total = sum(len(_objects(names)) for _, names in files.walk())
    deleted = finish_removals(files, catalog)
    catalog.truncate()
    run = _Run(files, catalog, log, progress, total, custodian=custodian, occasion=_REINDEX)
    run.report_left(deleted)
    run.clear_incoming()
    paths = (f"{series}/{name}" for series, names in files.walk() for name in _objects(names))
    run.enter(path for path in paths if path not in deleted)
    run.known.forget_entered()
    catalog.filled()
    return run.report


def _objects(names: list[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(_EXTENSION))


def _orphans(files: FileStore, catalog: Catalog, run: _Run) -> Iterator[str]:
    """Yield the files without a row; report the rows without a file.

    Both sides come in the same order and are merged, so that memory holds a few series.
    """
    rows = catalog.series_paths()
    row = next(rows, None)
    for series, names in files.walk():
        position = series.rsplit("/", 1)
        while row is not None and row[0].rsplit("/", 1) < position:
            run.report_rows(row[1])
            row = next(rows, None)
        held: dict[str, str] = {}
        if row is not None and row[0] == series:
            held = row[1]
            row = next(rows, None)
        for name in _objects(names):
            path = f"{series}/{name}"
            if held.pop(path, None) is None:
                yield path
        run.report_rows(held)
    while row is not None:
        run.report_rows(row[1])
        row = next(rows, None)


class _Run:
    """One recovery: several threads read files, the index's writer enters them."""

    def __init__(
        self,
        files: FileStore,
        catalog: Catalog,
        log: Logger | None,
        progress: Progress | None,
        total: int | None,
        forwarding: Forwarding | None = None,
        custodian: Custodian | None = None,
        occasion: str = _START,
    ) -> None:
        self._forwarding = forwarding
        self._custodian = custodian
        self._occasion = occasion
        self.known = KnownDigests(catalog, custodian.custody if custodian else None, occasion)
        # Of paths: damaged files, and those that were taking another's place.
        self._damages: dict[str, Damage] = {}
        self._others: set[str] = set()
        self.report = RecoveryReport(files_restored=catalog.restored)
        self._files = files
        self._catalog = catalog
        self._log = log
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._room = threading.Semaphore(_OUTSTANDING)
        self._failure: BaseException | None = None

    # -- objects ---------------------------------------------------------------------------------

    def enter(self, paths: Iterator[str], *, is_other: bool = False) -> None:
        """Index the files at ``paths``; those that cannot be are parked in the quarantine.

        ``is_other`` says that they are other objects than those of their UIDs that were held.
        """
        durable = False
        with ThreadPoolExecutor(_READERS, thread_name_prefix="recovery") as readers:
            for path in paths:
                if not durable:
                    # Who put them there died before they were, perhaps; a row says that they are.
                    self._files.make_durable()
                    durable = True
                self._room.acquire()
                if self._failure is not None:
                    self._room.release()
                    break
                readers.submit(self._read, path, is_other)
            for _ in range(_OUTSTANDING):
                self._room.acquire()
        self._room.release(_OUTSTANDING)
        if self._failure is not None:
            raise self._failure

    def _read(self, path: str, is_other: bool) -> None:
        try:
            end = self._forwarding.header_end if self._forwarding is not None else HEADER_END
            entry = _entry(self._files, path, end)
            if is_other:
                self._others.add(path)
            else:
                entry = self._as_received(entry)
        except (CannotUnderstand, DataSetMismatch) as error:
            self._park(path, error.comment)
            self._settle()
        except OutOfResources as error:
            self._unreadable(f"{path} cannot be read ({error.comment}) and is not indexed")
            self._settle()
        except BaseException as error:
            self._settle(error)
        else:
            self._catalog.add(
                entry, lambda outcome: self._entered(entry, outcome), also=self._attachment(entry)
            )

    def _as_received(self, entry: InstanceEntry) -> InstanceEntry:
        """Return what to enter for a file: of a damaged one what it should be."""
        damage = self.known.damage_of(entry)
        if damage is None:
            return entry
        with self._lock:
            self.report.damaged += 1
            self._damages[entry.path] = damage
        self.problem(f"{entry.path} is damaged: it is not what was received")
        return damage.entry

    def _attachment(self, entry: InstanceEntry) -> ObjectAttachment | None:
        forwarding, custodian = self._forwarding, self._custodian
        found: ObjectAttachment | None = self._damages.get(entry.path)
        if found is None and custodian is not None:
            is_other = entry.path in self._others
            found = custodian.entered(entry, self._occasion, is_other=is_other)
        return Together.of(
            (forwarding.attachment(entry) if forwarding is not None else None, found)
        )

    def _entered(self, entry: InstanceEntry, outcome: AddOutcome | BaseException) -> None:
        """Take the index's answer, in its writer thread."""
        match outcome:
            case Added():
                with self._lock:
                    self.report.orphans_indexed += 1
                self._settle()
            case AlreadyHeld(row):
                self._held(entry, row)
            case _:
                self._settle(outcome)

    def _held(self, entry: InstanceEntry, row: InstanceRow) -> None:
        """Go on when the index has a row of a file's UID: the file that is there counts."""
        try:
            is_there = self._files.exists(row.path)
        except OutOfResources as error:
            self._unreadable(f"{row.path} cannot be read ({error.comment})")
            self._settle()
            return
        if is_there and row.path != entry.path:
            self._park(entry.path, f"its SOP Instance UID is held at {row.path}", entry)
            self._settle()
        elif is_there and row.file_sha256 == entry.file_sha256:
            self._settle()
        else:
            self._catalog.replace(
                entry, lambda outcome: self._entered(entry, outcome), self._attachment(entry)
            )

    def _park(self, path: str, why: str, entry: InstanceEntry | None = None) -> None:
        try:
            kept = self._files.park(path, why)
        except OutOfResources as error:
            self._unreadable(f"{path} cannot be indexed ({why}), nor moved ({error.comment})")
        else:
            self._unreadable(f"{path} cannot be indexed ({why}) and has been moved to {kept}")
            if self._custodian is not None and entry is not None:
                # Not to be waited for: this may be the index's own thread.
                found = {"found_by": self._occasion}
                self._custodian.kept_aside(entry, found, why, kept, wait=False)

    def _unreadable(self, line: str) -> None:
        with self._lock:
            self.report.unreadable += 1
        self.problem(line)

    def _settle(self, failure: BaseException | None = None) -> None:
        """Finish one file: everyone who took room for one comes here once."""
        with self._lock:
            self._failure = self._failure or failure
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)
        self._room.release()

    # -- what else is found -----------------------------------------------------------------------

    def report_left(self, paths: Mapping[str, str]) -> None:
        """Report the files of deleted objects that cannot be removed, and why."""
        for path, why in paths.items():
            self.problem(f"{path} is of a deleted object, and cannot be removed ({why})")

    def replacements(self) -> Iterator[str]:
        """Yield the objects that were taking another's place when the node ended.

        Until its row has followed, such an object has its temporary name as well.
        """
        for leftover in self._files.leftovers():
            path = _placed_path(self._files, leftover)
            if path is not None:
                yield path

    def clear_incoming(self) -> None:
        """Remove what was arriving when the node ended; whole objects are parked instead."""
        for path in self._files.leftovers():
            uid = _whole_object(self._files.abs_path(path))
            try:
                if uid is None or self._is_stored(path, uid):
                    self._files.remove(path)
                    self.report.temps_removed += 1
                    continue
                kept = self._files.park(path, "was arriving when the node ended", name=uid)
            except OutOfResources as error:
                self.problem(f"{path} is left from an earlier run and stays ({error.comment})")
                continue
            self.report.temps_quarantined += 1
            self.problem(f"an object that was arriving when the node ended is now {kept}")

    def _is_stored(self, path: str, uid: str) -> bool:
        """Tell whether a temporary file is that of an object that is stored under its name."""
        row = self._catalog.get(uid)
        return (
            row is not None
            and self._files.exists(row.path)
            and self._files.digest_file(path) == row.sha256
        )

    def report_rows(self, rows: dict[str, str]) -> None:
        """Report rows whose file is missing: SOP Instance UIDs by path."""
        for path, sop_instance_uid in rows.items():
            self.report.rows_without_file += 1
            self.problem(f"the file of {sop_instance_uid} is missing: {path}")

    def problem(self, line: str) -> None:
        """Say what an operator has to look into, unless too much has been said already."""
        with self._lock:
            if len(self.report.problems) >= _MAX_PROBLEMS:
                return
            self.report.problems.append(line)
        if self._log is not None:
            self._log.warning(line)


def _entry(files: FileStore, path: str, header_end: int) -> InstanceEntry:
    """Read one stored object. Raises CannotUnderstand, DataSetMismatch, OutOfResources."""
    fd = files.open_object(path)
    try:
        status = os.fstat(fd)
        meta = read_file_meta(fd)
        size = status.st_size - meta.data_set_offset
        header = read_header(fd, meta.data_set_offset, size, meta.transfer_syntax_uid, header_end)
        with disk_errors():
            sha256, file_sha256 = both_digests(fd, meta.data_set_offset)
    finally:
        os.close(fd)
    named = object_path(
        header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
    )
    if named != path:
        raise DataSetMismatch("its path is not that of its UIDs")
    return InstanceEntry.from_header(
        header,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        path=path,
        size_bytes=status.st_size,
        data_set_bytes=size,
        sha256=sha256,
        file_sha256=file_sha256,
        source_ae=meta.source_ae_title,
        received_at=status.st_mtime,
    )


def _placed_path(files: FileStore, leftover: str) -> str | None:
    """Return the path of the object whose second name ``leftover`` may be."""
    try:
        fd = files.open_object(leftover)
        try:
            if os.fstat(fd).st_nlink == 1:
                return None
            meta = read_file_meta(fd)
            size = os.fstat(fd).st_size - meta.data_set_offset
            header = read_header(fd, meta.data_set_offset, size, meta.transfer_syntax_uid)
        finally:
            os.close(fd)
        path = object_path(
            header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
        )
        return path if files.exists(path) else None
    except (OSError, StatusError):
        return None


def _whole_object(path: str) -> str | None:
    """Return the SOP Instance UID of a temporary file that is a whole object of its own."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if status.st_nlink > 1:
                return None  # placed: it has its name already
            meta = read_file_meta(fd)
            size = status.st_size - meta.data_set_offset
            header = read_to_end(fd, meta.data_set_offset, size, meta.transfer_syntax_uid)
        finally:
            os.close(fd)
    except (OSError, StatusError):
        return None
    uid = header.sop_instance_uid
    return uid if valid_uid(uid) else None
