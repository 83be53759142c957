"""The tables of the index.

Every key of ``keys`` has a column in the table of its level. Person names have a second,
folded one for matching without regard to case and accents (PS3.4 §C.2.2.2.1). Surrogate keys
are integers, so that rows and their foreign keys grow at one end whatever the UIDs look like.
"""

from __future__ import annotations

import unicodedata

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from dicomnode.index.keys import INSTANCE_KEYS, PATIENT_KEYS, SERIES_KEYS, STUDY_KEYS, Key, Level

# Counts up with every change of the tables or of what is written into them.
SCHEMA_VERSION = 1

metadata = MetaData()

_Id = BigInteger().with_variant(Integer(), "sqlite")


def _columns(keys: tuple[Key, ...]) -> list[Column[str] | Column[int]]:
    columns: list[Column[str] | Column[int]] = []
    for key in keys:
        if key.vr in ("IS", "US"):
            columns.append(Column(key.column, Integer))
        else:
            columns.append(Column(key.column, String, nullable=False))
        if key.vr == "PN":
            columns.append(Column(folded(key.column), String, nullable=False))
    return columns


def folded(column: str) -> str:
    """Return the name of the folded companion of a person name's column."""
    return f"{column}_folded"


def fold(name: str) -> str:
    """Return a person name without case, accents, and empty trailing components."""
    if name.isascii():
        plain = name.lower()
    else:
        decomposed = unicodedata.normalize("NFKD", name).casefold()
        plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    groups = (group.strip(" ^") for group in plain.split("="))
    return "=".join(groups).rstrip("=")


meta = Table(
    "meta",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)

# ``apart`` keeps rows of one Patient ID apart: "" for the first, the folded name and birth date
# for others (an identity conflict), the Study Instance UID where there is no Patient ID.
patient = Table(
    "patient",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("apart", String, nullable=False),
    *_columns(PATIENT_KEYS),
    UniqueConstraint("patient_id", "issuer_of_patient_id", "apart"),
    Index("patient_by_name", "patient_name_folded"),
)

# ``directory`` is the study's directory under the storage directory; the order of recovery.
study = Table(
    "study",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("patient", _Id, ForeignKey("patient.id"), nullable=False, index=True),
    Column("directory", String, nullable=False, index=True),
    *_columns(STUDY_KEYS),
    UniqueConstraint("study_instance_uid"),
    Index("study_by_date", "study_date"),
    Index("study_by_accession_number", "accession_number"),
)

# A Series Instance UID is unique within its study only: broken senders use one in several.
series = Table(
    "series",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("study", _Id, ForeignKey("study.id"), nullable=False),
    *_columns(SERIES_KEYS),
    UniqueConstraint("study", "series_instance_uid"),
    Index("series_by_uid", "series_instance_uid"),
)

# ``received_at`` is in seconds since 1970 UTC. The index by series covers counts and sizes.
instance = Table(
    "instance",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("series", _Id, ForeignKey("series.id"), nullable=False),
    *_columns(INSTANCE_KEYS),
    Column("transfer_syntax_uid", String, nullable=False),
    Column("path", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("data_set_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    Column("source_ae", String, nullable=False),
    Column("received_at", Float(53), nullable=False),
    UniqueConstraint("sop_instance_uid"),
    Index("instance_by_series", "series", "size_bytes"),
)

# One row for each further identity that came with a Patient ID; never resolved by itself.
identity_conflict = Table(
    "identity_conflict",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("patient_id", String, nullable=False),
    Column("issuer_of_patient_id", String, nullable=False),
    Column("held_name", String, nullable=False),
    Column("held_birth_date", String, nullable=False),
    Column("other_name", String, nullable=False),
    Column("other_name_folded", String, nullable=False),
    Column("other_birth_date", String, nullable=False),
    Column("study_instance_uid", String, nullable=False),
    Column("sop_instance_uid", String, nullable=False),
    Column("source_ae", String, nullable=False),
    Column("noticed_at", Float(53), nullable=False),
    UniqueConstraint("patient_id", "issuer_of_patient_id", "other_name_folded", "other_birth_date"),
)

TABLES = {
    Level.PATIENT: patient,
    Level.STUDY: study,
    Level.SERIES: series,
    Level.INSTANCE: instance,
}
