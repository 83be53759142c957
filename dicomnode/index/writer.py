"""The one connection that writes to the index, and its group commit.

Whoever submits when nobody is writing commits for itself and whatever is queued beside it, which
saves a change of threads; what comes meanwhile is committed together by the writer's own thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import CatalogError, StatusError
from dicomnode.index.backend import Backend, Connection
from dicomnode.index.entry import Counts
from dicomnode.index.registrar import Registrar

# More than this in one transaction gains nothing and makes the first wait.
_MAX_BATCH = 256

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of the index: ``apply`` runs in the transaction, ``done`` after its commit."""

    apply: Callable[[DBAPICursor], Any]
    done: Callable[[Any], None]


class Writer:
    """Takes everything that is queued, commits it in one transaction, then tells each.

    An operation that fails is given a CatalogError and does not fail those queued beside it.
    """

    def __init__(self, backend: Backend, registrar: Registrar, counts: Counts) -> None:
        self.counts = counts
        self._backend = backend
        self._registrar = registrar
        self._queue: SimpleQueue[Operation] = SimpleQueue()
        # ``open`` while a thread gathers operations for one transaction.
        self._group = threading.local()
        self._gate = threading.Lock()
        self._closed = False
        # Held by the thread that is using the connection.
        self._turn = threading.Lock()
        self._more = threading.Event()
        self._connection: Connection = backend.writer_connection()
        self._cursor = self._connection.cursor()
        registrar.prepare(self._cursor)
        self._connection.rollback()
        self._thread = threading.Thread(target=self._run, name="index-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> None:
        """Have an operation committed; callable from any thread that may wait for the disk.

        ``done`` gets what ``apply`` returned, or an exception; it runs on this thread or on
        the writer's.
        """
        with self._gate:
            closed = self._closed
            if not closed:
                self._queue.put(operation)
        if closed:
            operation.done(CatalogError("the index is closed"))
        elif not getattr(self._group, "open", False):
            self._commit_if_free()

    @contextmanager
    def grouped(self) -> Iterator[None]:
        """Let what this thread submits in the block wait for its end, for one transaction."""
        self._group.open = True
        try:
            yield
        finally:
            self._group.open = False
            if not self._queue.empty():
                self._commit_if_free()

    def _commit_if_free(self) -> None:
        if self._turn.acquire(blocking=False):
            self._commit_queued()

    def close(self) -> None:
        """Commit what is queued, tell everyone, and end the thread."""
        with self._gate:
            self._closed = True
        self._more.set()
        self._thread.join()

    def _commit_queued(self) -> None:
        """Commit one batch; the turn is taken, and given up here."""
        try:
            batch = self._take()
            if batch:
                self._commit(batch)
        finally:
            self._turn.release()
        # Asked after the turn is free: who queued before that and got no turn relies on us.
        if not self._queue.empty():
            self._more.set()

    def _run(self) -> None:
        while not (self._closed and self._queue.empty()):
            self._more.wait()
            if not self._closed:
                self._more.clear()
            while not self._queue.empty():
                self._turn.acquire()
                self._commit_queued()
        with self._turn:
            self._connection.close()

    def _take(self) -> list[Operation]:
        """Return what is queued, up to the size of one transaction."""
        batch: list[Operation] = []
        # Only who has the turn takes: what is there stays there until then.
        while len(batch) < _MAX_BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _commit(self, batch: list[Operation]) -> None:
        try:
            outcomes = self._transaction(batch)
        except Exception as error:
            self._roll_back()
            if len(batch) > 1:
                for operation in batch:
                    self._commit([operation])
                return
            outcomes = [self._explained(error)]
        for operation, outcome in zip(batch, outcomes, strict=True):
            try:
                operation.done(outcome)
            except Exception:
                _log.exception("a listener of the index failed")

    def _transaction(self, batch: list[Operation]) -> list[Any]:
        cursor = self._cursor
        self._backend.begin(cursor)
        outcomes = [operation.apply(cursor) for operation in batch]
        self._connection.commit()
        self.counts = self.counts.plus(self._registrar.delta)
        self._registrar.settled()
        return outcomes

    def _roll_back(self) -> None:
        self._registrar.forget()
        try:
            self._connection.rollback()
        except self._backend.driver_error:
            _log.exception("the index could not roll back")

    def _explained(self, error: Exception) -> CatalogError | StatusError:
        if isinstance(error, CatalogError | StatusError):
            return error
        explained = CatalogError(f"index failed: {error}")
        explained.__cause__ = error
        return explained
