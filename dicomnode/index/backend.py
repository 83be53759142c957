"""What differs from one database to another, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from sqlalchemy import (
    URL,
    BindParameter,
    ColumnElement,
    Engine,
    Table,
    bindparam,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.pool import NullPool
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import custom_op

Synchronous = Literal["FULL", "OFF"]
Value = str | int | float | bytes | None

# Pages of the write-ahead log after which a commit of the writer also checkpoints: 8 MiB.
_CHECKPOINT_PAGES = 2048
_GROWN_LOG_BYTES = 4096 * _CHECKPOINT_PAGES
_PLENTY = 32
_LOG_LIMIT_BYTES = 64 * 1024 * 1024
_WRITER_CACHE_KIB = 16 * 1024
_READER_CACHE_KIB = 2 * 1024
# Steps of SQLite's machine, some milliseconds of work.
_WATCHED_STEPS = 200_000
# As many connections as are asked for; that many are kept, the one used last is used first.
_READERS: dict[str, Any] = {"pool_size": 16, "max_overflow": -1, "pool_use_lifo": True}


class Connection(Protocol):
    """The part of a driver's connection (PEP 249) that the writer uses."""

    def cursor(self) -> DBAPICursor: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...
    def close(self) -> None: ...


class Prepared:
    """One statement, compiled once and run on the driver's cursor.

    A Core execution costs several times what SQLite takes for the statement. ``names`` are the
    statement's parameters in the order in which ``run`` is given their values.
    """

    def __init__(self, statement: ClauseElement, engine: Engine, names: Sequence[str]) -> None:
        compiled = statement.compile(dialect=engine.dialect)
        self._sql = str(compiled)
        positions = cast("list[str] | None", compiled.positiontup)  # type: ignore[attr-defined]
        self._names = tuple(names) if positions is None else None
        if positions is not None and tuple(positions) != tuple(names):
            raise ValueError(f"parameters are {positions}, not {names}")

    def run(self, cursor: DBAPICursor, *values: Value) -> None:
        """Execute with ``values``."""
        if self._names is None:
            cursor.execute(self._sql, values)
        else:
            cursor.execute(self._sql, dict(zip(self._names, values, strict=True)))


def new_values(names: Sequence[str]) -> dict[str, BindParameter[Any]]:
    """Return the values of an INSERT or UPDATE: of column ``x`` the parameter ``new_x``."""
    return {name: bindparam(f"new_{name}") for name in names}


def new_names(names: Sequence[str]) -> list[str]:
    """Return the names of these parameters, for ``Prepared``."""
    return [f"new_{name}" for name in names]


class Question:
    """A SELECT, compiled once and run on the driver's cursor with its parameters by name."""

    def __init__(self, statement: ClauseElement, engine: Engine) -> None:
        compiled = statement.compile(dialect=engine.dialect)
        self._sql = str(compiled)
        self._constants: dict[str, Any] = dict(compiled.params)
        self._positions = cast("list[str] | None", compiled.positiontup)  # type: ignore[attr-defined]

    def run(self, cursor: DBAPICursor, values: Mapping[str, object]) -> None:
        """Execute with ``values``."""
        every = {**self._constants, **values}
        if self._positions is None:
            cursor.execute(self._sql, every)
        else:
            cursor.execute(self._sql, [every[name] for name in self._positions])


