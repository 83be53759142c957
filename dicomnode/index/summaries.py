"""Studies in a few words, for whoever is to decide about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select

from dicomnode.index.catalog import Catalog
from dicomnode.index.schema import instance, patient, series, study

_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class StudySummary:
    """A study: whose it is, and how much of it is held; ``received_at`` is its newest object's."""

    study_instance_uid: str
    patient_id: str
    patient_name: str
    study_date: str
    study_description: str
    objects: int
    size_bytes: int
    received_at: float


def summaries(catalog: Catalog, study_instance_uids: Iterable[str]) -> list[StudySummary]:
    """Return the studies that are held of those given, in their order. Raises CatalogError."""
    uids = list(dict.fromkeys(study_instance_uids))
    columns = (
        study.c.study_instance_uid,
        patient.c.patient_id,
        patient.c.patient_name,
        study.c.study_date,
        study.c.study_description,
    )
    statement = (
        select(
            *columns,
            func.count(instance.c.id),
            func.sum(instance.c.size_bytes),
            func.max(instance.c.received_at),
        )
        .select_from(instance.join(series).join(study).join(patient))
        .group_by(*columns)
    )
    found: dict[str, StudySummary] = {}
    with catalog.read() as connection:
        for start in range(0, len(uids), _AT_ONCE):
            wanted = study.c.study_instance_uid.in_(uids[start : start + _AT_ONCE])
            for row in connection.execute(statement.where(wanted)):
                values: list[Any] = list(row)
                # A sum is no whole number everywhere.
                values[6] = int(values[6])
                found[row[0]] = StudySummary(*values)
    return [found[uid] for uid in uids if uid in found]


def patients_of(connect: Callable[[], AbstractContextManager[Connection]], patient_id: str) -> int:
    """Return how many patients are told apart that have a Patient ID. Raises as ``connect``."""
    statement = select(func.count()).where(patient.c.patient_id == patient_id)
    with connect() as connection:
        return int(connection.scalar(statement.select_from(patient)) or 0)
