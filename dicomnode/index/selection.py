"""Which objects a retrieval is of, and where they are."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

from sqlalchemy import select

from dicomnode.index.backend import Backend, Question
from dicomnode.index.entry import InstanceRow
from dicomnode.index.keys import BY_KEYWORD
from dicomnode.index.reading import Stop, reading
from dicomnode.index.schema import TABLES, instance, patient, series, study
from dicomnode.index.statements import ROW

_FETCHED_AT_ONCE = 1000
_FROM = instance.join(series).join(study).join(patient)
_ORDER = (study.c.id, series.c.id, instance.c.instance_number, instance.c.id)


class Selection:
    """The two steps of a retrieval: row ids first, so that no transaction waits for a peer."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._rows = Question(
            ROW.add_columns(instance.c.id).where(backend.among(instance.c.id, "ids")),
            backend.reader,
        )
        self._questions: dict[tuple[str, ...], Question] = {}

    def select_instances(
        self, unique_keys: Mapping[str, Sequence[str]], stop: Stop | None
    ) -> array[int]:
        """Return the row ids of the objects that have, of each key, one of the values."""
        keywords = tuple(sorted(unique_keys))
        question = self._questions.get(keywords) or self._make_question(keywords)
        values = {word: self._backend.list_value(unique_keys[word]) for word in keywords}
        ids = array("q")
        with reading(self._backend, stop) as cursor:
            question.run(cursor, values)
            while rows := cursor.fetchmany(_FETCHED_AT_ONCE):
                ids.extend(row[0] for row in rows)
        return ids

    def _make_question(self, keywords: tuple[str, ...]) -> Question:
        statement = select(instance.c.id).select_from(_FROM).order_by(*_ORDER)
        for word in keywords:
            key = BY_KEYWORD[word]
            column = TABLES[key.level].c[key.column]
            statement = statement.where(self._backend.among(column, word))
        # As many shapes as there are combinations of the unique keys.
        self._questions[keywords] = Question(statement, self._backend.reader)
        return self._questions[keywords]

    def instance_rows(self, ids: Sequence[int]) -> list[InstanceRow]:
        """Return the rows of ``ids`` in that order; those that are gone are left out."""
        with reading(self._backend) as cursor:
            self._rows.run(cursor, {"ids": self._backend.list_value(ids)})
            found = {row[-1]: InstanceRow(*row[:-1]) for row in cursor.fetchall()}
        return [found[row_id] for row_id in ids if row_id in found]
