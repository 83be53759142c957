"""The list of files that are not whole: whoever reads one tells it, and it says so everywhere.

A file leaves the list when it has been proven whole again, or when its object is no longer held.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.catalog import InstanceRow
from dicomnode.index.custody import Custody
from dicomnode.index.scrubbing import BadFile, Kind, ScrubRecords
from dicomnode.integrity.record import Event, Happening
from dicomnode.observe.logs import Logger
from dicomnode.observe.scrub_metrics import ScrubMetrics
from dicomnode.services.explanations import Explanations
from dicomnode.services.wholeness import Fault

# More of these lines in a run are left to the list.
_MOST_TOLD: Final = 100
_EVENTS: Final = {
    Kind.DAMAGED: Event.DAMAGED,
    Kind.MISSING: Event.MISSING,
    Kind.UNREADABLE: Event.UNREADABLE,
}
_ADVICE: Final = (
    "Send the object to the node again, or restore its file from a backup. Then `dicomnode scrub"
    " --now --study UID` looks at it again.",
    "See to the disk: `dicomnode scrub --report` lists all such files.",
)


class BadFiles:
    """Shared by all who read stored files; everything but ``counts`` blocks."""

    def __init__(
        self,
        records: ScrubRecords,
        log: Logger,
        metrics: ScrubMetrics,
        explanations: Explanations | None = None,
        custody: Custody | None = None,
    ) -> None:
        self._records = records
        self._log = log
        self._metrics = metrics
        self._explanations = explanations
        self._custody = custody
        self._lock = threading.Lock()
        self._told = 0
        self._kinds = records.bad_paths()
        self._counts = Counter(self._kinds.values())

    def counts(self) -> Counter[str]:
        """Return how many there are of each kind."""
        return Counter({kind.value: self._counts[kind] for kind in Kind})

    def is_known(self, path: str) -> bool:
        """Tell whether a file is on the list."""
        return path in self._kinds

    def paths(self) -> list[str]:
        """Return the paths of all on the list."""
        with self._lock:
            return list(self._kinds)

    def begin(self) -> None:
        """A run through all files begins: tell of what it finds, up to a number."""
        self._told = 0

    def found(self, row: InstanceRow, fault: Fault, by: str) -> None:
        """Put a file on the list; ``by`` says who met it. Raises CatalogError."""
        with self._lock:
            if self._kinds.get(row.path) is fault.kind:
                return
            bad = BadFile(
                row.path,
                row.sop_instance_uid,
                row.study_instance_uid,
                fault.kind,
                fault.words,
                time.time(),
            )
            details = {"found_by": by, "words": fault.words}
            happening = _happening(_EVENTS[fault.kind], row, details)
            self._records.found(bad, lambda cursor: self._record(cursor, happening))
            self._set(row.path, fault.kind)
            self._told += 1
            told = self._told
        self._metrics.found(fault.kind.value, by)
        if told <= _MOST_TOLD:
            self._log.error(
                f"a stored object is not whole: {fault.words}",
                kind=fault.kind.value,
                found_by=by,
                sop_instance_uid=row.sop_instance_uid,
                study_instance_uid=row.study_instance_uid,
                path=row.path,
            )
            if self._explanations is not None:
                words = f"{row.sop_instance_uid}: {fault.words}"
                self._explanations.not_whole(by, fault.kind.value, words, *_ADVICE)
        elif told == _MOST_TOLD + 1:
            self._log.error("more stored objects are not whole; dicomnode scrub --report lists all")

    def proven(self, row: InstanceRow) -> None:
        """Take a file that is whole from the list, if it is on it. Raises CatalogError."""
        if row.path not in self._kinds:
            return
        with self._lock:
            if row.path not in self._kinds:
                return
            happening = _happening(Event.WHOLE_AGAIN, row, {"file_sha256": row.file_sha256})
            self._records.gone(row.path, lambda cursor: self._record(cursor, happening))
            self._set(row.path, None)
        self._log.info(
            "a stored object is whole again", sop_instance_uid=row.sop_instance_uid, path=row.path
        )

    def forget(self, path: str) -> None:
        """Take a file from the list whose object is no longer held. Raises CatalogError."""
        with self._lock:
            self._records.gone(path)
            self._set(path, None)

    def _set(self, path: str, kind: Kind | None) -> None:
        """Remember what is wrong with a file, None for nothing; the lock is held."""
        before = self._kinds.pop(path, None)
        if before is not None:
            self._counts[before] -= 1
        if kind is not None:
            self._kinds[path] = kind
            self._counts[kind] += 1

    def _record(self, cursor: DBAPICursor, happening: Happening) -> None:
        """Enter into the custody log what has become of a file, with its place on the list."""
        if self._custody is not None:
            self._custody.enter(cursor, (happening,))


def _happening(event: Event, row: InstanceRow, details: Mapping[str, str | int]) -> Happening:
    return Happening(event, row.study_instance_uid, row.sop_instance_uid, details)
