"""Reads the table ``intake``: files of small objects that may not survive a power loss yet.

Apart from the other tables, as the rows may be of a database of another schema version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, inspect, select

from dicomnode.index.schema import intake

_ROWS_PER_STEP = 64


@dataclass(frozen=True, slots=True)
class Unsettled:
    """An object whose file the index keeps: ``path`` under the storage directory, ``contents``."""

    id: int
    path: str
    contents: bytes


# Has the files of objects survive power loss; returns how many had to be written anew.
Restore = Callable[[Iterator[Unsettled]], int]


def unsettled(engine: Engine) -> Iterator[Unsettled]:
    """Yield what is kept, oldest first; no transaction is open between two steps."""
    last = -1
    with engine.connect() as connection:
        there_is_one = inspect(connection).has_table(intake.name)
    while there_is_one:
        statement = select(intake).where(intake.c.id > last).order_by(intake.c.id)
        with engine.connect() as connection:
            rows = connection.execute(statement.limit(_ROWS_PER_STEP)).all()
        if not rows:
            return
        last = rows[-1][0]
        for row in rows:
            yield Unsettled(*row)


def first_unsettled(connection: Connection) -> int | None:
    """Return the id of the oldest object that is kept, None when there is none."""
    first: int | None = connection.scalar(select(func.min(intake.c.id)))
    return first


def last_unsettled(connection: Connection) -> int | None:
    """Return the id of the latest object that is kept, None when there is none."""
    last: int | None = connection.scalar(select(func.max(intake.c.id)))
    return last
