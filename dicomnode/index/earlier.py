"""Digests of objects from before the archive's tables were emptied (``records.earlier_digest``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, Select, delete, insert, inspect, literal, select

from dicomnode.index.records import earlier_digest
from dicomnode.index.schema import instance

if TYPE_CHECKING:
    from dicomnode.index.catalog import Catalog

_COLUMNS = ("sop_instance_uid", "sha256", "file_sha256")

KEEP_DIGESTS = (
    delete(earlier_digest).where(
        earlier_digest.c.sop_instance_uid.in_(select(instance.c.sop_instance_uid))
    ),
    insert(earlier_digest).from_select(_COLUMNS, select(*(instance.c[name] for name in _COLUMNS))),
)
"""Statements that keep the digests of all objects, for when their rows go."""


def keep_of_version(connection: Connection) -> None:
    """Keep the digests of an index of another version, which may have none."""
    if not inspect(connection).has_table(instance.name):
        return
    held = MetaData()
    held.reflect(connection, only=[instance.name])
    columns = held.tables[instance.name].columns
    if not {"sop_instance_uid", "sha256"} <= set(columns.keys()):
        return
    of_file = columns["file_sha256"] if "file_sha256" in columns else literal("")
    rows: Select[Any] = select(columns["sop_instance_uid"], columns["sha256"], of_file)
    earlier_digest.create(connection, checkfirst=True)
    known = select(columns["sop_instance_uid"])
    connection.execute(delete(earlier_digest).where(earlier_digest.c.sop_instance_uid.in_(known)))
    connection.execute(insert(earlier_digest).from_select(_COLUMNS, rows))


class EarlierDigests:
    """What is kept, for whoever enters objects anew. Everything blocks; raises CatalogError."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        with catalog.read() as connection:
            statement = select(earlier_digest.c.sop_instance_uid).limit(1)
            self._is_empty = connection.execute(statement).first() is None
        self._forget = catalog.prepare(KEEP_DIGESTS[0], ())

    def of(self, sop_instance_uid: str) -> tuple[str, str] | None:
        """Return the SHA-256 (hex) of the data set and of the file, "" where that was not known."""
        if self._is_empty:
            return None
        statement = select(earlier_digest.c.sha256, earlier_digest.c.file_sha256).where(
            earlier_digest.c.sop_instance_uid == sop_instance_uid
        )
        with self._catalog.read() as connection:
            row = connection.execute(statement).first()
        return (row[0], row[1]) if row is not None else None

    def forget_entered(self) -> None:
        """Forget those of objects that are in the index again."""
        if not self._is_empty:
            self._catalog.transact(self._forget.run)
