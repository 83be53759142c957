"""Studies by their age, for retention rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, func, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.catalog import Catalog
from dicomnode.index.entry import InstanceRow
from dicomnode.index.records import committed_elsewhere
from dicomnode.index.schema import instance, series, study
from dicomnode.index.statements import ROW

_AT_ONCE: Final = 500
_E: Final = committed_elsewhere.c
_HELD: Final = instance.join(series).join(study)


@dataclass(frozen=True, slots=True)
class AgingStudy:
    """A study; ``received_at`` is when its newest object was, in seconds since 1970 UTC."""

    study_instance_uid: str
    study_date: str
    received_at: float


class Aging:
    """Reads them; everything blocks, and raises CatalogError."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._newest = catalog.prepare(
            select(func.max(instance.c.received_at))
            .select_from(_HELD)
            .where(study.c.study_instance_uid == bindparam("uid")),
            ["uid"],
        )

    def older(self, received_before: float) -> list[AgingStudy]:
        """Return the studies of which nothing was received since a time, the oldest first."""
        newest = func.max(instance.c.received_at)
        statement = (
            select(study.c.study_instance_uid, study.c.study_date, newest)
            .select_from(_HELD)
            .group_by(study.c.id, study.c.study_instance_uid, study.c.study_date)
            .having(newest < received_before)
            .order_by(newest, study.c.id)
        )
        with self._catalog.read() as connection:
            return [AgingStudy(*row) for row in connection.execute(statement)]

    def newest(self) -> float | None:
        """Return when the newest object of all was received."""
        with self._catalog.read() as connection:
            newest: float | None = connection.scalar(select(func.max(instance.c.received_at)))
        return newest

    def objects(self, study_instance_uid: str) -> list[tuple[InstanceRow, str]]:
        """Return the objects of a study, each with its modality."""
        statement = ROW.add_columns(series.c.modality).where(
            study.c.study_instance_uid == study_instance_uid
        )
        with self._catalog.read() as connection:
            rows = connection.execute(statement.order_by(instance.c.id))
            return [(InstanceRow(*row[:-1]), row[-1]) for row in rows]

    def committed(self, rows: Iterable[InstanceRow]) -> dict[str, set[str]]:
        """Return the AEs that have committed to keep objects, since these were received."""
        received = {row.sop_instance_uid: row.received_at for row in rows}
        uids, found = list(received), dict[str, set[str]]()
        statement = select(_E.sop_instance_uid, _E.peer_ae_title, _E.committed_at)
        with self._catalog.read() as connection:
            for start in range(0, len(uids), _AT_ONCE):
                wanted = _E.sop_instance_uid.in_(uids[start : start + _AT_ONCE])
                for uid, title, at in connection.execute(statement.where(wanted)):
                    if at >= received[uid]:
                        found.setdefault(uid, set()).add(title)
        return found

    def grew(self, cursor: DBAPICursor, one: AgingStudy) -> bool:
        """Tell whether a study got objects since it was looked at; part of a transaction."""
        self._newest.run(cursor, one.study_instance_uid)
        newest: Sequence[tuple[float | None]] = cursor.fetchall()
        return newest[0][0] is not None and newest[0][0] > one.received_at
