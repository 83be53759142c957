"""The tables of the index.

Every key of ``keys`` has a column in the table of its level. Person names have more, folded, for
matching without regard to case and accents (PS3.4 §C.2.2.2.1). Surrogate keys
are integers, so that rows and their foreign keys grow at one end whatever the UIDs look like.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from dicomnode.index.keys import INSTANCE_KEYS, PATIENT_KEYS, SERIES_KEYS, STUDY_KEYS, Key, Level

# Counts up with every change of the tables or of what is written into them.
SCHEMA_VERSION = 4

metadata = MetaData()

# In the order of code points everywhere, so that ranges and prefixes mean the same.
Text = String().with_variant(String(collation="C"), "postgresql")

RowId = BigInteger().with_variant(Integer(), "sqlite")


def _columns(keys: tuple[Key, ...]) -> list[Column[str] | Column[int]]:
    columns: list[Column[str] | Column[int]] = []
    for key in keys:
        if key.vr in ("IS", "US"):
            columns.append(Column(key.column, Integer))
        else:
            columns.append(Column(key.column, Text, nullable=False))
        if key.vr == "PN":
            columns.extend(Column(name, Text, nullable=False) for name in name_columns(key))
    return columns


def name_columns(key: Key) -> tuple[str, ...]:
    """Return the columns for matching a person name: its folded groups, or all values folded."""
    if key.multiple:
        return (f"{key.column}_folded",)
    return tuple(f"{key.column}_{group}" for group in ("alphabetic", "ideographic", "phonetic"))


meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# ``apart`` keeps rows of one Patient ID apart: "" for the first, the folded name and birth date
# for others (an identity conflict), the Study Instance UID where there is no Patient ID.
patient = Table(
    "patient",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("apart", Text, nullable=False),
    *_columns(PATIENT_KEYS),
    UniqueConstraint("patient_id", "issuer_of_patient_id", "apart"),
    Index("patient_by_alphabetic_name", "patient_name_alphabetic"),
    Index("patient_by_ideographic_name", "patient_name_ideographic"),
    Index("patient_by_phonetic_name", "patient_name_phonetic"),
    Index("patient_by_birth_date", "patient_birth_date"),
)

# ``directory`` is the study's directory under the storage directory; the order of recovery.
study = Table(
    "study",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("patient", RowId, ForeignKey("patient.id"), nullable=False, index=True),
    Column("directory", Text, nullable=False, index=True),
    *_columns(STUDY_KEYS),
    UniqueConstraint("study_instance_uid"),
    Index("study_by_date", "study_date"),
    Index("study_by_accession_number", "accession_number"),
    Index("study_by_study_id", "study_id"),
)

# A Series Instance UID is unique within its study only: broken senders use one in several.
series = Table(
    "series",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("study", RowId, ForeignKey("study.id"), nullable=False),
    *_columns(SERIES_KEYS),
    UniqueConstraint("study", "series_instance_uid"),
    Index("series_by_uid", "series_instance_uid"),
    Index("series_by_study", "study", "modality"),
)

# ``sha256`` is of the data set as received, ``file_sha256`` of the whole file, both hex.
# ``received_at`` is in seconds since 1970 UTC. The index by series covers counts, SOP classes and
# sizes.
instance = Table(
    "instance",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("series", RowId, ForeignKey("series.id"), nullable=False),
    *_columns(INSTANCE_KEYS),
    Column("transfer_syntax_uid", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("data_set_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("file_sha256", Text, nullable=False),
    Column("source_ae", Text, nullable=False),
    Column("received_at", Float(53), nullable=False),
    UniqueConstraint("sop_instance_uid"),
    Index("instance_by_series", "series", "sop_class_uid", "size_bytes"),
)

# One row for each further identity that came with a Patient ID; never resolved by itself.
identity_conflict = Table(
    "identity_conflict",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("held_name", Text, nullable=False),
    Column("held_birth_date", Text, nullable=False),
    Column("other_name", Text, nullable=False),
    Column("other_name_folded", Text, nullable=False),
    Column("other_birth_date", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False),
    Column("source_ae", Text, nullable=False),
    Column("noticed_at", Float(53), nullable=False),
    UniqueConstraint("patient_id", "issuer_of_patient_id", "other_name_folded", "other_birth_date"),
)

# The whole Part 10 file of each small object whose file may not survive a power loss yet. It stands
# alone, without foreign key, and keeps its shape whatever the schema version: the rows that
# another version left behind have to be read before its database goes (``intake``). ``id`` is
# that of the object in ``instance``.
intake = Table(
    "intake",
    metadata,
    Column("id", RowId, primary_key=True),
    Column("path", Text, nullable=False),
    Column("bytes", LargeBinary, nullable=False),
)

TABLES = {
    Level.PATIENT: patient,
    Level.STUDY: study,
    Level.SERIES: series,
    Level.INSTANCE: instance,
}
