"""Placing: how an object that has arrived whole gets its name and its row, and what is answered.

Objects of one SOP Instance UID are placed one at a time. The index is asked last, so that a row
never lacks its file; what was placed and then not indexed is taken back, so that an object that
was refused leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, assert_never

from dicomnode.dimse.channel import Channel
from dicomnode.dimse.status import Status
from dicomnode.errors import CannotUnderstand, CatalogError, OutOfResources, StatusError
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
from dicomnode.index.removals import Removals
from dicomnode.services.custody import Custodian, Details, came_from
from dicomnode.services.turns import Turns
from dicomnode.services.workers import Workers
from dicomnode.storage.files import FileStore
from dicomnode.storage.header import Header
from dicomnode.storage.incoming import IncomingFile
from dicomnode.storage.paths import object_path

OnConflict = Literal["keep_first", "replace", "refuse"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the C-STORE request says of an object before its data set has been read.

    ``channel`` is the association that it came on, None for one that this node asked for it on.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    source_ae_title: str
    channel: Channel | None = field(default=None, compare=False)

    @property
    def origin(self) -> Details:
        """Who sent it and how, as the custody log says it."""
        return came_from(self.channel, self.source_ae_title)


@dataclass(frozen=True, slots=True)
class Settled:
    """An object's fate is durable; ``status`` is 0000H or a warning, ``comment`` explains it.

    ``is_new`` tells whether it was not held before.
    """

    status: int
    comment: str = ""
    is_new: bool = field(default=True, compare=False)


Outcome = Settled | StatusError


class Forwarding(Protocol):
    """Decides what becomes of an object besides being stored; called from worker threads."""

    @property
    def header_end(self) -> int:
        """The tag up to which headers are read for it."""

    def attachment(self, entry: InstanceEntry) -> ObjectAttachment | None:
        """Return what is to be committed with the row of an object."""


class IntakeJournal(Protocol):
    """Is told of what an administrator should know; called from worker threads."""

    def conflict(self, arrival: Arrival, policy: str, kept_path: str) -> None:
        """An object with a UID that is held with other bytes arrived."""

    def row_without_file(self, sop_instance_uid: str, path: str) -> None:
        """An index row's file was missing or damaged; a newcomer has taken its place."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


class Placer:
    """Places the objects of all associations, of one UID one at a time."""

    def __init__(
        self,
        files: FileStore,
        catalog: Catalog,
        *,
        workers: Workers,
        journal: IntakeJournal,
        on_conflict: OnConflict,
        turns: Turns,
        forwarding: Forwarding | None,
        custodian: Custodian | None = None,
    ) -> None:
        self.files = files
        self.catalog = catalog
        self.workers = workers
        self.journal = journal
        self.on_conflict = on_conflict
        self.removals = Removals(catalog)
        self.custodian = custodian
        self._turns = turns
        self._forwarding = forwarding

    def place(self, placement: Placement) -> None:
        """Place an object now, or when those of its UID that came before have settled."""
        arrival = placement.arrival

        def wake() -> None:
            self.workers.run(placement.run, arrival.source_ae_title)

        if self._turns.take(arrival.sop_instance_uid, wake):
            placement.run()

    def free(self, placement: Placement) -> None:
        """Let the next object of the same UID be placed."""
        self._turns.give_up(placement.arrival.sop_instance_uid)

    def attachment(
        self, entry: InstanceEntry, arrival: Arrival, replaced: InstanceRow | None = None
    ) -> ObjectAttachment | None:
        """Return what is to be committed with an object's row; ``replaced`` gives way to it."""
        forwarding, custodian = self._forwarding, self.custodian
        return Together.of(
            (
                forwarding.attachment(entry) if forwarding is not None else None,
                custodian.received(entry, arrival.origin, replaced) if custodian else None,
            )
        )


@dataclass(frozen=True, slots=True)
class Received:
    """An object that is whole, in its temporary file; ``at`` is in seconds since 1970 UTC."""

    arrival: Arrival
    file: IncomingFile
    header: Header
    at: float


