"""Keeping: how a small object is placed, whose bytes become durable with its index row."""

from __future__ import annotations

from collections.abc import Callable

from dicomnode.errors import StatusError
from dicomnode.index.catalog import Added, AddOutcome, ObjectAttachment
from dicomnode.services.placing import STORED, Outcome, Placement, Placer, Received


class KeptPlacement(Placement):
    """One small object, checked and not flushed; ``contents`` is its whole file.

    The name comes after row and bytes, so that after a power loss a file without a row is never
    one whose bytes were lost. Where UID or name is taken, or the index takes no bytes, the file
    is flushed and goes the way of the others.
    """

    def __init__(
        self,
        placer: Placer,
        received: Received,
        settle: Callable[[Outcome], None],
        contents: bytes,
    ) -> None:
        super().__init__(placer, received, settle)
        self._contents = contents
        self._has_row = False
        self._attachment: ObjectAttachment | None = None

    def run(self) -> None:
        """Place the object; nobody else places one of its UID meanwhile."""
        self._take(self._keep)

    def _keep(self) -> Outcome | None:
        if self._placer.files.exists(self._path):
            # Who finds a row must never meet another file under its name.
            self._take_later(self._place_flushed)
            return None
        self._placer.files.announce(self._path)
        entry = self._entry()
        self._attachment = self._placer.attachment(entry, self.arrival)
        self._placer.catalog.add(entry, self._kept_in_index, self._contents, self._attachment)
        return None

    def _kept_in_index(self, outcome: AddOutcome | BaseException) -> None:
        """Take the index's answer, in its writer thread."""
        if isinstance(outcome, Added):
            self._has_row = True
            self._take(self._follow)
        else:
            self._take_later(self._place_flushed)

    def _follow(self) -> Outcome:
        """Give the object its name, now that row and bytes are durable."""
        self._name(flush=False)
        return STORED

    def _place_flushed(self) -> Outcome | None:
        self._file.flush()
        return self._place()

    def _end(self, outcome: Outcome) -> None:
        if self._has_row and isinstance(outcome, StatusError):
            # It was not stored, and nobody is to find it.
            self._has_row = False
            uid = self.arrival.sop_instance_uid
            self._placer.catalog.remove(uid, lambda removed: self._end(outcome), self._attachment)
            return
        self._placer.files.arrived(self._path)
        super()._end(outcome)
