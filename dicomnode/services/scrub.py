"""The scrub: all stored files are read again, over and over, and compared with what was received.

One thread, at a bounded rate, off the event loop. It goes through the directories in their order
and keeps how far it is, so that a restart goes on there. What it finds it puts on a list
(``bad_files``); it changes no file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.index.catalog import Catalog, InstanceRow
from dicomnode.index.scrubbing import BadFile, ScrubPass, ScrubRecords
from dicomnode.observe.logs import Logger
from dicomnode.observe.scrub_metrics import ScrubMetrics
from dicomnode.services.bad_files import BadFiles
from dicomnode.services.wholeness import Wholeness
from dicomnode.storage.files import FileStore
from dicomnode.storage.paths import stem

_DAY_SECONDS: Final = 86400.0
# Opening a file takes the disk and the processor as long as so many bytes do.
_LEAST_BYTES: Final = 256 * 1024
# What was not read while nothing could be is not caught up on.
_MOST_AHEAD_SECONDS: Final = 1.0
_KEEP_SECONDS: Final = 10.0
# What is on the list may have been sent again, or restored.
_LOOK_AGAIN_SECONDS: Final = 600.0
# Until there is an object whose age can be told.
_EMPTY_SECONDS: Final = 5.0
_PAUSE_AFTER_FAILURE_SECONDS: Final = 60.0
# At full speed: reading one file while another is hashed.
_READERS: Final = 3
_BY: Final = "scrub"


class Stopped(Exception):
    """The scrub is to end."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How fast files are read, and how often a run begins."""

    bytes_per_second: int
    every_seconds: float
    enabled: bool = True


