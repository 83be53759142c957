"""Settling: how files that were acknowledged before they were flushed become durable.

A small object's bytes are committed together with its index row, and flushed with it; its file is
written without a flush. Now and then the whole filesystem is flushed at once, and the index
forgets the bytes. After a power loss the files are compared with them, and written anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Final, Protocol

from dicomnode.index.catalog import Catalog, Unsettled
from dicomnode.services.turns import Turns
from dicomnode.storage.files import FileStore
from dicomnode.storage.paths import stem

# What is kept at most, and from where on it is settled without delay.
_LIMIT_BYTES: Final = 64 * 1024 * 1024
_MUCH_BYTES: Final = 24 * 1024 * 1024
_SECONDS: Final = 1.0
# After a failure; doubled each time.
_LONGEST_SECONDS: Final = 60.0


class SettlingJournal(Protocol):
    """Is told of what an administrator should know; called from the settling thread."""

    def settling_failed(self, error: Exception) -> None:
        """Files could not be made durable; their bytes stay in the index."""

    def settled_again(self) -> None:
        """What failed before has been done."""


def restore(files: FileStore, rows: Iterator[Unsettled]) -> int:
    """Have the files of ``rows`` survive power loss; return how many were written anew.

    For a start, before anything is served. Raises OutOfResources.
    """
    written = sum(files.secure(row.path, row.contents) for row in rows)
    files.settle()  # directories too, whatever storage.durability is now
    return written


class Settler:
    """Makes the files of small objects durable, some time after they were acknowledged."""

    def __init__(
        self, files: FileStore, catalog: Catalog, *, turns: Turns, journal: SettlingJournal
    ) -> None:
        self._files = files
        self._catalog = catalog
        self._turns = turns
        self._journal = journal
        self._is_possible = _is_possible(files, catalog)
        # What an earlier run could not write has to be written one by one.
        self._has_failed = catalog.counts().unsettled > 0
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settling", daemon=True)

    def start(self) -> None:
        """Begin to settle."""
        self._thread.start()

    def close(self) -> None:
        """Settle what is left, then end the thread; what cannot be settled stays in the index."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def takes(self, size_bytes: int) -> bool:
        """Tell whether a file of ``size_bytes`` may be acknowledged before it is flushed."""
        if not self._is_possible or self._has_failed:
            return False
        kept = self._catalog.counts().unsettled_bytes
        if kept > _MUCH_BYTES:
            self._wake.set()
        return kept + size_bytes <= _LIMIT_BYTES

    def _run(self) -> None:
        seconds = _SECONDS
        while not self._stopping:
            self._wake.wait(seconds)
            self._wake.clear()
            seconds = _SECONDS if self._settle() else min(2 * seconds, _LONGEST_SECONDS)
        self._settle()

    def _settle(self) -> bool:
        """Settle everything that is in the index now; tell whether that could be done."""
        if not self._catalog.counts().unsettled:
            return True
        failed_before = self._has_failed
        try:
            last = self._catalog.last_unsettled()
            if last is None:
                return True
            if failed_before:
                self._secure_each(last)
            else:
                self._files.settle()
            self._catalog.settle(last)
        except Exception as error:  # the thread must outlive it
            self._has_failed = True
            if not failed_before:
                self._journal.settling_failed(error)
            return False
        self._has_failed = False
        if failed_before:
            self._journal.settled_again()
        return True

    def _secure_each(self, last: int) -> None:
        """Write the files up to the id ``last`` anew where they are not there or were lost.

        A filesystem tells only once that it lost something, and not what. Raises OutOfResources,
        CatalogError.
        """
        for row in self._catalog.unsettled():
            if row.id > last:
                return
            with self._turns.alone(stem(row.path)):
                # Another object may have taken its place since the row was read.
                if self._catalog.is_unsettled(row.id):
                    self._files.secure(row.path, row.contents)


def _is_possible(files: FileStore, catalog: Catalog) -> bool:
    """Tell whether the index is as safe a place for an object's bytes as its file."""
    keeper = catalog.keeper
    if not keeper or not files.settles:
        return False
    # An index in memory, or on a disk that may be lost alone, is no place for them.
    return os.stat(keeper).st_dev == os.stat(files.abs_path("objects")).st_dev
