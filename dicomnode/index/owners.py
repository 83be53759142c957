"""Whose a study is, for the audit trail."""

from __future__ import annotations

from sqlalchemy import select

from dicomnode.index import schema
from dicomnode.index.catalog import Catalog


def owner_of(catalog: Catalog, study_instance_uid: str) -> tuple[str, str, str] | None:
    """Return Patient ID, Patient's Name and Accession Number of a study; None: it is not held.

    Raises CatalogError.
    """
    patient, study = schema.patient.c, schema.study.c
    statement = (
        select(patient.patient_id, patient.patient_name, study.accession_number)
        .join(schema.study, study.patient == patient.id)
        .where(study.study_instance_uid == study_instance_uid)
    )
    with catalog.read() as connection:
        row = connection.execute(statement).first()
    return (row[0], row[1], row[2]) if row is not None else None
