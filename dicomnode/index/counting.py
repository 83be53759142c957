"""What the index holds, counted anew: the writer goes on from there."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from dicomnode.index import schema
from dicomnode.index.entry import Counts


def count(connection: Connection) -> Counts:
    """Count all rows; takes as long as reading the tables."""

    def rows(table: object) -> int:
        return connection.scalar(select(func.count()).select_from(table)) or 0  # type: ignore[arg-type]

    sizes = select(func.coalesce(func.sum(schema.instance.c.size_bytes), 0))
    kept = select(func.coalesce(func.sum(func.length(schema.intake.c.bytes)), 0))
    return Counts(
        patients=rows(schema.patient),
        studies=rows(schema.study),
        series=rows(schema.series),
        instances=rows(schema.instance),
        bytes=int(connection.scalar(sizes) or 0),
        identity_conflicts=rows(schema.identity_conflict),
        unsettled=rows(schema.intake),
        unsettled_bytes=int(connection.scalar(kept) or 0),
    )
