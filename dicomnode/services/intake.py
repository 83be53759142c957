"""The intake: takes objects as they arrive to disk and index, under the durability contract.

The way of an object (DESIGN, promise 1): fragments are queued on the event loop; worker threads
write and hash them into a temporary file; after the last one the header is read and checked
against the command, and the file is flushed. Then it is placed (``placing``): put in place
without replacing anything, its directory entry made durable, its index row committed; then, and
only then, the outcome goes back to the loop.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from dicomnode.dimse.channel import LOT_BYTES, Lease
from dicomnode.errors import DataSetMismatch, OutOfResources, StatusError
from dicomnode.index.catalog import Catalog
from dicomnode.observe.words import size
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.keeping import KeptPlacement
from dicomnode.services.placing import (
    Arrival,
    Forwarding,
    IntakeJournal,
    OnConflict,
    Outcome,
    Placement,
    Placer,
    Received,
    Settled,
)
from dicomnode.services.settling import Settler
from dicomnode.services.turns import Turns
from dicomnode.services.workers import GroupWorker, Workers
from dicomnode.storage.files import FileStore
from dicomnode.storage.header import HEADER_END, Header, read_front, read_header
from dicomnode.storage.incoming import IncomingFile
from dicomnode.storage.part10 import file_meta
from dicomnode.storage.paths import valid_uid

__all__ = ["Arrival", "Forwarding", "Intake", "IntakeJournal", "OnConflict", "Settled"]

# An object whose unwritten fragments exceed this stops the reading of its association.
_HIGH_WATER_BYTES = 2 * 1024 * 1024
_LOW_WATER_BYTES = 512 * 1024

# Data sets up to this are kept in the index until their files have been flushed.
_SMALL_BYTES = 64 * 1024

# How long an answer about free space is believed; an object may be opened each millisecond.
_SPACE_CHECK_SECONDS = 0.1

_SOP_CLASS_UID = 0x00080016
_SOP_INSTANCE_UID = 0x00080018

Done = Callable[[Outcome, int], None]


class Sender(Protocol):
    """Whom objects come from, such as a channel; is held up when the disk is slower."""

    def pause(self) -> None:
        """Send nothing for now; calls nest."""

    def resume(self) -> None:
        """Undo one ``pause``."""


class Intake:
    """Runs the pipeline for all associations; ``now`` says when objects are received."""

    def __init__(
        self,
        files: FileStore,
        catalog: Catalog,
        *,
        workers: Workers,
        group: GroupWorker,
        turns: Turns,
        settler: Settler,
        journal: IntakeJournal,
        on_conflict: OnConflict,
        min_free_bytes: int,
        forwarding: Forwarding | None = None,
        auditing: Auditing | None = None,
        custodian: Custodian | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.now = now
        self.files = files
        self.workers = workers
        self.group = group
        self.settler = settler
        self.journal = journal
        self.auditing = auditing
        self.min_free_bytes = min_free_bytes
        self.loop = asyncio.get_running_loop()
        self.placer = Placer(
            files,
            catalog,
            workers=workers,
            journal=journal,
            on_conflict=on_conflict,
            turns=turns,
            forwarding=forwarding,
            custodian=custodian,
        )
        self._forwarding = forwarding
        self._space_checked_at = -math.inf

    @property
    def header_end(self) -> int:
        """The tag up to which headers are read now; a reload of the rules may move it."""
        return HEADER_END if self._forwarding is None else self._forwarding.header_end

    def begin(self, arrival: Arrival, sender: Sender, done: Done) -> IncomingObject:
        """Return the sink for one object; ``done`` is called on the loop once, unless abandoned."""
        return IncomingObject(self, arrival, sender, done)

    def check_space(self) -> None:
        """Raise OutOfResources when less than ``min_free_bytes`` is free; asks now and then."""
        now = time.monotonic()
        if now - self._space_checked_at < _SPACE_CHECK_SECONDS:
            return
        if (free := self.files.free_bytes()) < self.min_free_bytes:
            raise OutOfResources(
                "free space below storage.min_free_bytes",
                rule="storage.min_free_bytes",
                advice=f"{size(free)} are free, {size(self.min_free_bytes)} are to stay free: make"
                " room on the disk of storage.directory, or lower storage.min_free_bytes and"
                " restart the node.",
            )
        self._space_checked_at = now


class IncomingObject:
    """One object on its way in; the ``DataSetSink`` of its C-STORE.

    ``write``, ``finish`` and ``abandon`` run on the loop, everything else in worker threads, one
    at a time for one object. ``received_bytes`` counts what has come.
    """

    def __init__(self, intake: Intake, arrival: Arrival, sender: Sender, done: Done) -> None:
        self.arrival = arrival
        self._intake = intake
        self._sender = sender
        self._done = done
        self._lock = threading.Lock()
        self._fragments: list[memoryview] = []
        self._leases: list[Lease] = []
        self._pending_bytes = 0
        self._running = False
        self._finished = False
        self._abandoned = False
        self._holding = False
        self.received_bytes = 0
        self._received_at = intake.now()
        self._file: IncomingFile | None = None
        # The whole file, where the index is to keep it until it has been flushed.
        self._is_kept = False
        self._contents: bytes | None = None
        self._error: StatusError | None = None
        self._header: Header | None = None

    # -- on the loop ---------------------------------------------------------------------------

    def write(self, fragment: memoryview, lease: Lease) -> None:
        lease.retain()
        self.received_bytes += len(fragment)
        with self._lock:
            self._fragments.append(fragment)
            self._leases.append(lease)
            self._pending_bytes += len(fragment)
            start = self._pending_bytes >= LOT_BYTES and not self._running
            self._running = self._running or start
            # Said before a worker can take the fragments: whoever takes them ends the hold.
            hold = self._pending_bytes > _HIGH_WATER_BYTES and not self._holding
            self._holding = self._holding or hold
        if start:
            self._intake.workers.run(self._write_lots, self.arrival.source_ae_title)
        if hold:
            self._sender.pause()

    def finish(self) -> None:
        self._finished = True
        if self.received_bytes <= _SMALL_BYTES and not self._running:
            self._is_kept = self._intake.settler.takes(self.received_bytes)
        self._run()

    def abandon(self, why: str) -> None:
        self._abandoned = True
        self._run()

    def _run(self) -> None:
        with self._lock:
            start = not self._running
            self._running = True
        if start and self._is_kept:
            self._intake.group.run(self._write_lots, self.arrival.source_ae_title)
        elif start:
            self._intake.workers.run(self._write_lots, self.arrival.source_ae_title)

    def _release_hold(self) -> None:
        if self._holding and self._pending_bytes < _LOW_WATER_BYTES:
            self._holding = False
            self._sender.resume()

    def _answer(self, outcome: Outcome) -> None:
        self._done(outcome, self.received_bytes)
        if self._intake.auditing is not None:
            self._intake.auditing.object_settled(self.arrival, self._header, outcome)

    # -- in a worker: writing --------------------------------------------------------------------

    def _write_lots(self) -> None:
        """Write what has arrived until nothing is left, then complete the object if it is whole."""
        while True:
            with self._lock:
                # Nothing arrives after either: the lot that is taken now is the last.
                finished, abandoned = self._finished, self._abandoned
                fragments, leases = self._fragments, self._leases
                self._fragments, self._leases = [], []
                self._pending_bytes = 0
                if not fragments and not finished and not abandoned:
                    self._running = False
                    return
            self._append(fragments, leases)
            if self._holding:
                self._intake.loop.call_soon_threadsafe(self._release_hold)
            if abandoned:
                self._discard()
                return
            if finished:
                self._complete()
                return

    def _append(self, fragments: list[memoryview], leases: list[Lease]) -> None:
        try:
            if self._error is None and not self._abandoned:
                if self._file is None:
                    self._file = self._begin(fragments)
                self._file.append(fragments, flush_follows=not self._is_kept)
        except StatusError as error:
            self._fail(error)
        except Exception as error:
            self._intake.journal.internal_error("writing an object", error)
            self._fail(OutOfResources("internal error while writing"))
        finally:
            # The views must be gone before their buffers are filled again.
            fragments.clear()
            for lease in leases:
                lease.release()

    def _fail(self, error: StatusError) -> None:
        """Remember the answer, and give back the room that the object takes until it is due."""
        self._error = error
        self._discard()

    def _begin(self, fragments: list[memoryview]) -> IncomingFile:
        """Make the file, and read the header from memory while the rest is still on its way."""
        self._intake.check_space()
        arrival = self.arrival
        meta = file_meta(
            arrival.sop_class_uid,
            arrival.sop_instance_uid,
            arrival.transfer_syntax_uid,
            source_ae_title=arrival.source_ae_title,
        )
        front = b"".join(fragments)
        if self._is_kept:
            self._contents = meta + front
        is_whole = self._finished and len(front) == self.received_bytes
        syntax, end = arrival.transfer_syntax_uid, self._intake.header_end
        self._header = read_front(front, syntax, is_whole=is_whole, end=end)
        return self._intake.files.begin(meta)

    def _discard(self) -> None:
        if self._file is not None:
            self._file.discard()
            self._file = None

    # -- in a worker: completing -----------------------------------------------------------------

    def _complete(self) -> None:
        try:
            if self._error is not None:
                raise self._error
            assert self._file is not None
            header = self._check(self._file)
            placement = self._placement(self._file, header)
        except StatusError as error:
            self._discard()
            self._settle(error)
        except Exception as error:
            self._intake.journal.internal_error("completing an object", error)
            self._discard()
            self._settle(OutOfResources("internal error while completing"))
        else:
            self._intake.placer.place(placement)

    def _placement(self, file: IncomingFile, header: Header) -> Placement:
        placer = self._intake.placer
        received = Received(self.arrival, file, header, self._received_at)
        if self._contents is not None:
            return KeptPlacement(placer, received, self._settle, self._contents)
        file.flush()
        return Placement(placer, received, self._settle)

    def _check(self, file: IncomingFile) -> Header:
        """Return the header; refuse an object that is not what its command said."""
        header = self._header
        if header is None:
            header = read_header(
                file.fd,
                file.data_set_offset,
                file.data_set_bytes,
                self.arrival.transfer_syntax_uid,
                self._intake.header_end,
            )
            self._header = header
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
        return header

    # -- the outcome -----------------------------------------------------------------------------

    def _settle(self, outcome: Outcome) -> None:
        self._intake.loop.call_soon_threadsafe(self._answer, outcome)
