"""How it went with each rule: rows of the index's database that outlive it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.records import fetch_state


@dataclass(frozen=True, slots=True)
class State:
    """A row of ``records.fetch_state``, which says what each field means."""

    name: str
    is_running: bool = False
    started_at: float = 0.0
    ended_at: float = 0.0
    succeeded_at: float = 0.0
    failures: int = 0
    not_before: float = 0.0
    compared_studies: int = 0
    fetched: int = 0
    sent: int = 0
    missing_studies: int = 0
    missing_objects: int = 0
    last_error: str = ""


_NAMES = tuple(field.name for field in fields(State))


class States:
    """All rows; everything blocks, and raises CatalogError."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._delete = catalog.prepare(
            delete(fetch_state).where(fetch_state.c.name == bindparam("of_name")), ["of_name"]
        )
        self._insert = catalog.prepare(
            insert(fetch_state).values(new_values(_NAMES)), new_names(_NAMES)
        )

    def load(self) -> dict[str, State]:
        """Return the states of all rules that have ever run, by name."""
        columns = [fetch_state.c[name] for name in _NAMES]
        with self._catalog.read() as connection:
            rows = connection.execute(select(*columns)).all()
        return {row[0]: State(row[0], bool(row[1]), *row[2:]) for row in rows}

    def save(self, state: State) -> None:
        """Write a state down; it is durable on return."""
        name, is_running, *rest = astuple(state)

        def apply(cursor: DBAPICursor) -> None:
            self._delete.run(cursor, name)
            self._insert.run(cursor, name, int(is_running), *rest)

        self._catalog.transact(apply)
