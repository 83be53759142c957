"""Removing: how objects leave the archive for good.

The row goes first, together with the intent to remove the file (``index.removals``); once that is
durable the file goes, and then the intent. A crash anywhere leaves an object that is there whole,
or one that is gone: what is left of its file goes at the next start (``recovery``). Meanwhile no
object of the same UID is placed; who reads the file keeps it to the end, as it is open.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Final, Protocol

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.index.catalog import Catalog
from dicomnode.index.entry import InstanceRow
from dicomnode.index.removals import Removals
from dicomnode.services.turns import Turns
from dicomnode.storage.files import FileStore

# Objects that are removed in one transaction: whoever receives waits for no more.
BATCH: Final = 200

# Picks the UIDs that may go, of rows that are held; part of the transaction in which they go.
Chosen = Callable[[DBAPICursor, Sequence[InstanceRow]], Iterable[str]]


class Cause(StrEnum):
    """What objects are deleted for; the label ``why`` of the metrics."""

    COMMAND = "command"
    RETENTION = "retention"
    COMMITTED = "committed"


@dataclass(frozen=True, slots=True)
class Why:
    """Why objects are deleted, and on whose order: a user, or a rule."""

    cause: Cause
    reason: str
    asked_by: str


class Witness(Protocol):
    """Is told of what goes; called from worker threads."""

    def leaving(self, cursor: DBAPICursor, rows: Sequence[InstanceRow], why: Why) -> None:
        """Objects go in the transaction of ``cursor``, which may come twice."""

    def look(self, sop_instance_uids: Iterable[str]) -> object:
        """Return what is known of objects that may go, while it still is."""

    def gone(self, rows: Sequence[InstanceRow], why: Why, known: object) -> None:
        """Objects are deleted, durably."""

    def file_stays(self, path: str, why: str) -> None:
        """The removal of a deleted object's file has come to no end; that is tried again."""


def _nothing(cursor: DBAPICursor, rows: Sequence[InstanceRow]) -> None:
    pass


class Remover:
    """Removes objects, one batch at a time."""

    def __init__(self, files: FileStore, catalog: Catalog, turns: Turns, witness: Witness) -> None:
        self._files = files
        self._catalog = catalog
        self._turns = turns
        self._witness = witness
        self._removals = Removals(catalog)
        # Two batches that have UIDs in common would wait for each other.
        self._alone = threading.Lock()
        self._is_any_left = False

    def remove(
        self,
        sop_instance_uids: Sequence[str],
        chosen: Chosen,
        why: Why,
        also: Callable[[DBAPICursor, Sequence[InstanceRow]], None] = _nothing,
    ) -> list[InstanceRow]:
        """Delete the objects that ``chosen`` picks; return what they were.

        ``also`` makes further changes in the transaction. Blocks; raises CatalogError when nothing
        was deleted.
        """

        def entered(cursor: DBAPICursor, rows: Sequence[InstanceRow]) -> None:
            self._removals.enter(cursor, rows)
            self._witness.leaving(cursor, rows, why)
            also(cursor, rows)

        with self._alone, ExitStack() as turns:
            for uid in dict.fromkeys(sop_instance_uids):
                turns.enter_context(self._turns.alone(uid))
            known = self._witness.look(sop_instance_uids)
            rows = self._catalog.remove_if(sop_instance_uids, chosen, entered)
            self._finish(row.path for row in rows)
        if rows:
            self._witness.gone(rows, why, known)
        return rows

    def finish(self) -> None:
        """Try again to remove files that could not be removed. Blocks; raises CatalogError."""
        if not self._is_any_left:
            return
        self._is_any_left = False
        with self._alone:
            for path, uid in self._removals.unfinished().items():
                with self._turns.alone(uid):
                    row = self._catalog.get(uid)
                    if row is not None and row.path == path:
                        # The file went, though nobody could be sure of it; this is another.
                        self._removals.forget([path])
                    elif self._removals.is_to_go(path):
                        self._finish([path])

    def _finish(self, paths: Iterable[str]) -> None:
        gone: list[str] = []
        for _, some in groupby(sorted(paths), _directory):
            of_series = list(some)
            try:
                self._files.remove_all(of_series)
            except OutOfResources as error:
                self._is_any_left = True
                self._witness.file_stays(of_series[0], error.comment)
            else:
                gone += of_series
        try:
            self._removals.forget(gone)
        except CatalogError as error:
            self._is_any_left = True
            self._witness.file_stays(gone[0], str(error))


def finish_removals(files: FileStore, catalog: Catalog) -> dict[str, str]:
    """Remove what a crash left of the files of deleted objects, for a start; return what stays.

    By path, with why. Raises CatalogError.
    """
    removals = Removals(catalog)
    unfinished = removals.unfinished()
    if not unfinished:
        return {}
    gone = sorted(removals.held())
    stays: dict[str, str] = {}
    for _, some in groupby(sorted(unfinished.keys() - set(gone)), _directory):
        of_series = list(some)
        try:
            files.remove_all(of_series)
        except OutOfResources as error:
            stays |= dict.fromkeys(of_series, error.comment)
        else:
            gone += of_series
    for start in range(0, len(gone), BATCH):
        removals.forget(gone[start : start + BATCH])
    return stays


def _directory(path: str) -> str:
    return path.rpartition("/")[0]
