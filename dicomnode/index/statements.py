"""The statements of the writer, each compiled once for its database."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, Table, bindparam, delete, exists, func, select
from sqlalchemy.sql import ClauseElement

from dicomnode.index import schema
from dicomnode.index.backend import Backend, Prepared
from dicomnode.index.earlier import KEEP_DIGESTS
from dicomnode.index.keys import PATIENT_KEYS, SERIES_KEYS, STUDY_KEYS, Key
from dicomnode.index.schema import identity_conflict, instance, intake, patient, series, study

# The columns of an ``entry.InstanceRow``, in its order.
ROW: Select[Any] = select(
    instance.c.sop_instance_uid,
    instance.c.sop_class_uid,
    study.c.study_instance_uid,
    series.c.series_instance_uid,
    instance.c.transfer_syntax_uid,
    instance.c.path,
    instance.c.size_bytes,
    instance.c.data_set_bytes,
    instance.c.sha256,
    instance.c.file_sha256,
    instance.c.source_ae,
    instance.c.received_at,
).select_from(instance.join(series).join(study))

# Patient ID, its issuer, name and birth date.
_IDENTITY = (
    patient.c.patient_id,
    patient.c.issuer_of_patient_id,
    patient.c.patient_name,
    patient.c.patient_birth_date,
)


def value_columns(keys: tuple[Key, ...]) -> list[str]:
    """Return the columns that ``entry.key_values`` has the values of, in its order."""
    names: list[str] = []
    for key in keys:
        names.append(key.column)
        if key.vr == "PN":
            names.extend(schema.name_columns(key))
    return names


class Statements:
    """What the registrar runs; each attribute is one statement."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._prepare_adding()
        self._prepare_finding()
        self._prepare_removing()

    def _prepare_adding(self) -> None:
        insert = self._backend.insert
        self.add_patient = insert(patient, ["id", "apart", *value_columns(PATIENT_KEYS)])
        self.add_study = insert(study, ["id", "patient", "directory", *value_columns(STUDY_KEYS)])
        self.add_series = insert(series, ["id", "study", *value_columns(SERIES_KEYS)])
        self.add_instance = insert(instance, ["id", *_without_id(instance)])
        self.add_intake = insert(intake, ["id", "path", "bytes"])
        self.add_conflict = insert(identity_conflict, _without_id(identity_conflict))

    def _prepare_finding(self) -> None:
        self.last_ids = {
            table.name: self._prepared(select(func.max(table.c.id)))
            for table in (patient, study, series, instance)
        }
        self.find_patients = self._prepared(
            select(patient.c.id, *_IDENTITY)
            .where(patient.c.patient_id == bindparam("patient_id"))
            .where(patient.c.issuer_of_patient_id == bindparam("issuer"))
            .order_by(patient.c.id),
            "patient_id",
            "issuer",
        )
        self.find_study = self._prepared(
            select(study.c.id, *_IDENTITY)
            .select_from(study.join(patient))
            .where(study.c.study_instance_uid == bindparam("uid")),
            "uid",
        )
        self.find_series = self._prepared(
            select(series.c.id)
            .where(series.c.study == bindparam("study_id"))
            .where(series.c.series_instance_uid == bindparam("uid")),
            "study_id",
            "uid",
        )
        of_this_uid = instance.c.sop_instance_uid == bindparam("uid")
        self.row = self._prepared(ROW.where(of_this_uid), "uid")
        self.parents = self._prepared(
            select(instance.c.id, series.c.id, study.c.id, patient.c.id, *_IDENTITY)
            .select_from(instance.join(series).join(study).join(patient))
            .where(of_this_uid),
            "uid",
        )

        self.intake_sizes = self._prepared(
            select(func.count(intake.c.id), func.sum(func.length(intake.c.bytes)))
            .where(intake.c.id >= bindparam("first"))
            .where(intake.c.id <= bindparam("last")),
            "first",
            "last",
        )

    def _prepare_removing(self) -> None:
        self.remove_intake = self._prepared(
            delete(intake)
            .where(intake.c.id >= bindparam("first"))
            .where(intake.c.id <= bindparam("last")),
            "first",
            "last",
        )
        self.remove_instance = self._prepared(
            delete(instance).where(instance.c.sop_instance_uid == bindparam("uid")), "uid"
        )
        self.remove_series = self._remove_childless(series, instance.c.series == series.c.id)
        self.remove_study = self._remove_childless(study, series.c.study == study.c.id)
        self.remove_patient = self._remove_childless(patient, study.c.patient == patient.c.id)
        conflict = identity_conflict.c
        self.remove_conflicts = [
            self._prepared(
                delete(identity_conflict)
                .where(conflict.patient_id == bindparam("patient_id"))
                .where(conflict.issuer_of_patient_id == bindparam("issuer"))
                .where(name == bindparam("name"))
                .where(birth_date == bindparam("birth_date")),
                "patient_id",
                "issuer",
                "name",
                "birth_date",
            )
            for name, birth_date in (
                (conflict.held_name, conflict.held_birth_date),
                (conflict.other_name, conflict.other_birth_date),
            )
        ]
        tables = (intake, identity_conflict, instance, series, study, patient)
        statements = (*KEEP_DIGESTS, *(delete(table) for table in tables))
        self.remove_all = [self._prepared(statement) for statement in statements]

    def _remove_childless(self, table: Table, is_child: ColumnElement[bool]) -> Prepared:
        """Return a DELETE of the row with an ``id``, unless another row is its child."""
        of_this_id = table.c.id == bindparam("row_id")
        return self._prepared(
            delete(table).where(of_this_id).where(~exists().where(is_child)), "row_id"
        )

    def _prepared(self, statement: ClauseElement, *names: str) -> Prepared:
        return Prepared(statement, self._backend.writer, names)


def _without_id(table: Table) -> list[str]:
    return [column.name for column in table.columns if column.name != "id"]
