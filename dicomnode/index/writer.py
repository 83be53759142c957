"""The one thread that writes to the index, and its group commit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import CatalogError
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
        self._queue: SimpleQueue[Operation | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._connection: Connection = backend.writer_connection()
        self._cursor = self._connection.cursor()
        registrar.prepare(self._cursor)
        self._connection.rollback()
        self._thread = threading.Thread(target=self._run, name="index-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> None:
        """Queue an operation; callable from any thread.

        ``done`` gets what ``apply`` returned, or an exception; it runs on the writer's thread,
        or at once on the caller's when the index has been closed.
        """
        with self._gate:
            closed = self._closed
            if not closed:
                self._queue.put(operation)
        if closed:
            operation.done(CatalogError("the index is closed"))

    def close(self) -> None:
        """Commit what is queued, tell everyone, and end the thread."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            self._commit(batch)
        self._connection.close()

    def _take(self) -> list[Operation] | None:
        """Wait for operations; None when the end of the queue has been reached."""
        operation = self._queue.get()
        if operation is None:
            return None
        batch = [operation]
        while len(batch) < _MAX_BATCH:
            try:
                operation = self._queue.get_nowait()
            except Empty:
                break
            if operation is None:
                self._queue.put(None)  # nothing follows the mark
                break
            batch.append(operation)
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
        self.counts += self._registrar.delta
        self._registrar.settled()
        return outcomes

    def _roll_back(self) -> None:
        self._registrar.forget()
        try:
            self._connection.rollback()
        except self._backend.driver_error:
            _log.exception("the index could not roll back")

    def _explained(self, error: Exception) -> CatalogError:
        if isinstance(error, CatalogError):
            return error
        explained = CatalogError(f"index failed: {error}")
        explained.__cause__ = error
        return explained
