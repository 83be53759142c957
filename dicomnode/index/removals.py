"""Which files are to go because their objects have been deleted.

A row is made in the transaction that removes the object's row, so that what a crash leaves of the
file is removed at the next start and not entered anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.entry import InstanceRow
from dicomnode.index.records import committed_elsewhere, removal
from dicomnode.index.schema import instance

_NAMES = ("path", "sop_instance_uid")


class Removals:
    """The rows of one catalog; everything blocks, and raises CatalogError."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._insert = catalog.prepare(
            insert(removal).values(new_values(_NAMES)), new_names(_NAMES)
        )
        self._delete = catalog.prepare(
            delete(removal).where(removal.c.path == bindparam("of_path")), ["of_path"]
        )
        self._forget_evidence = catalog.prepare(
            delete(committed_elsewhere).where(
                committed_elsewhere.c.sop_instance_uid == bindparam("uid")
            ),
            ["uid"],
        )

    def enter(self, cursor: DBAPICursor, rows: Iterable[InstanceRow]) -> None:
        """Say that the files of objects are to go; part of the transaction that removes them.

        Who has committed to keep them no longer matters.
        """
        for row in rows:
            self._forget_evidence.run(cursor, row.sop_instance_uid)
            # A file that could not be removed the last time may have one.
            self._delete.run(cursor, row.path)
            self._insert.run(cursor, row.path, row.sop_instance_uid)

    def forget(self, paths: Sequence[str]) -> None:
        """The files are gone, durably."""

        def apply(cursor: DBAPICursor) -> None:
            for path in paths:
                self._delete.run(cursor, path)

        if paths:
            self._catalog.transact(apply)

    def is_to_go(self, path: str) -> bool:
        """Tell whether a file is to go."""
        with self._catalog.read() as connection:
            statement = select(removal.c.path).where(removal.c.path == path)
            return connection.scalar(statement) is not None

    def unfinished(self) -> dict[str, str]:
        """Return the SOP Instance UIDs of files that are still to go, by path."""
        with self._catalog.read() as connection:
            rows = connection.execute(select(removal.c.path, removal.c.sop_instance_uid))
            return {row[0]: row[1] for row in rows}

    def held(self) -> set[str]:
        """Return the paths that are to go though the index has an object there."""
        statement = select(removal.c.path).join(
            instance, instance.c.sop_instance_uid == removal.c.sop_instance_uid
        )
        with self._catalog.read() as connection:
            return set(connection.scalars(statement.where(instance.c.path == removal.c.path)))