class Placement:
    """One object, checked and flushed, on its way from its temporary file to its outcome.

    Steps run in worker threads, one at a time. Each returns the outcome, or None when the index
    has been asked and its answer will take the next step. ``settle`` gets the outcome, once.
    """

    def __init__(
        self, placer: Placer, received: Received, settle: Callable[[Outcome], None]
    ) -> None:
        self.arrival = received.arrival
        self._placer = placer
        self._file = received.file
        self._header = header = received.header
        self._received_at = received.at
        self._settle = settle
        self._sha256 = self._file.sha256()
        self._path = object_path(
            header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
        )
        self._is_placed = False
        # Where the file is kept that had the name before.
        self._kept = ""

    def run(self) -> None:
        """Place the object; nobody else places one of its UID meanwhile."""
        self._take(self._place)

    def _take(self, step: Callable[[], Outcome | None]) -> None:
        """Take one step; whatever it raises is the object's outcome."""
        try:
            outcome = step()
        except StatusError as error:
            outcome = error
        except CatalogError as error:
            outcome = self._index_failed(error)
        except Exception as error:
            self._placer.journal.internal_error("placing an object", error)
            outcome = OutOfResources("internal error while placing")
        if isinstance(outcome, StatusError):
            self._take_back()
        if outcome is not None:
            self._end(outcome)

    def _take_later(self, step: Callable[[], Outcome | None]) -> None:
        """Leave the index's thread, which has others to serve."""
        self._placer.workers.run(lambda: self._take(step), self.arrival.source_ae_title)

    def _take_back(self) -> None:
        files = self._placer.files
        with contextlib.suppress(StatusError):  # recovery meets what stays
            if self._kept:
                files.put_back(self._kept, self._path)
            elif self._is_placed:
                files.remove(self._path)

    def _end(self, outcome: Outcome) -> None:
        self._file.discard()
        self._placer.free(self)
        self._settle(outcome)

    # -- steps -----------------------------------------------------------------------------------

    def _place(self) -> Outcome | None:
        try:
            self._name()
        except FileExistsError:
            return self._meet(self._placer.catalog.get(self._header.sop_instance_uid))
        entry = self._entry()
        also = self._placer.attachment(entry, self.arrival)
        self._placer.catalog.add(entry, self._indexed, also=also)
        return None

    def _replace(self, row: InstanceRow) -> None:
        """Have the index take this object for the one it has."""
        entry = self._entry()
        also = self._placer.attachment(entry, self.arrival, row)
        self._placer.catalog.replace(entry, self._replaced, also)

    def _name(self, *, flush: bool = True) -> None:
        header = self._header
        self._file.place(
            header.study_instance_uid,
            header.series_instance_uid,
            header.sop_instance_uid,
            flush=flush,
        )
        self._is_placed = True

    def _entry(self) -> InstanceEntry:
        return InstanceEntry.from_header(
            self._header,
            path=self._path,
            transfer_syntax_uid=self.arrival.transfer_syntax_uid,
            size_bytes=self._file.size_bytes,
            data_set_bytes=self._file.data_set_bytes,
            sha256=self._sha256,
            file_sha256=self._file.file_sha256(),
            source_ae=self.arrival.source_ae_title,
            received_at=self._received_at,
        )

    def _indexed(self, outcome: AddOutcome | BaseException) -> None:
        """Take the index's answer, in its writer thread."""
        match outcome:
            case Added():
                self._end(STORED)
            case AlreadyHeld(row):
                self._take_later(lambda: self._held(row))
            case BaseException() as error:
                self._take_later(lambda: self._index_failed(error))
            case _:
                assert_never(outcome)

    def _index_failed(self, error: BaseException) -> Outcome:
        """An object without a row was not stored."""
        self._placer.journal.internal_error("the index", error)
        return OutOfResources("the index failed")

    def _meet(self, row: InstanceRow | None) -> Outcome | None:
        """Go on when the file's name is taken; ``row`` is what the index knows of the UID."""
        files, path = self._placer.files, self._path
        if row is None or row.path != path:
            self._clear_way()
            return self._place()
        if not self._is_same(row):
            return self._replace_at(row)
        try:
            if files.digest_whole_file(path) == row.file_sha256:
                return self._same()
        except OutOfResources as error:
            if not _is_of_disk(error):
                raise
            # Its digest cannot be had: this is what it should be.
            files.park(path, "the disk cannot read it", sha256=row.sha256)
        else:
            files.park(path, "damaged: not the bytes that were received")
        return self._place()

    def _clear_way(self) -> None:
        """Move a file that nobody was told is stored; it may not survive a power loss.

        One that should have gone with a deleted object goes now.
        """
        removals = self._placer.removals
        if removals.is_to_go(self._path):
            self._placer.files.remove_all([self._path])
            removals.forget([self._path])
        elif self._is_copied_at(self._path):
            self._placer.files.remove(self._path)
        else:
            self._placer.files.park(self._path, "placed, but never acknowledged")

    def _replace_at(self, row: InstanceRow) -> Outcome | None:
        """Apply the policy where the row's file has the name that this object would have."""
        placer, header = self._placer, self._header
        placer.journal.conflict(self.arrival, placer.on_conflict, row.path)
        match placer.on_conflict:
            case "keep_first":
                return self._kept_aside(self._file.quarantine(_HELD))
            case "refuse":
                return _DUPLICATE
            case "replace":
                self._kept = self._file.place_over(
                    header.study_instance_uid, header.series_instance_uid, header.sop_instance_uid
                )
                self._is_placed = True
                self._replace(row)
                return None
            case _:
                assert_never(placer.on_conflict)

    def _held(self, row: InstanceRow) -> Outcome | None:
        """Go on when the file is placed and the index has a row of the UID."""
        placer, files = self._placer, self._placer.files
        if row.path == self._path or not files.exists(row.path):
            placer.journal.row_without_file(row.sop_instance_uid, row.path)
            is_same = row.path == self._path and self._is_same(row)
            if is_same and row.file_sha256 == self._file.file_sha256():
                return self._same(mends=True)
            self._replace(row)
            return None
        placer.journal.conflict(self.arrival, placer.on_conflict, row.path)
        match placer.on_conflict:
            case "keep_first":
                return self._kept_aside(files.park(self._path, _HELD, sha256=self._sha256))
            case "refuse":
                return _DUPLICATE
            case "replace":
                # It goes to the quarantine, and the index may be what its bytes are durable in.
                files.flush_object(row.path)
                self._replace(row)
                return None
            case _:
                assert_never(placer.on_conflict)

    def _replaced(self, outcome: AddOutcome | BaseException) -> None:
        """Take the index's answer to a replacement, in its writer thread."""
        if isinstance(outcome, BaseException):
            self._take_later(lambda: self._index_failed(outcome))
        else:
            self._take_later(lambda: self._put_away(outcome))

    def _put_away(self, outcome: AddOutcome) -> Outcome:
        """Keep aside the file of the row that gave way; ours is stored whatever comes of it."""
        files = self._placer.files
        row = outcome.replaced if isinstance(outcome, Added) else None
        if row is not None and row.path != self._path:
            with contextlib.suppress(StatusError):  # recovery parks what stays
                if files.exists(row.path):
                    files.park(row.path, "replaced")
        return STORED

    def _same(self, *, mends: bool = False) -> Outcome:
        """Answer an object that is held already; ``mends``: its file was missing or damaged."""
        if (custodian := self._placer.custodian) is not None:
            custodian.received_again(self._entry(), self.arrival.origin, mends=mends)
        return _SAME

    def _kept_aside(self, path: str) -> Outcome:
        """Answer an object that has been put into the quarantine."""
        if (custodian := self._placer.custodian) is not None:
            custodian.kept_aside(self._entry(), self.arrival.origin, _HELD, path)
        return _KEPT_ASIDE

    # -- questions -------------------------------------------------------------------------------

    def _is_same(self, row: InstanceRow) -> bool:
        return (
            row.sha256 == self._sha256
            and row.transfer_syntax_uid == self.arrival.transfer_syntax_uid
        )

    def _is_copied_at(self, path: str) -> bool:
        """Tell whether a stored file has this object's bytes: rows say what it should have."""
        try:
            return self._placer.files.digest_file(path) == self._sha256
        except CannotUnderstand:
            return False


def _is_of_disk(error: OutOfResources) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO


STORED = Settled(Status.SUCCESS)
_SAME = Settled(Status.SUCCESS, is_new=False)
_HELD = "the SOP Instance UID is held with other bytes"
_KEPT_ASIDE = Settled(
    Status.COERCION_OF_DATA_ELEMENTS, "UID is held with other bytes; this one is in quarantine"
)
_DUPLICATE = StatusError(
    "UID is held with other bytes",
    status=Status.DUPLICATE_SOP_INSTANCE,
    rule="storage.on_conflict",
    advice="Whoever makes the objects has to give each a UID of its own. storage.on_conflict says"
    " which of two is kept; a change needs a restart of the node.",
)
