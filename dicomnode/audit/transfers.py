"""Counts objects that go from node to node, so that a study is one message and not thousands."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Final

from dicomnode.audit.events import Study, Transfer

# A message is written after this, though more of its study may come.
MAX_SECONDS: Final = 300.0
# Studies of one association, and of all, that are counted at once.
_MAX_PER_ASSOCIATION: Final = 100
_MAX_TALLIES: Final = 5000


@dataclass(frozen=True, slots=True)
class Kind:
    """What is told apart: where it went, what came of it, and on which association.

    ``transfer`` None stands for objects that were deleted here; ``created`` says that the
    receiver has them now and had not.
    """

    association: Hashable
    study_instance_uid: str
    transfer: Transfer | None = None
    created: bool = False
    failure: str = ""


@dataclass(slots=True)
class Tally:
    """What has been counted of one kind; ``began`` and ``last`` are seconds since the epoch.

    ``study`` is what was known of it at the time, None where the index is still to be asked.
    """

    kind: Kind
    began: float
    study: Study | None = None
    last: float = 0.0
    sop_classes: Counter[str] = field(default_factory=Counter)

    def transfer(self) -> Transfer | None:
        """Return the transfer with all that was counted."""
        transfer = self.kind.transfer
        return None if transfer is None else replace(transfer, sop_classes=self.sop_classes)


class Transfers:
    """Tallies by association; may be used from any thread.

    The key of a tally has no ``Transfer`` in it: its parts are the association's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[Hashable, dict[Hashable, Tally]] = {}
        self._count = 0

    def count(
        self, kind: Kind, sop_class_uid: str, study: Study | None = None
    ) -> tuple[bool, list[Tally]]:
        """Count one object; return whether it is the first of its kind, and what is full now."""
        now = time.time()
        key = (kind.study_instance_uid, kind.created, kind.failure)
        with self._lock:
            full: list[Tally] = []
            of_association = self._tallies.setdefault(kind.association, {})
            tally = of_association.get(key)
            is_first = tally is None
            if tally is None:
                if len(of_association) >= _MAX_PER_ASSOCIATION:
                    full = self._taken(kind.association)
                elif self._count >= _MAX_TALLIES:
                    full = [each for one in list(self._tallies) for each in self._taken(one)]
                tally = Tally(kind, now, study)
                self._tallies.setdefault(kind.association, {})[key] = tally
                self._count += 1
            tally.sop_classes[sop_class_uid] += 1
            tally.last = now
        return is_first, full

    def take(self, association: Hashable) -> list[Tally]:
        """Return, and count no further, what there is of one association."""
        with self._lock:
            return self._taken(association)

    def take_older(self, seconds: float) -> list[Tally]:
        """Return, and count no further, what began so long ago."""
        latest = time.time() - seconds
        old: list[Tally] = []
        with self._lock:
            for association, tallies in list(self._tallies.items()):
                for key, tally in list(tallies.items()):
                    if tally.began <= latest:
                        old.append(tallies.pop(key))
                if not tallies:
                    del self._tallies[association]
            self._count -= len(old)
        return old

    def _taken(self, association: Hashable) -> list[Tally]:
        taken = list(self._tallies.pop(association, {}).values())
        self._count -= len(taken)
        return taken