class Scrub:
    """Runs through all files in a thread of its own; everything but ``figures`` blocks."""

    def __init__(
        self,
        files: FileStore,
        catalog: Catalog,
        wholeness: Wholeness,
        bad: BadFiles,
        records: ScrubRecords,
        metrics: ScrubMetrics,
        rules: Rules,
        log: Logger,
    ) -> None:
        self.bad = bad
        self.rules = rules
        self._files = files
        self._catalog = catalog
        self.wholeness = wholeness
        self._records = records
        self._metrics = metrics
        self._log = log
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._asked = False
        self._at_full_speed = False
        self._ready_at = 0.0
        self._going_on, self._ended = records.passes()
        self._proven_since = records.proven_since()
        self._looked_again_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def start(self) -> None:
        """Go on where an earlier run of the node was, or begin when it is time."""
        self._thread.start()

    def close(self) -> None:
        """End the thread, which keeps how far it is."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    # -- asked for -------------------------------------------------------------------------------

    def now(self) -> None:
        """Begin a run through all files at full speed; the one that goes on is given up."""
        self._asked = True
        self._wake.set()

    def look_at_study(self, study_instance_uid: str) -> int:
        """Read the files of a study at full speed; return how many there are.

        Raises CatalogError, Stopped.
        """
        ids = self._catalog.select_instances({"StudyInstanceUID": [study_instance_uid]})
        rows = self._catalog.instance_rows(ids)
        self._examine_at_once(rows)
        return len(rows)

    def run_once(self, progress: Callable[[ScrubPass], None]) -> None:
        """Run through all files once, in this thread; for who has the archive to himself.

        Raises CatalogError, OutOfResources.
        """
        self._at_full_speed = True
        self._through_all(self._begin(), progress)

    def bad_files(self, limit: int, study_instance_uid: str | None = None) -> list[BadFile]:
        """Return what is not whole, the latest first. Raises CatalogError."""
        return self._records.bad_files(limit, study_instance_uid)

    def figures(self) -> dict[str, Any]:
        """Return how far it is, and what is not whole; times are seconds since 1970 UTC."""
        going_on, ended = self._going_on, self._ended
        return {
            "enabled": self.rules.enabled,
            "bytes_per_second": self.rules.bytes_per_second,
            "every_days": round(self.rules.every_seconds / _DAY_SECONDS),
            "is_running": going_on is not None and (self.rules.enabled or self._at_full_speed),
            "at_full_speed": self._at_full_speed,
            "began_at": going_on.began_at if going_on else None,
            "objects": going_on.objects if going_on else 0,
            "bytes": going_on.bytes if going_on else 0,
            "total_objects": self._catalog.counts().instances,
            "ended_began_at": ended.began_at if ended else None,
            "ended_at": ended.ended_at if ended else None,
            "ended_objects": ended.objects if ended else 0,
            "ended_bytes": ended.bytes if ended else 0,
            "unknown_files": self.unknown_files(),
            "proven_since": self._proven_since,
            "age_seconds": self.age_seconds(),
            "not_whole": dict(self.bad.counts()),
        }

    def age_seconds(self) -> float:
        """Return how long ago the object was proven whole that has not been for the longest."""
        since = self._proven_since
        return max(0.0, time.time() - since) if since is not None else 0.0

    def unknown_files(self) -> int:
        """Return how many files the index does not know, as the last whole run found."""
        return self._ended.unknown_files if self._ended is not None else 0

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._step()
            except Stopped:
                continue
            except (CatalogError, OutOfResources) as error:
                self._log.error(f"the scrub cannot go on for now: {error}")
                self._stopping.wait(_PAUSE_AFTER_FAILURE_SECONDS)
            except Exception as error:  # the thread must outlive it
                self._log.exception("internal error in the scrub", error)
                self._stopping.wait(_PAUSE_AFTER_FAILURE_SECONDS)

    def _step(self) -> None:
        """Wait until it is time, or run through what is left of the files."""
        if self._asked:
            self._wake.clear()
            self._asked = False
            self._at_full_speed = True
            self._going_on = self._begin()
        elif (wait := self._seconds_to_next()) > 0:
            is_empty = self._proven_since is None
            self._wake.wait(min(wait, _EMPTY_SECONDS if is_empty else _LOOK_AGAIN_SECONDS))
            self._wake.clear()
            self._look_again()
            return
        elif self._going_on is None:
            self._going_on = self._begin()
        try:
            self._through_all(self._going_on, self._follow)
        finally:
            self._at_full_speed = False

    def _follow(self, scrub: ScrubPass) -> None:
        self._going_on = scrub
        if time.monotonic() - self._looked_again_at > _LOOK_AGAIN_SECONDS:
            self._look_again()

    def _seconds_to_next(self) -> float:
        if not self.rules.enabled:
            return _LOOK_AGAIN_SECONDS
        if self._going_on is not None:
            return 0.0
        began_at = self._ended.began_at if self._ended is not None else 0.0
        return began_at + self.rules.every_seconds - time.time()

    def _begin(self) -> ScrubPass:
        before = [each.id for each in (self._going_on, self._ended) if each is not None]
        scrub = ScrubPass(max(before, default=0) + 1, time.time())
        self._records.keep(scrub)
        self.bad.begin()
        return scrub

    def _through_all(self, scrub: ScrubPass, progress: Callable[[ScrubPass], None]) -> None:
        """Read what comes behind the cursor of a run, and end it."""
        kept_at = time.monotonic()
        try:
            for directory, rows, names in self._directories(scrub.cursor):
                size = self._examine_all(rows)
                scrub = replace(
                    scrub,
                    cursor=directory,
                    objects=scrub.objects + len(rows),
                    bytes=scrub.bytes + size,
                    unknown_files=scrub.unknown_files + self._unknown(directory, rows, names),
                )
                progress(scrub)
                if time.monotonic() - kept_at > _KEEP_SECONDS:
                    self._records.keep(scrub)
                    kept_at = time.monotonic()
        except Stopped:
            if not self._asked:
                self._records.keep(scrub)
            raise
        self._end(replace(scrub, ended_at=time.time()))

    def _end(self, scrub: ScrubPass) -> None:
        self._records.keep(scrub)
        self._going_on, self._ended = None, scrub
        self._proven_since = self._records.proven_since()
        counts = {kind: count for kind, count in self.bad.counts().items() if count}
        say = self._log.warning if counts or scrub.unknown_files else self._log.info
        say(
            f"scrub: {scrub.objects} objects read in {scrub.ended_at - scrub.began_at:.0f} s,"
            f" {sum(counts.values())} are not whole",
            bytes=scrub.bytes,
            unknown_files=scrub.unknown_files,
            **counts,
        )

    # -- directories -----------------------------------------------------------------------------

    def _directories(self, cursor: str) -> Iterator[tuple[str, list[InstanceRow], list[str]]]:
        """Yield each series directory behind ``cursor``: its rows, and the names found in it."""
        rows, names = self._records.series_after(cursor), self._names(cursor)
        row, found = next(rows, None), next(names, None)
        while row is not None or found is not None:
            place = min(_position(each[0]) for each in (row, found) if each is not None)
            directory, held, there = "/".join(place), list[InstanceRow](), list[str]()
            if row is not None and _position(row[0]) == place:
                held, row = row[1], next(rows, None)
            if found is not None and _position(found[0]) == place:
                there, found = found[1], next(names, None)
            yield directory, held, there

    def _names(self, cursor: str) -> Iterator[tuple[str, list[str]]]:
        try:
            yield from self._files.walk(cursor)
        except OutOfResources as error:
            # What the index knows of is looked at all the same.
            self._log.warning(f"scrub: directories cannot be listed: {error.comment}")

    def _unknown(self, directory: str, rows: Sequence[InstanceRow], names: list[str]) -> int:
        """Count the files that are of no row; what is just coming in may have none yet."""
        held = {row.path for row in rows}
        count = 0
        for path in (f"{directory}/{name}" for name in names):
            if path not in held and not self._is_new(path):
                count += 1
        return count

    def _is_new(self, path: str) -> bool:
        row = self._catalog.get(stem(path))
        return (row is not None and row.path == path) or self._files.is_recent(path)

    # -- files -----------------------------------------------------------------------------------

    def _examine_all(self, rows: Sequence[InstanceRow]) -> int:
        """Read the files of ``rows``; return how many bytes they should have."""
        if self._at_full_speed:
            self._examine_at_once(rows)
        else:
            for row in rows:
                self._examine(row, self._paced)
                self._paced(max(0, _LEAST_BYTES - row.size_bytes))
        return sum(row.size_bytes for row in rows)

    def _examine_at_once(self, rows: Sequence[InstanceRow]) -> None:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="scrub") as readers:
            for _ in readers.map(lambda row: self._examine(row, self._unpaced), rows):
                pass

    def _examine(self, row: InstanceRow, spend: Callable[[int], None]) -> None:
        fault = self.wholeness.fault_of(row, spend)
        if fault is not None:
            certain = self.wholeness.certain_fault_of(row, self._unpaced)
            if certain is None:
                if self.bad.is_known(row.path):
                    self.bad.forget(row.path)
                return
            row, fault = certain
        if fault is not None:
            self.bad.found(row, fault, _BY)
        else:
            self.bad.proven(row)
        self._metrics.read(1, row.size_bytes)

    def _look_again(self) -> None:
        """Look whether files on the list are whole now, or no longer held."""
        for path in self.bad.paths():
            row = self._catalog.get(stem(path))
            if row is None or row.path != path:
                self.bad.forget(path)
            else:
                self._examine(row, self._paced)
        self._proven_since = self._records.proven_since()
        self._looked_again_at = time.monotonic()

    def _unpaced(self, size: int) -> None:
        if self._stopping.is_set():
            raise Stopped

    def _paced(self, size: int) -> None:
        """Wait until so many bytes may have been read. Raises Stopped."""
        if not self._at_full_speed:
            now = time.monotonic()
            seconds = size / self.rules.bytes_per_second
            self._ready_at = max(self._ready_at, now - _MOST_AHEAD_SECONDS) + seconds
            if (wait := self._ready_at - now) > 0:
                self._wake.wait(wait)
        if self._stopping.is_set() or self._asked:
            raise Stopped


def proven_at(row: InstanceRow, going_on: ScrubPass | None, ended: ScrubPass | None) -> float:
    """Return a time from which on an object has been proven whole, unless it is on the list.

    As it was received, or by a run: of the one that goes on those are read that are not behind its
    cursor. Seconds since 1970 UTC.
    """
    directory = row.path.rpartition("/")[0]
    if going_on is not None and _position(directory) <= _position(going_on.cursor):
        return max(row.received_at, going_on.began_at)
    return max(row.received_at, ended.began_at if ended is not None else 0.0)


def _position(directory: str) -> tuple[str, str]:
    """Return study directory and series of a series directory: the order of all of them."""
    study, _, series = directory.rpartition("/")
    return study, series
