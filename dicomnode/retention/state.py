"""How it went with each rule, and when the clock was right: rows that outlive the index."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from typing import Final

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.records import retention_state

# The row of no rule: as ``ran_at`` it has when the clock could be trusted.
_CLOCK: Final = ""


@dataclass(frozen=True, slots=True)
class State:
    """A row of ``records.retention_state``: counts are of all runs, ``kept`` of the last one."""

    name: str
    ran_at: float = 0.0
    deleted: int = 0
    deleted_bytes: int = 0
    kept: int = 0
    last_error: str = ""


_NAMES: Final = tuple(field.name for field in fields(State))


class States:
    """All rows; everything blocks, and raises CatalogError."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._delete = catalog.prepare(
            delete(retention_state).where(retention_state.c.name == bindparam("of_name")),
            ["of_name"],
        )
        self._insert = catalog.prepare(
            insert(retention_state).values(new_values(_NAMES)), new_names(_NAMES)
        )

    def load(self) -> dict[str, State]:
        """Return the states of all rules that have ever run, by name."""
        with self._catalog.read() as connection:
            rows = connection.execute(select(*(retention_state.c[name] for name in _NAMES)))
            return {row[0]: State(*row) for row in rows if row[0] != _CLOCK}

    def save(self, state: State) -> None:
        """Write a state down; it is durable on return."""

        def apply(cursor: DBAPICursor) -> None:
            self._delete.run(cursor, state.name)
            self._insert.run(cursor, *astuple(state))

        self._catalog.transact(apply)

    def trusted_at(self) -> float | None:
        """Return the last time at which the clock could be trusted; None: it never was."""
        of_clock = retention_state.c.name == _CLOCK
        with self._catalog.read() as connection:
            return connection.scalar(select(retention_state.c.ran_at).where(of_clock))

    def trust(self, now: float) -> None:
        """The clock is right."""
        self.save(State(_CLOCK, now))
