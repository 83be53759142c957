"""The intake: takes objects as they arrive to disk and index, under the durability contract.

The way of an object (DESIGN, promise 1): fragments are queued on the event loop; worker threads
write and hash them into a temporary file; after the last one the header is read and checked
against the command, the file is flushed, put in place without replacing anything, its directory
entry made durable; the index row is committed by the index's writer; then, and only then, the
outcome goes back to the loop. The index is asked last, so that a row never lacks its file.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, assert_never

from dicomnode.dimse.channel import Channel, Lease
from dicomnode.dimse.status import Status
from dicomnode.errors import CannotUnderstand, DataSetMismatch, OutOfResources, StatusError
from dicomnode.index.catalog import (
    Added,
    AddOutcome,
    AlreadyHeld,
    Catalog,
    InstanceEntry,
    InstanceRow,
)
from dicomnode.services.workers import Workers
from dicomnode.storage.files import FileStore, IncomingFile, object_path, valid_uid
from dicomnode.storage.header import Header, read_front, read_header
from dicomnode.storage.part10 import file_meta

# Fragments are handed to a worker in lots of at least this size.
_LOT_BYTES = 96 * 1024
# An object whose unwritten fragments exceed this stops the reading of its association.
_HIGH_WATER_BYTES = 2 * 1024 * 1024
_LOW_WATER_BYTES = 512 * 1024

# How long an answer about free space is believed; an object may be opened each millisecond.
_SPACE_CHECK_SECONDS = 0.1

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018

OnConflict = Literal["keep_first", "replace", "refuse"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the C-STORE request says of an object before its data set has been read."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    source_ae_title: str


@dataclass(frozen=True, slots=True)
class Settled:
    """An object's fate is durable; ``status`` is 0000H or a warning, ``comment`` explains it."""

    status: int
    comment: str = ""


Done = Callable[[Settled | StatusError, int], None]


