"""Modality performed procedure steps in the index (PS3.4 Annex F).

A change of a step and what becomes of the worklist items that it refers to are one transaction.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, exists, func, insert, or_, select, update
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import StatusError
from dicomnode.index.backend import Prepared, new_names, new_values
from dicomnode.index.catalog import Attachment, Catalog
from dicomnode.index.records import performed_step, performed_step_schedule, worklist_item
from dicomnode.index.worklist import Standing, State, WorklistItems
from dicomnode.storage.json_model import Attributes, items_of, text_of

# Of all that a step has, as JSON: each N-SET may add to it, and each reads and writes it whole.
_MAX_CHARACTERS: Final = 16 * 1024 * 1024
_RESOURCE_LIMITATION: Final = 0x0213
# What an item's state is where its performed steps differ: the first of these that one of them has.
_PRECEDENCE: Final = (State.IN_PROGRESS, State.COMPLETED, State.DISCONTINUED)

_REFERENCES: Final = (
    "ReferencedImageSequence",
    "ReferencedNonImageCompositeSOPInstanceSequence",
)
_MOMENT: Final = ("Date", "Time")


@dataclass(frozen=True, slots=True)
class PerformedStep:
    """One performed procedure step; times are in seconds since 1970 UTC.

    ``source_ae_title`` is who created it; ``revision`` goes up with each change.
    """

    sop_instance_uid: str
    status: State
    attributes: Attributes
    source_ae_title: str
    created_at: float
    changed_at: float
    revision: int = 0

    @property
    def started(self) -> str:
        """Start date and time as the modality gave them: "YYYYMMDD HHMMSS"."""
        return self._moment("Start")

    @property
    def ended(self) -> str:
        """End date and time as the modality gave them, "" while there are none."""
        return self._moment("End")

    @property
    def station(self) -> str:
        """Performed Station AE Title (0040,0241)."""
        return text_of(self.attributes, "PerformedStationAETitle")

    @property
    def series(self) -> int:
        """How many series it has."""
        return len(self._series)

    @property
    def instances(self) -> int:
        """How many objects its series refer to."""
        return sum(len(items_of(series, each)) for series in self._series for each in _REFERENCES)

    @property
    def _series(self) -> list[Attributes]:
        return items_of(self.attributes, "PerformedSeriesSequence")

    def _moment(self, which: str) -> str:
        parts = (text_of(self.attributes, f"PerformedProcedureStep{which}{of}") for of in _MOMENT)
        return " ".join(filter(None, parts))


# In the order of the tables, as statements have them.
_INSERTED: Final = (
    "sop_instance_uid",
    "status",
    "revision",
    "attributes",
    "source_ae_title",
    "created_at",
    "changed_at",
)
_UPDATED: Final = ("status", "revision", "attributes", "changed_at")
_SCHEDULE: Final = (
    "performed_step",
    "study_instance_uid",
    "step_id",
    "accession_number",
    "status",
)
_STEP: Final = select(*(performed_step.c[name] for name in PerformedStep.__slots__))
# Study Instance UID, Scheduled Procedure Step ID and Accession Number of a scheduled step.
_Scheduled = tuple[str, str, str]


class Steps:
    """The performed steps of an open catalog; usable from any thread that may wait for the disk.

    Raises CatalogError where the index fails, from the constructor on.
    """

    def __init__(self, catalog: Catalog, items: WorklistItems) -> None:
        self._catalog = catalog
        self._statements = _Statements(catalog, items)
        self._lock = threading.Lock()
        self._counts = self._counted()

    # -- changing ----------------------------------------------------------------------------------

    def create(self, step: PerformedStep, also: Attachment | None = None) -> list[str] | None:
        """Enter a step and have the worklist follow; return the keys of its items, when durable.

        The changes of ``also`` are made in the same transaction. Nothing is changed and None
        returned when there is a step with its UID. Raises StatusError (0213H) for one that is too
        long to be kept, as ``change`` does.
        """
        scheduled = _scheduled(step.attributes)
        encoded = _encoded(step.attributes)
        followed = self._followed(
            partial(self._statements.create, step=step, encoded=encoded, scheduled=scheduled), also
        )
        if followed is not None:
            with self._lock:
                self._counts[step.status] += 1
        return followed

    def change(
        self,
        held: PerformedStep,
        attributes: Attributes,
        status: State,
        changed_at: float,
        also: Attachment | None = None,
    ) -> list[str] | None:
        """Give a step other attributes, as ``create`` does.

        Nothing is changed and None returned when the step has changed since ``held`` was read.
        """
        step = replace(held, status=status, attributes=attributes, changed_at=changed_at)
        scheduled = _scheduled(attributes)
        encoded = _encoded(attributes)
        followed = self._followed(
            partial(self._statements.change, step=step, encoded=encoded, scheduled=scheduled), also
        )
        if followed is not None:
            with self._lock:
                self._counts[held.status] -= 1
                self._counts[status] += 1
        return followed

    def _followed(
        self, enter: Callable[[DBAPICursor], list[str] | None], also: Attachment | None
    ) -> list[str] | None:
        """Make a change, and with it that of ``also`` unless nothing is changed."""

        def apply(cursor: DBAPICursor) -> list[str] | None:
            followed = enter(cursor)
            if followed is not None and also is not None:
                also.apply(cursor)
            return followed

        followed = self._catalog.transact(apply)
        if followed is not None and also is not None:
            also.committed()
        return followed

    def begun(
        self, cursor: DBAPICursor, study_instance_uid: str, step_id: str, accession_number: str
    ) -> Standing | None:
        """Return what performed steps make the state of an item; see ``WorklistItems.put``.

        An item comes again when a file gets another name, or a file server was away.
        """
        return self._statements.found(
            cursor, _PRECEDENCE, step_id, (study_instance_uid, accession_number)
        )

    # -- reading -----------------------------------------------------------------------------------

    def get(self, sop_instance_uid: str) -> PerformedStep | None:
        """Return a step."""
        found = self._steps(_STEP.where(performed_step.c.sop_instance_uid == sop_instance_uid))
        return found[0] if found else None

    def steps_of(
        self, study_instance_uid: str, step_id: str, accession_number: str = "", *, limit: int = 20
    ) -> list[PerformedStep]:
        """Return the performed steps of a scheduled step, the latest first.

        They are found as worklist items are: by Study Instance UID or Accession Number, each
        with the Scheduled Procedure Step ID.
        """
        of = performed_step_schedule.c
        known_by = [of.study_instance_uid == study_instance_uid]
        if accession_number:
            known_by.append(of.accession_number == accession_number)
        uids = select(of.performed_step).where(or_(*known_by), of.step_id == step_id)
        return self._steps(
            _STEP.where(performed_step.c.sop_instance_uid.in_(uids))
            .order_by(performed_step.c.created_at.desc())
            .limit(limit)
        )

    def counts(self) -> Mapping[State, int]:
        """Return how many steps have each status, as of the last change; takes no query."""
        with self._lock:
            return {state: self._counts[state] for state in _PRECEDENCE}

    def _counted(self) -> Counter[State]:
        column = performed_step.c.status
        with self._catalog.read() as connection:
            rows = connection.execute(select(column, func.count()).group_by(column)).all()
        return Counter({State(status): count for status, count in rows})

    def _steps(self, statement: Any) -> list[PerformedStep]:
        with self._catalog.read() as connection:
            rows = connection.execute(statement).all()
        return [
            PerformedStep(uid, State(status), json.loads(attributes), *rest)
            for uid, status, attributes, *rest in rows
        ]


def _scheduled(attributes: Attributes) -> list[_Scheduled]:
    """Return what a step was scheduled as; a step without ID was not."""
    keywords = ("StudyInstanceUID", "ScheduledProcedureStepID", "AccessionNumber")
    found = [
        (text_of(item, keywords[0]), text_of(item, keywords[1]), text_of(item, keywords[2]))
        for item in items_of(attributes, "ScheduledStepAttributesSequence")
    ]
    return [each for each in dict.fromkeys(found) if each[1]]


def _encoded(attributes: Attributes) -> str:
    """Return attributes as they are kept; raises StatusError (0213H) when they are too long."""
    encoded = json.dumps(attributes, ensure_ascii=False, separators=(",", ":"))
    if len(encoded) > _MAX_CHARACTERS:
        raise StatusError("the step is too long to be kept", status=_RESOURCE_LIMITATION)
    return encoded


class _Statements:
    """What changes the tables, compiled once for the writer's cursor."""

    def __init__(self, catalog: Catalog, items: WorklistItems) -> None:
        self._items = items
        step, schedule, prepare = performed_step, performed_step_schedule, catalog.prepare
        self._held = prepare(
            select(step.c.sop_instance_uid).where(step.c.sop_instance_uid == bindparam("uid")),
            ["uid"],
        )
        self._insert = prepare(insert(step).values(new_values(_INSERTED)), new_names(_INSERTED))
        self._insert_schedule = prepare(
            insert(schedule).values(new_values(_SCHEDULE)), new_names(_SCHEDULE)
        )
        self._update = prepare(
            update(step)
            .values(new_values(_UPDATED))
            .where(
                step.c.sop_instance_uid == bindparam("uid"), step.c.revision == bindparam("before")
            ),
            [*new_names(_UPDATED), "uid", "before"],
        )
        self._update_schedule = prepare(
            update(schedule)
            .values(status=bindparam("new_status"))
            .where(schedule.c.performed_step == bindparam("uid")),
            ["new_status", "uid"],
        )
        # Steps whose study has an item of its own are of that, whatever their accession number.
        item = worklist_item.c
        has_own_item = exists().where(
            item.study_instance_uid == schedule.c.study_instance_uid,
            item.step_id == schedule.c.step_id,
        )
        self._others = (
            _step_with(prepare, schedule.c.study_instance_uid),
            _step_with(prepare, schedule.c.accession_number, ~has_own_item),
        )

    def create(
        self,
        cursor: DBAPICursor,
        step: PerformedStep,
        encoded: str,
        scheduled: Sequence[_Scheduled],
    ) -> list[str] | None:
        """Enter a step; None when there is one with its UID."""
        uid = step.sop_instance_uid
        self._held.run(cursor, uid)
        if cursor.fetchone() is not None:
            return None
        self._insert.run(
            cursor,
            uid,
            step.status,
            step.revision,
            encoded,
            step.source_ae_title,
            step.created_at,
            step.changed_at,
        )
        for study_instance_uid, step_id, accession_number in scheduled:
            self._insert_schedule.run(
                cursor, uid, study_instance_uid, step_id, accession_number, step.status
            )
        return self._follow(cursor, step, scheduled)

    def change(
        self,
        cursor: DBAPICursor,
        step: PerformedStep,
        encoded: str,
        scheduled: Sequence[_Scheduled],
    ) -> list[str] | None:
        """Change a step that has the revision given; None when it has another by now."""
        uid, before = step.sop_instance_uid, step.revision
        self._update.run(cursor, step.status, before + 1, encoded, step.changed_at, uid, before)
        if cursor.rowcount != 1:
            return None
        self._update_schedule.run(cursor, step.status, uid)
        return self._follow(cursor, step, scheduled)

    def _follow(
        self, cursor: DBAPICursor, step: PerformedStep, scheduled: Sequence[_Scheduled]
    ) -> list[str]:
        """Give the worklist items of a step the state of all their performed steps."""
        followed: list[str] = []
        for study_instance_uid, step_id, accession_number in scheduled:
            followed += self._items.follow(
                cursor,
                study_instance_uid,
                step_id,
                accession_number,
                partial(self._prevailing, cursor, step, step_id),
            )
        return list(dict.fromkeys(followed))

    def _prevailing(
        self,
        cursor: DBAPICursor,
        step: PerformedStep,
        step_id: str,
        study_instance_uid: str,
        accession_number: str,
    ) -> Standing:
        """Return the state of an item that a step refers to, and the step that it comes from."""
        before = _PRECEDENCE[: _PRECEDENCE.index(step.status)]
        found = self.found(cursor, before, step_id, (study_instance_uid, accession_number))
        return found or (step.status, step.sop_instance_uid)

    def found(
        self,
        cursor: DBAPICursor,
        states: Sequence[State],
        step_id: str,
        requests: tuple[str, str],
    ) -> Standing | None:
        """Return the first of ``states`` that a performed step has, and that step."""
        for state in states:
            for statement, request in zip(self._others, requests, strict=True):
                if not request:
                    continue
                statement.run(cursor, request, step_id, state)
                if (row := cursor.fetchone()) is not None:
                    return state, row[0]
        return None


def _step_with(prepare: Any, column: Any, *conditions: ColumnElement[bool]) -> Prepared:
    """Prepare the search for the last performed step of a scheduled step with a status."""
    schedule = performed_step_schedule.c
    last = select(func.max(schedule.id)).where(
        column == bindparam("of_request"),
        schedule.step_id == bindparam("of_step"),
        schedule.status == bindparam("with_status"),
        *conditions,
    )
    prepared: Prepared = prepare(
        select(schedule.performed_step).where(schedule.id == last.scalar_subquery()),
        ["of_request", "of_step", "with_status"],
    )
    return prepared