class Backend:
    """A database for the index: two engines, one for the only writer and one for readers."""

    def __init__(self, url: str | URL, synchronous: Synchronous) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        # Byte order, which is the order in which directories are walked.
        self.byte_collation = "BINARY" if self.is_sqlite else "C"
        if self.is_sqlite:
            arguments: dict[str, Any] = {"check_same_thread": False, "isolation_level": None}
            self.writer = create_engine(self.url, poolclass=NullPool, connect_args=arguments)
            self.reader = create_engine(self.url, **_READERS)
            for engine in (self.writer, self.reader):
                event.listen(engine, "do_connect", self._make_private)
            event.listen(self.writer, "connect", _pragmas(_WRITER, synchronous=synchronous))
            event.listen(self.reader, "connect", _pragmas(_READER))
        else:
            self.writer = create_engine(self.url, poolclass=NullPool)
            self.reader = create_engine(self.url, **_READERS)

    def _make_private(self, *connecting: object) -> None:
        """Make a database that is not there yet its owner's alone, whatever a command's umask.

        One that root makes belongs to the owner of its directory, as whom the node runs. SQLite
        gives its other files mode and owner of this one. What is wrong here, SQLite tells.
        """
        path = self.url.database
        if not path or path.startswith(("file:", ":")):
            return
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                if os.geteuid() == 0:
                    whose = Path(path).absolute().parent.stat()
                    os.fchown(fd, whose.st_uid, whose.st_gid)
            finally:
                os.close(fd)

    @property
    def name(self) -> str:
        """The database's name for messages, without a password."""
        return self.url.render_as_string(hide_password=True)

    @property
    def driver_error(self) -> type[Exception]:
        """What the driver raises."""
        return cast("type[Exception]", self.writer.dialect.loaded_dbapi.Error)

    def writer_connection(self) -> Connection:
        """Return a driver's connection that the caller owns."""
        connection = self.writer.raw_connection()
        if self.is_sqlite:
            database = self.url.database or "."
            _grow_log(cast(sqlite3.Connection, connection.driver_connection), database)
        return cast(Connection, connection)

    def begin(self, cursor: DBAPICursor) -> None:
        """Begin a transaction that writes; other drivers do so by themselves."""
        if self.is_sqlite:
            cursor.execute("BEGIN IMMEDIATE")

    def insert(self, table: Table, names: Sequence[str]) -> Prepared:
        """Return an INSERT of the named columns that leaves rows alone that are there already.

        The cursor's ``rowcount`` tells whether a row was added.
        """
        dialect = sqlite if self.is_sqlite else postgresql
        columns = {name: bindparam(name, type_=table.c[name].type) for name in names}
        statement = dialect.insert(table).values(columns).on_conflict_do_nothing()
        return Prepared(statement, self.writer, names)

    def among(self, column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """Return the condition that ``column`` is in the list given as the parameter ``name``.

        One parameter however long the list; its value is what ``list_value`` makes of it.
        """
        if not self.is_sqlite:
            return column == func.any(bindparam(name))
        values = func.json_each(bindparam(name)).table_valued("value")
        return column.in_(select(values.c.value))

    def without_index(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return ``column`` so that no index of it is used, where statistics do not decide that.

        https://www.sqlite.org/optoverview.html#disqualifying_where_clause_terms_using_unary_
        """
        if not self.is_sqlite:
            return column
        return UnaryExpression(column, operator=custom_op("+"), type_=column.type)

    def list_value(self, values: Iterable[str | int]) -> object:
        """Return ``values`` as ``among`` takes them."""
        return json.dumps(list(values)) if self.is_sqlite else list(values)

    def interrupt(self, connection: Connection) -> None:
        """Stop what a reader's connection is doing; callable from any thread."""
        driver: Any = getattr(connection, "driver_connection", None)
        if self.is_sqlite:
            driver.interrupt()
        else:
            driver.cancel()

    def watch(self, connection: Connection, stopped: Callable[[], bool] | None) -> None:
        """Have what a reader's connection does end once ``stopped``; None to watch no more.

        An interrupt alone is lost on SQLite when the statement has not begun yet.
        """
        if self.is_sqlite:
            driver: Any = getattr(connection, "driver_connection", None)
            driver.set_progress_handler(stopped, _WATCHED_STEPS)

    def dispose(self) -> None:
        """Close the readers' connections."""
        self.reader.dispose()
        self.writer.dispose()


_WRITER = f"""
    PRAGMA journal_mode = WAL;
    PRAGMA foreign_keys = ON;
    PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES};
    PRAGMA journal_size_limit = {_LOG_LIMIT_BYTES};
    PRAGMA cache_size = -{_WRITER_CACHE_KIB};
"""
_GROW_LOG = f"""
    BEGIN IMMEDIATE;
    CREATE TABLE grow_log (content);
    INSERT INTO grow_log VALUES (zeroblob({_GROWN_LOG_BYTES}));
    DROP TABLE grow_log;
    COMMIT;
    PRAGMA wal_checkpoint(RESTART);
"""  # noqa: S608  a number of ours is all that is put in
_READER = f"""
    PRAGMA query_only = ON;
    PRAGMA case_sensitive_like = ON;
    PRAGMA busy_timeout = 10000;
    PRAGMA cache_size = -{_READER_CACHE_KIB};
"""


def _grow_log(connection: sqlite3.Connection, database: str) -> None:
    """Give the log its full length: overwriting it costs a commit half of making it longer.

    Where space is short, nothing happens.
    """
    free_bytes = shutil.disk_usage(Path(database).parent).free
    if free_bytes < _GROWN_LOG_BYTES * _PLENTY:
        return
    try:
        connection.executescript(_GROW_LOG)
    except sqlite3.OperationalError:
        connection.rollback()


def _pragmas(script: str, *, synchronous: Synchronous | None = None) -> Any:
    def connected(connection: sqlite3.Connection, record: object) -> None:
        connection.executescript(script)
        if synchronous is not None:
            connection.execute(f"PRAGMA synchronous = {synchronous}")

    return connected