class IntakeJournal(Protocol):
    """Is told of what an administrator should know; called from worker threads."""

    def conflict(self, arrival: Arrival, policy: str, kept_path: str) -> None:
        """An object with a UID that is held with other bytes arrived."""

    def row_without_file(self, sop_instance_uid: str, path: str) -> None:
        """An index row's file was missing and has been put back by a newcomer."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


class Intake:
    """Runs the pipeline for all associations."""

    def __init__(
        self,
        files: FileStore,
        catalog: Catalog,
        *,
        workers: Workers,
        journal: IntakeJournal,
        on_conflict: OnConflict,
        min_free_bytes: int,
    ) -> None:
        self.files = files
        self.catalog = catalog
        self.workers = workers
        self.journal = journal
        self.on_conflict = on_conflict
        self.min_free_bytes = min_free_bytes
        self.loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._space_checked_at = -math.inf
        # SOP Instance UIDs between placing and commit, each with the objects that wait for it.
        self._placing: dict[str, list[IncomingObject]] = {}

    def begin(self, arrival: Arrival, channel: Channel, done: Done) -> IncomingObject:
        """Return the sink for one object; ``done`` is called on the loop once, unless abandoned."""
        return IncomingObject(self, arrival, channel, done)

    def check_space(self) -> None:
        """Raise OutOfResources when less than ``min_free_bytes`` is free; asks now and then."""
        now = time.monotonic()
        if now - self._space_checked_at < _SPACE_CHECK_SECONDS:
            return
        if self.files.free_bytes() < self.min_free_bytes:
            raise OutOfResources("free space below storage.min_free_bytes")
        self._space_checked_at = now

    def reserve(self, incoming: IncomingObject) -> bool:
        """Let one object of a UID at a time be placed; the others are run when it has settled."""
        uid = incoming.arrival.sop_instance_uid
        with self._lock:
            waiting = self._placing.get(uid)
            if waiting is None:
                self._placing[uid] = []
                return True
            waiting.append(incoming)
            return False

    def free(self, incoming: IncomingObject) -> None:
        """Let the next object of the same UID be placed."""
        uid = incoming.arrival.sop_instance_uid
        with self._lock:
            waiting = self._placing[uid]
            if not waiting:
                del self._placing[uid]
                return
            following = waiting.pop(0)
        self.workers.run(following.place)


class IncomingObject:
    """One object on its way in; the ``DataSetSink`` of its C-STORE.

    ``write``, ``finish`` and ``abandon`` run on the loop, everything else in worker threads, one
    at a time for one object.
    """

    def __init__(self, intake: Intake, arrival: Arrival, channel: Channel, done: Done) -> None:
        self.arrival = arrival
        self._intake = intake
        self._channel = channel
        self._done = done
        self._lock = threading.Lock()
        self._fragments: list[memoryview] = []
        self._leases: list[Lease] = []
        self._pending_bytes = 0
        self._running = False
        self._finished = False
        self._abandoned = False
        self._holding = False
        self._received_bytes = 0
        self._received_at = time.time()
        self._file: IncomingFile | None = None
        self._error: StatusError | None = None
        self._header: Header | None = None
        self._sha256 = ""

    # -- on the loop ---------------------------------------------------------------------------

    def write(self, fragment: memoryview, lease: Lease) -> None:
        lease.retain()
        self._received_bytes += len(fragment)
        with self._lock:
            self._fragments.append(fragment)
            self._leases.append(lease)
            self._pending_bytes += len(fragment)
            start = self._pending_bytes >= _LOT_BYTES and not self._running
            self._running = self._running or start
        if start:
            self._intake.workers.run(self._write_lots)
        if self._pending_bytes > _HIGH_WATER_BYTES and not self._holding:
            self._holding = True
            self._channel.pause()

    def finish(self) -> None:
        self._finished = True
        self._run()

    def abandon(self, why: str) -> None:
        self._abandoned = True
        self._run()

    def _run(self) -> None:
        with self._lock:
            start = not self._running
            self._running = True
        if start:
            self._intake.workers.run(self._write_lots)

    def _release_hold(self) -> None:
        if self._holding and self._pending_bytes < _LOW_WATER_BYTES:
            self._holding = False
            self._channel.resume()

    def _answer(self, outcome: Settled | StatusError) -> None:
        self._done(outcome, self._received_bytes)

    # -- in a worker: writing --------------------------------------------------------------------

    def _write_lots(self) -> None:
        """Write what has arrived until nothing is left, then complete the object if it is whole."""
        while True:
            with self._lock:
                fragments, leases = self._fragments, self._leases
                self._fragments, self._leases = [], []
                self._pending_bytes = 0
                if not fragments and not self._finished and not self._abandoned:
                    self._running = False
                    return
            self._append(fragments, leases)
            if self._holding:
                self._intake.loop.call_soon_threadsafe(self._release_hold)
            if self._abandoned:
                self._discard()
                return
            if self._finished and not self._fragments:
                self._complete()
                return

    def _append(self, fragments: list[memoryview], leases: list[Lease]) -> None:
        try:
            if self._error is None and not self._abandoned:
                if self._file is None:
                    self._file = self._open()
                    self._header = self._read_early(fragments)
                self._file.append(fragments)
        except StatusError as error:
            self._error = error
        except Exception as error:
            self._intake.journal.internal_error("writing an object", error)
            self._error = OutOfResources("internal error while writing")
        finally:
            # The views must be gone before their buffers are filled again.
            fragments.clear()
            for lease in leases:
                lease.release()

    def _read_early(self, fragments: list[memoryview]) -> Header | None:
        """Read the header from memory, while the rest of the object is still on its way."""
        front = b"".join(fragments)
        is_whole = self._finished and len(front) == self._received_bytes
        return read_front(front, self.arrival.transfer_syntax_uid, is_whole=is_whole)

    def _open(self) -> IncomingFile:
        self._intake.check_space()
        files = self._intake.files
        arrival = self.arrival
        return files.begin(
            file_meta(
                arrival.sop_class_uid,
                arrival.sop_instance_uid,
                arrival.transfer_syntax_uid,
                source_ae_title=arrival.source_ae_title,
            )
        )

    def _discard(self) -> None:
        if self._file is not None:
            self._file.discard()
            self._file = None

    # -- in a worker: completing -----------------------------------------------------------------

    def _complete(self) -> None:
        try:
            if self._error is not None:
                raise self._error
            if self._file is None:
                raise CannotUnderstand("the data set is empty")
            self._check(self._file)
            self._file.flush()
            self._sha256 = self._file.sha256()
        except StatusError as error:
            self._discard()
            self._settle(error)
        except Exception as error:
            self._intake.journal.internal_error("completing an object", error)
            self._discard()
            self._settle(OutOfResources("internal error while completing"))
        else:
            if self._intake.reserve(self):
                self.place()

    def _check(self, file: IncomingFile) -> None:
        """Read the header; refuse an object that is not what its command said."""
        header = self._header
        if header is None:
            header = self._header = read_header(
                file.fd, file.data_set_offset, file.data_set_bytes, self.arrival.transfer_syntax_uid
            )
        if header.sop_instance_uid != self.arrival.sop_instance_uid:
            raise DataSetMismatch(
                "SOP Instance UID differs from the command's", offending=(_SOP_INSTANCE_UID,)
            )
        if header.sop_class_uid != self.arrival.sop_class_uid:
            raise DataSetMismatch(
                "SOP Class UID differs from the command's", offending=(_SOP_CLASS_UID,)
            )
        for uid, name in (
            (header.study_instance_uid, "Study Instance UID"),
            (header.series_instance_uid, "Series Instance UID"),
        ):
            if not valid_uid(uid):
                raise DataSetMismatch(f"{name} is missing or no UID")

    # -- in a worker: placing and indexing -------------------------------------------------------

    def place(self) -> None:
        """Put the file under its final name and have it indexed; the UID is reserved."""
        try:
            self._place()
        except StatusError as error:
            self._discard()
            self._settle_reserved(error)
        except Exception as error:
            self._intake.journal.internal_error("placing an object", error)
            self._discard()
            self._settle_reserved(OutOfResources("internal error while placing"))

    def _place(self) -> None:
        file, header = self._file, self._header
        assert file is not None and header is not None
        try:
            path = file.place(
                header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
            )
        except FileExistsError:
            self._meet(self._intake.catalog.get(header.sop_instance_uid))
            return
        self._intake.catalog.add(self._entry(path), self._indexed)

    def _entry(self, path: str) -> InstanceEntry:
        file, header = self._file, self._header
        assert file is not None and header is not None
        return InstanceEntry.from_header(
            header,
            path=path,
            transfer_syntax_uid=self.arrival.transfer_syntax_uid,
            size_bytes=file.size_bytes,
            data_set_bytes=file.data_set_bytes,
            sha256=self._sha256,
            source_ae=self.arrival.source_ae_title,
            received_at=self._received_at,
        )

    def _indexed(self, outcome: AddOutcome | BaseException) -> None:
        """Take the index's answer, in its writer thread."""
        match outcome:
            case Added():
                self._settle_reserved(Settled(Status.SUCCESS))
            case AlreadyHeld(row):
                self._intake.workers.run(lambda: self._held_elsewhere(row))
            case BaseException() as error:
                self._intake.workers.run(lambda: self._not_indexed(error))
            case _:
                assert_never(outcome)

    def _not_indexed(self, error: BaseException) -> None:
        """Take the file back: an object without a row was not stored."""
        self._intake.journal.internal_error("the index", error)
        with contextlib.suppress(StatusError):  # recovery meets what stays
            self._intake.files.remove(self._path())
        self._settle_reserved(OutOfResources("the index failed"))

    def _path(self) -> str:
        header = self._header
        assert header is not None
        return object_path(
            header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
        )

    # -- in a worker: the UID is held already ------------------------------------------------------

    def _meet(self, row: InstanceRow | None) -> None:
        """Go on when the file's name is taken; ``row`` is what the index knows of the UID."""
        file = self._file
        assert file is not None
        path = self._path()
        if row is None:
            # Nobody was told that the file there is stored: the index failed, or a crash.
            if self._intake.files.digest_file(path) != self._sha256:
                self._intake.files.park(path, "placed, but never acknowledged")
                self._place()
                return
            file.discard()
            self._intake.catalog.add(self._entry(path), self._indexed)
            return
        if self._is_same(row):
            file.discard()
            self._settle_reserved(Settled(Status.SUCCESS))
            return
        self._intake.journal.conflict(self.arrival, self._intake.on_conflict, row.path)
        match self._intake.on_conflict:
            case "keep_first":
                file.quarantine(_HELD)
                self._settle_reserved(_KEPT_ASIDE)
            case "refuse":
                file.discard()
                self._settle_reserved(_DUPLICATE)
            case "replace":
                header = self._header
                assert header is not None
                file.place_over(
                    header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
                )
                if row.path != path:
                    self._intake.files.park(row.path, "replaced")
                self._intake.catalog.replace(self._entry(path), self._replaced)
            case _:
                assert_never(self._intake.on_conflict)

    def _held_elsewhere(self, row: InstanceRow) -> None:
        """Go on when the file is placed and the index knows the UID under another path.

        Under the same path the row's file had been missing, and has now come back.
        """
        intake, path = self._intake, self._path()
        try:
            if row.path == path:
                intake.journal.row_without_file(self.arrival.sop_instance_uid, path)
                if self._is_same(row):
                    self._settle_reserved(Settled(Status.SUCCESS))
                else:
                    intake.catalog.replace(self._entry(path), self._replaced)
                return
            intake.journal.conflict(self.arrival, intake.on_conflict, row.path)
            match intake.on_conflict:
                case "keep_first":
                    intake.files.park(path, _HELD, sha256=self._sha256)
                    self._settle_reserved(_KEPT_ASIDE)
                case "refuse":
                    intake.files.remove(path)
                    self._settle_reserved(_DUPLICATE)
                case "replace":
                    intake.files.park(row.path, "replaced", sha256=row.sha256)
                    intake.catalog.replace(self._entry(path), self._replaced)
                case _:
                    assert_never(intake.on_conflict)
        except StatusError as error:
            self._settle_reserved(error)

    def _is_same(self, row: InstanceRow) -> bool:
        return (
            row.sha256 == self._sha256
            and row.transfer_syntax_uid == self.arrival.transfer_syntax_uid
        )

    def _replaced(self, outcome: AddOutcome | BaseException) -> None:
        """Take the index's answer to a replacement, in its writer thread."""
        if isinstance(outcome, BaseException):
            self._intake.journal.internal_error("the index", outcome)
            self._settle_reserved(OutOfResources("the index failed"))
        else:
            self._settle_reserved(Settled(Status.SUCCESS))

    # -- the outcome -----------------------------------------------------------------------------

    def _settle_reserved(self, outcome: Settled | StatusError) -> None:
        self._intake.free(self)
        self._settle(outcome)

    def _settle(self, outcome: Settled | StatusError) -> None:
        self._intake.loop.call_soon_threadsafe(self._answer, outcome)


_HELD = "the SOP Instance UID is held with other bytes"
_KEPT_ASIDE = Settled(
    Status.COERCION_OF_DATA_ELEMENTS, "UID is held with other bytes; this one is in quarantine"
)
_DUPLICATE = StatusError("UID is held with other bytes", status=Status.DUPLICATE_SOP_INSTANCE)
