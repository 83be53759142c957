"""Keeps messages until they have been delivered, over crashes, within a bound.

SQLite rather than files of our own: a message that was added is there after a crash, one that
was half written is not, and what has been delivered gives its room back.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# What a row takes besides its message.
_ROW_BYTES: Final = 32
_MAX_BATCH_BYTES: Final = 1024 * 1024
_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS message (
        id INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, message BLOB NOT NULL
    )
"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS message_by_target ON message (target, id)"


@dataclass(frozen=True, slots=True)
class Waiting:
    """So much waits for one target."""

    messages: int = 0
    bytes: int = 0


class Spool:
    """Messages by target, oldest first; may be used from any thread. Raises OSError throughout.

    ``limit_bytes`` bounds what is kept for each target.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._messages: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def open(self) -> Path | None:
        """Open or make the spool; return where one was put that cannot be read."""
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(f"{self._path}: {error}") from error
            aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
            os.rename(self._path, aside)
            # The log belongs to what was put aside.
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            with self._failing():
                self._open()
            return aside
        return None

    def _open(self) -> None:
        # SQLite gives its other files the mode of this one.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(_TABLE)
        connection.execute(_INDEX)
        counted = "SELECT target, count(*), sum(length(message)) FROM message GROUP BY target"
        for target, messages, size in connection.execute(counted):
            self._messages[target] = messages
            self._bytes[target] = size + messages * _ROW_BYTES

    def close(self) -> None:
        """Close the spool; what is in it stays."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: {error}") from error

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._failing():
            if self._connection is None:
                raise OSError(f"{self._path}: the spool is closed")
            yield self._connection

    def waiting(self, target: str) -> Waiting:
        """Return how much waits for a target."""
        return Waiting(self._messages[target], self._bytes[target])

    def add(self, entries: Sequence[tuple[str, bytes]]) -> Counter[str]:
        """Keep (target, message) pairs durably; return how many did not fit, by target."""
        kept, refused = [], Counter[str]()
        messages, sizes = Counter[str](), Counter[str]()
        with self._opened() as connection:
            for target, message in entries:
                size = len(message) + _ROW_BYTES
                # Nothing that is kept gives way: nobody can flush the trail by making more of it.
                if self._bytes[target] + sizes[target] + size > self._limit_bytes:
                    refused[target] += 1
                    continue
                kept.append((target, message))
                messages[target] += 1
                sizes[target] += size
            with _transaction(connection):
                connection.executemany("INSERT INTO message (target, message) VALUES (?, ?)", kept)
            self._messages += messages
            self._bytes += sizes
        return refused

    def oldest(self, target: str, most: int) -> list[tuple[int, bytes]]:
        """Return the oldest messages for a target with their numbers, ``most`` of them or fewer."""
        statement = "SELECT id, message FROM message WHERE target = ? ORDER BY id LIMIT ?"
        found: list[tuple[int, bytes]] = []
        size = 0
        with self._opened() as connection:
            for number, message in connection.execute(statement, (target, most)):
                size += len(message)
                if found and size > _MAX_BATCH_BYTES:
                    break
                found.append((number, message))
        return found

    def forget(self, target: str, delivered: Sequence[tuple[int, bytes]]) -> None:
        """Drop messages that ``oldest`` returned."""
        statement = "DELETE FROM message WHERE target = ? AND id <= ?"
        size = sum(len(message) + _ROW_BYTES for _, message in delivered)
        with self._opened() as connection:
            with _transaction(connection):
                connection.execute(statement, (target, delivered[-1][0]))
            self._messages[target] -= len(delivered)
            self._bytes[target] -= size

    def forget_others(self, targets: Collection[str]) -> int:
        """Drop what waits for targets that there are no more; return how many messages."""
        dropped = 0
        with self._opened() as connection:
            for target in set(self._messages) - set(targets):
                connection.execute("DELETE FROM message WHERE target = ?", (target,))
                dropped += self._messages.pop(target)
                del self._bytes[target]
        return dropped


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
