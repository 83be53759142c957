"""Checking what a storage commitment is asked for: each file is read again and compared.

What counts is the data set: its SHA-256 was taken as it was received, and must be that of the
file still. Threads of their own do this, so that neither receiving nor answering waits for it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, Protocol

from dicomnode.dimse.status import Status
from dicomnode.errors import CannotUnderstand, CatalogError, DicomnodeError, OutOfResources
from dicomnode.index.catalog import Catalog, InstanceRow
from dicomnode.index.commitments import Commitment, Commitments, Referenced, Standing
from dicomnode.index.reading import batches
from dicomnode.services.custody import Custodian, Details
from dicomnode.services.verified_reads import VerifiedReads
from dicomnode.storage.disk import OpenFile, is_shortage
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import read_file_meta

_LOOKED_UP_TOGETHER: Final = 256
_PIECE_BYTES: Final = 1024 * 1024
# What is longer is not kept in memory for its own sake: it would push out what others read.
_CACHED_BYTES: Final = 4 * _PIECE_BYTES
# A thread works for so long, then rests: it would not let the event loop have the interpreter
# for more than a moment of its own accord.
_WORK_SECONDS: Final = 0.002
_REST_SECONDS: Final = 0.001
# After a fault of the index, or a shortage: it is tried again, but not at once.
_PAUSE_SECONDS: Final = 5.0


class Stopped(DicomnodeError):
    """The node stops; what was being checked is checked again after the next start."""


class Shortage(DicomnodeError):
    """The process lacks what it takes to read files; the commitment is checked again."""


# Who met a file that is not whole, for the list of those.
_BY: Final = "commitment"


@dataclass(frozen=True, slots=True)
class Damage:
    """An object whose file is not what was received; ``why`` is fit for the log."""

    sop_instance_uid: str
    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to: Failure Reasons (PS3.3 §C.14.1.1) by the place of the reference."""

    reasons: dict[int, int]
    damages: list[Damage]


