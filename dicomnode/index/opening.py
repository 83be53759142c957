"""Makes the tables of the index, or makes them anew where another version left its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, MetaData, delete, insert, inspect, literal_column, select

from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.index import intake, records, schema
from dicomnode.index.backend import Backend
from dicomnode.index.earlier import keep_of_version
from dicomnode.index.intake import Restore

_UNFILLED: Final = "unfilled"
_IS_UNFILLED: Final = select(schema.meta.c.value).where(schema.meta.c.name == _UNFILLED)
# As literals: whoever runs these has no parameters.
UNFILLED: Final = insert(schema.meta).from_select(
    ["name", "value"], select(literal_column(f"'{_UNFILLED}'"), literal_column("'1'"))
)
"""Says that the files have not all been entered yet since the tables were made or emptied."""
FILLED: Final = delete(schema.meta).where(schema.meta.c.name == literal_column(f"'{_UNFILLED}'"))
"""Says that they have."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What was met and done; see ``Catalog`` for what each says."""

    rebuilt_from: str | None = None
    is_new: bool = False
    restored: int = 0
    unrestored: str = ""


def make_tables(backend: Backend, restore: Restore | None) -> Opening:
    """Make the tables that are lacking; those of another version give way to empty ones.

    ``restore`` is given the objects whose files may have been lost with the power. Raises
    CatalogError where it has to be there and is not, where other tables cannot give way, and
    whatever the database raises.
    """
    found = _schema_version(backend)
    restored, unrestored, rebuilt_from = 0, "", None
    if found is not None and backend.is_sqlite:
        restored, unrestored = _restore(backend, restore, found)
    if found is not None and found != str(schema.SCHEMA_VERSION):
        if not backend.is_sqlite:
            raise CatalogError(
                f"the index {backend.name} has schema version {found}, this program "
                f"needs {schema.SCHEMA_VERSION}: drop its tables and run `dicomnode reindex`"
            )
        _drop_archive(backend)
        rebuilt_from = found
    is_new = found != str(schema.SCHEMA_VERSION)
    with backend.writer.begin() as connection:
        records.metadata.create_all(connection)
        if is_new:
            schema.metadata.create_all(connection)
            connection.execute(
                schema.meta.insert().values(name="schema_version", value=str(schema.SCHEMA_VERSION))
            )
            connection.execute(UNFILLED)
        else:
            is_new = connection.scalar(_IS_UNFILLED) is not None
    return Opening(rebuilt_from, is_new, restored, unrestored)


def _schema_version(backend: Backend) -> str | None:
    with backend.writer.connect() as connection:
        if not inspect(connection).has_table("meta"):
            return None
        version: str | None = connection.scalar(
            select(schema.meta.c.value).where(schema.meta.c.name == "schema_version")
        )
        return version


def _drop_archive(backend: Backend) -> None:
    """Remove the tables of another schema version; ``records`` stay."""
    held = MetaData()
    with backend.writer.begin() as connection:
        keep_of_version(connection)
        _keep_newcomers(connection)
        held.reflect(connection)
        for table in records.metadata.tables:
            if table in held.tables:
                held.remove(held.tables[table])
        held.drop_all(connection)


def _keep_newcomers(connection: Connection) -> None:
    """Forget what was to be removed where an object has come since: soon no row tells of that."""
    there = inspect(connection)
    if there.has_table(records.removal.name) and there.has_table(schema.instance.name):
        held = select(schema.instance.c.path)
        connection.execute(delete(records.removal).where(records.removal.c.path.in_(held)))


def _restore(backend: Backend, restore: Restore | None, found: str) -> tuple[int, str]:
    """Have the files that are only in the index written before anything in it is changed.

    Returns how many were written, and why they could not be: then they stay, to be tried again.
    They cannot in a database of another schema version: raises CatalogError.
    """
    engine = backend.writer
    if next(intake.unsettled(engine), None) is None:
        return 0, ""
    try:
        if restore is None:
            raise OutOfResources("start the node, or run `dicomnode reindex`, which does that")
        restored = restore(intake.unsettled(engine))
    except OutOfResources as error:
        if found != str(schema.SCHEMA_VERSION):
            raise CatalogError(
                f"the index {backend.name} of schema version {found} has the only copy of"
                f" some objects, and their files cannot be written: {error.comment}"
            ) from error
        return 0, error.comment
    with engine.begin() as connection:
        connection.execute(schema.intake.delete())
    return restored, ""
