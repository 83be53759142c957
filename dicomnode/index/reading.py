"""A reader's connection for a while, and how another thread ends that early."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar, cast

from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError

from dicomnode.errors import CatalogError
from dicomnode.index.backend import Backend, Connection

T = TypeVar("T")


class SearchStopped(Exception):
    """The search was stopped by its ``Stop``."""


class Stop:
    """Ends searches that it is given to; ``stop`` may be called from any thread, at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[Backend, Connection] | None = None
        self.stopped = False

    def stop(self) -> None:
        """End the search that is running, and let none begin."""
        with self._lock:
            self.stopped = True
            if self._running is not None:
                backend, connection = self._running
                backend.interrupt(connection)

    def check(self) -> None:
        """Raise SearchStopped when stopped."""
        if self.stopped:
            raise SearchStopped

    @contextmanager
    def watching(self, backend: Backend, connection: Connection) -> Iterator[None]:
        """Let ``stop`` reach ``connection`` while the block runs."""
        with self._lock:
            self.check()
            self._running = backend, connection
        backend.watch(connection, lambda: self.stopped)
        try:
            yield
        finally:
            backend.watch(connection, None)
            # Behind the lock, so that an interrupt never meets the connection's next user.
            with self._lock:
                self._running = None


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Give ``values`` in lists of ``size``, so that no statement and no lock lasts long."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


@contextmanager
def reading(backend: Backend, stop: Stop | None = None) -> Iterator[DBAPICursor]:
    """Give a cursor of a reader's connection; no transaction is left open afterwards.

    Raises CatalogError for what the database raises, SearchStopped when stopped.
    """
    watch = stop or Stop()
    try:
        connection = cast(Connection, backend.reader.raw_connection())
        try:
            with watch.watching(backend, connection):
                cursor = connection.cursor()
                try:
                    yield cursor
                finally:
                    cursor.close()
        finally:
            connection.close()
    except (SQLAlchemyError, backend.driver_error) as error:
        watch.check()
        raise CatalogError(f"index failed: {error}") from error