class Journal(Protocol):
    """Is told of faults; called from the threads that check."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


class Checker:
    """Checks pending commitments, in two threads.

    One takes what came first, the other what is smallest: so that none waits for ever, and a
    small one never for a large one. ``on_checked`` is called in the thread once the outcome of a
    commitment is durable.
    """

    def __init__(
        self,
        commitments: Commitments,
        catalog: Catalog,
        files: FileStore,
        journal: Journal,
        on_checked: Callable[[Standing, Checked], None],
        custodian: Custodian | None = None,
        verified: VerifiedReads | None = None,
    ) -> None:
        self._verified = verified
        self._custodian = custodian
        self._commitments = commitments
        self._catalog = catalog
        self._files = files
        self._journal = journal
        self._on_checked = on_checked
        self._in_hand: set[int] = set()
        self._taking = threading.Lock()
        self._more = threading.Event()
        self._stopping = threading.Event()
        # Short files are read by one thread at a time: two would only take the interpreter from
        # the event loop in turns.
        self._turn = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(smallest,), name=name, daemon=True)
            for smallest, name in ((False, "commitment-first"), (True, "commitment-smallest"))
        ]

    def start(self) -> None:
        """Begin with what an earlier run of the node has left."""
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There is a new commitment; returns at once."""
        self._more.set()

    def close(self) -> None:
        """End the threads; blocks until they have noticed."""
        self._stopping.set()
        self._more.set()
        for thread in self._threads:
            if thread.is_alive():  # not when the node failed to start
                thread.join()

    def _run(self, smallest: bool) -> None:
        while not self._stopping.is_set():
            self._more.clear()
            try:
                if not self._check_next(smallest) and not self._stopping.is_set():
                    self._more.wait()
            except Stopped:
                return
            except Exception as error:
                self._journal.internal_error("checking a storage commitment", error)
                self._stopping.wait(_PAUSE_SECONDS)

    def _check_next(self, smallest: bool) -> bool:
        """Check one commitment; False when there is none."""
        with self._taking:
            commitment = self._commitments.next_pending(self._in_hand, smallest=smallest)
            if commitment is None:
                return False
            standing = commitment.standing
            self._in_hand.add(standing.id)
        try:
            checked = self._checked(commitment)
            self._record(commitment, checked)
            self._commitments.checked(standing.id, checked.reasons)
        finally:
            self._in_hand.discard(standing.id)
        self._on_checked(standing, checked)
        return True

    def _record(self, commitment: Commitment, checked: Checked) -> None:
        """Record what is committed, before anybody is told."""
        if self._custodian is None:
            return
        standing, references = commitment.standing, commitment.references
        kept = [uid for place, (_, uid) in enumerate(references) if place not in checked.reasons]
        details: Details = {
            "by": standing.called_ae_title,
            "to": standing.requester,
            "transaction_uid": standing.transaction_uid,
        }
        self._custodian.committed(kept, details)

    # -- one commitment ----------------------------------------------------------------------------

    def _checked(self, commitment: Commitment) -> Checked:
        """Check, but whatever goes wrong: one that cannot be checked must not hold up the rest."""
        try:
            return self._check(commitment)
        except (Stopped, Shortage, CatalogError):
            raise
        except Exception as error:
            self._journal.internal_error("checking a storage commitment", error)
            places = range(len(commitment.references))
            return Checked(dict.fromkeys(places, Status.PROCESSING_FAILURE), [])

    def _check(self, commitment: Commitment) -> Checked:
        damages: dict[str, Damage] = {}
        classes: dict[str, str] = {}
        wanted = dict.fromkeys(uid for _, uid in commitment.references)
        rested_at = time.monotonic()
        for uids in batches(wanted, _LOOKED_UP_TOGETHER):
            for row in self._rows(uids):
                if time.monotonic() - rested_at > _WORK_SECONDS:
                    self._stopping.wait(_REST_SECONDS)
                    rested_at = time.monotonic()
                classes[row.sop_instance_uid] = row.sop_class_uid
                if (damage := self._damage(row)) is not None:
                    damages[row.sop_instance_uid] = damage
        reasons = {
            place: reason
            for place, reference in enumerate(commitment.references)
            if (reason := _reason(reference, classes, damages)) is not None
        }
        return Checked(reasons, list(damages.values()))

    def _rows(self, uids: Sequence[str]) -> list[InstanceRow]:
        ids = self._catalog.select_instances({"SOPInstanceUID": uids})
        return self._catalog.instance_rows(ids)

    def _damage(self, row: InstanceRow) -> Damage | None:
        """Compare the file with what was received; None when it is that."""
        with self._turn if row.size_bytes <= _PIECE_BYTES else nullcontext():
            why = self._mismatch(row)
        if why is None:
            return None
        held = self._catalog.get(row.sop_instance_uid)
        if held is not None and held != row:
            # Another object has taken its place meanwhile, as storage.on_conflict allows.
            row, why = held, self._mismatch(held)
        if why is None:
            return None
        if self._verified is not None:
            self._verified.failed(row, _BY)
        return Damage(row.sop_instance_uid, row.path, why)

    def _mismatch(self, row: InstanceRow) -> str | None:
        try:
            file = OpenFile(self._files.open_object(row.path))
            offset = read_file_meta(file.fileno()).data_set_offset
            digest = self._digest(file, offset)
        except (CannotUnderstand, OutOfResources, OSError) as error:
            if is_shortage(error):
                raise Shortage(f"{row.path} could not be read for now: {error}") from error
            if isinstance(error, OSError):
                return f"the file cannot be read: {error.strerror}"
            return error.comment
        return None if digest == row.sha256 else "the file is not what was received"

    def _digest(self, file: OpenFile, offset: int) -> str:
        digest, position = hashlib.sha256(), offset
        while piece := file.read(_PIECE_BYTES, position):
            digest.update(piece)
            position += len(piece)
            if self._stopping.is_set():
                raise Stopped
        if position > _CACHED_BYTES:
            file.uncache()
        return digest.hexdigest()


def _reason(
    reference: Referenced, classes: dict[str, str], damages: dict[str, Damage]
) -> int | None:
    sop_class_uid, sop_instance_uid = reference
    held = classes.get(sop_instance_uid)
    if held is None:
        return Status.NO_SUCH_SOP_INSTANCE
    if held != sop_class_uid:
        return Status.CLASS_INSTANCE_CONFLICT
    return Status.PROCESSING_FAILURE if sop_instance_uid in damages else None
