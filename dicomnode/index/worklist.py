"""Worklist items in the index (PS3.4 Annex K), each with one scheduled procedure step.

Where items come from is not known here, nor how a query is read: a search is given what SQL can
narrow by, and whoever asks decides on the items that are left.
"""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Column, Select, bindparam, delete, func, insert, select, update
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.matching import Match
from dicomnode.index.reading import Stop, batches
from dicomnode.index.records import worklist_item, worklist_station
from dicomnode.storage.json_model import Attributes, items_of, text_of

# Of items put together: whoever stores objects meanwhile waits no longer than for these.
_PUT_TOGETHER: Final = 250
_READ_TOGETHER: Final = 250
_REMOVED_TOGETHER: Final = 500
_TRIED_TOGETHER: Final = 500


class State(StrEnum):
    """Where the scheduled procedure step of an item stands."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item for the index, with exactly one item in its Scheduled Procedure Step Sequence.

    ``origin`` is "file", "command" or "http", ``fingerprint`` tells versions of a file apart.
    ``called_ae_title`` is the title of ours under which alone it is seen; "" for every one.
    """

    key: str
    origin: str
    fingerprint: str
    called_ae_title: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Item(NewItem):
    """An item of the index; ``step_uid`` is of the MPPS instance that it follows, "" for none.

    ``entered_at`` and ``changed_at`` are in seconds since 1970 UTC.
    """

    state: State
    step_uid: str
    entered_at: float
    changed_at: float


@dataclass(frozen=True, slots=True)
class Step:
    """Which scheduled procedure step an item is for, and who sees it."""

    key: str
    called_ae_title: str
    study_instance_uid: str
    step_id: str


@dataclass(frozen=True, slots=True)
class Narrowed:
    """What SQL can say of a search; the rest is decided on the items that it finds.

    ``columns`` are names of columns of ``worklist_item`` and the values of which each must have
    one, ``sieves`` those whose values must be accepted by a match that SQL does not know.
    ``stations`` are AE titles of which one must be scheduled, ``dates`` the first and the last
    start date. ``called_ae_title`` None: whichever title an item is for.
    """

    called_ae_title: str | None
    states: tuple[State, ...]
    columns: Mapping[str, Sequence[str]]
    stations: tuple[str, ...] = ()
    dates: tuple[str, str] | None = None
    sieves: Mapping[str, Match] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What a search sees of an item."""

    row_id: int
    key: str
    called_ae_title: str
    state: State
    attributes: Attributes


# A state, and the MPPS instance that it comes from.
Standing = tuple[State, str]
# Finds that of a scheduled step, given Study Instance UID, Scheduled Procedure Step ID and
# Accession Number, within the cursor's transaction; None while it has not begun.
Begun = Callable[[DBAPICursor, str, str, str], Standing | None]

_ITEM: Final = worklist_item.c
_NEW: Final = tuple(NewItem.__slots__)
_COLUMNS: Final = (*_NEW, "state", "step_uid", "entered_at", "changed_at")
_FOUND_BY: Final = (
    "study_instance_uid",
    "step_id",
    "accession_number",
    "requested_procedure_id",
    "patient_id",
    "patient_name",
    "performing_physician_name",
    "modality",
    "start_date",
)
# In the order of the table, as statements have them.
_STORED: Final = (*_NEW, *_FOUND_BY, "state", "step_uid", "entered_at", "changed_at")
_REPLACED: Final = (*_NEW, *_FOUND_BY, "changed_at")
_CHANGED: Final = ("state", "step_uid", "changed_at")
_FOLLOWING: Final = ("id", "key", "study_instance_uid", "accession_number")
_STATION: Final = ("item", "station_ae_title", "start_date")

_T = TypeVar("_T")


class WorklistItems:
    """The worklist items of one catalog; usable from any thread that may wait for the disk.

    Everything raises CatalogError where the index fails.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._statements = _Statements(catalog)

    # -- changing ----------------------------------------------------------------------------------

    def put(self, items: Sequence[NewItem], begun: Begun | None = None) -> None:
        """Enter items, or put them in the place of those with their keys; returns when durable.

        An item has the state that ``begun`` finds. It keeps its own where that finds none, while
        Study Instance UID and Scheduled Procedure Step ID are the same.
        """
        for some in batches(items, _PUT_TOGETHER):
            rows = [(item, _found_by(item.attributes), _stations(item)) for item in some]
            self._catalog.transact(partial(self._put, rows, begun))

    def _put(
        self,
        rows: Sequence[tuple[NewItem, tuple[str, ...], tuple[str, ...]]],
        begun: Begun | None,
        cursor: DBAPICursor,
    ) -> None:
        now = time.time()
        for item, found_by, stations in rows:
            row_id = self._statements.put(cursor, item, found_by, stations, now)
            if begun is not None and (found := begun(cursor, *found_by[:3])):
                self._statements.change(cursor, row_id, found, now)

    def remove(self, keys: Sequence[str]) -> int:
        """Remove items; return how many there were, when that is durable."""
        remove = self._statements.remove
        return sum(
            self._catalog.transact(partial(remove, keys=some))
            for some in batches(keys, _REMOVED_TOGETHER)
        )

    def follow(
        self,
        cursor: DBAPICursor,
        study_instance_uid: str,
        step_id: str,
        accession_number: str,
        state_of: Callable[[str, str], Standing],
    ) -> list[str]:
        """Give the items of a scheduled step a new state, within the transaction of ``cursor``.

        They are found by Study Instance UID and Scheduled Procedure Step ID, else by Accession
        Number and Scheduled Procedure Step ID; ``state_of`` is given Study Instance UID and
        Accession Number of each. Returns their keys.
        """
        return self._statements.follow(
            cursor, (study_instance_uid, accession_number), step_id, state_of
        )

    # -- reading -----------------------------------------------------------------------------------

    def get(self, key: str) -> Item | None:
        """Return an item."""
        found = self._items(select(*_columns(_COLUMNS)).where(_ITEM.key == key))
        return found[0] if found else None

    def listed(self, *, limit: int, after: str = "") -> list[Item]:
        """Return items in the order of their keys, those after the key ``after``."""
        return self._items(
            select(*_columns(_COLUMNS)).where(_ITEM.key > after).order_by(_ITEM.key).limit(limit)
        )

    def _items(self, statement: Select[Any]) -> list[Item]:
        with self._catalog.read() as connection:
            rows = connection.execute(statement).all()
        return [_item(row) for row in rows]

    def sources(self, origin: str) -> dict[str, str]:
        """Return the fingerprint of each item of an origin by its key."""
        statement = select(_ITEM.key, _ITEM.fingerprint).where(_ITEM.origin == origin)
        with self._catalog.read() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def steps(self, study_instance_uids: Sequence[str]) -> list[Step]:
        """Return the scheduled steps of studies, those entered first before others."""
        statement = select(*_columns(Step.__slots__)).order_by(_ITEM.id)
        found: list[Step] = []
        for some in batches(study_instance_uids, _READ_TOGETHER):
            with self._catalog.read() as connection:
                rows = connection.execute(statement.where(_ITEM.study_instance_uid.in_(some)))
                found += [Step(*row) for row in rows]
        return found

    def counts(self) -> Mapping[State, int]:
        """Return how many items there are in each state."""
        statement = select(_ITEM.state, func.count()).group_by(_ITEM.state)
        counts = dict.fromkeys(State, 0)
        with self._catalog.read() as connection:
            counts.update({State(row[0]): row[1] for row in connection.execute(statement)})
        return counts

    # -- searching ---------------------------------------------------------------------------------

    def find(
        self,
        narrowed: Narrowed,
        limit: int | None = None,
        *,
        latest_first: bool = False,
        stop: Stop | None = None,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> array[int]:
        """Return the row ids of what a search may be for, the earliest first.

        Sieves are tried on some items at a time, each time in a ``turn``. Raises SearchStopped.
        """
        statement = candidates(narrowed, latest_first=latest_first)
        accepts = [match.accepts for match in narrowed.sieves.values()]
        found: array[int] = array("q")
        with self._catalog.read() as connection:
            rows = connection.execute(statement if accepts else statement.limit(limit))
            while (limit is None or len(found) < limit) and (
                some := rows.fetchmany(_TRIED_TOGETHER)
            ):
                if stop is not None:
                    stop.check()
                with turn():
                    found.extend(
                        row_id
                        for row_id, *values in some
                        if all(accept(each) for accept, each in zip(accepts, values, strict=True))
                    )
        return found[:limit]

    def fetch(self, ids: Sequence[int]) -> list[Scheduled]:
        """Return the items of row ids in that order; what is gone is left out."""
        statement = select(
            _ITEM.id, _ITEM.key, _ITEM.called_ae_title, _ITEM.state, _ITEM.attributes
        ).where(_ITEM.id.in_(list(ids)))
        with self._catalog.read() as connection:
            rows = {row[0]: row for row in connection.execute(statement)}
        return [
            Scheduled(row_id, key, title, State(state), json.loads(attributes))
            for row_id, key, title, state, attributes in (
                rows[each] for each in ids if each in rows
            )
        ]


def candidates(narrowed: Narrowed, *, latest_first: bool = False) -> Select[Any]:
    """Return the statement for the row ids of what may match, and what the sieves are for."""
    statement = select(_ITEM.id, *_columns(tuple(narrowed.sieves))).where(
        _ITEM.state.in_(narrowed.states),
        *(worklist_item.c[name].in_(values) for name, values in narrowed.columns.items()),
    )
    if narrowed.called_ae_title is not None:
        titles = "", narrowed.called_ae_title.upper()
        statement = statement.where(_ITEM.called_ae_title.in_(titles))
    if narrowed.dates is not None:
        statement = statement.where(_ITEM.start_date.between(*narrowed.dates))
    if narrowed.stations:
        station = worklist_station.c
        items = select(station.item).where(station.station_ae_title.in_(narrowed.stations))
        if narrowed.dates is not None:
            items = items.where(station.start_date.between(*narrowed.dates))
        statement = statement.where(_ITEM.id.in_(items))
    if latest_first:
        return statement.order_by(_ITEM.start_date.desc(), _ITEM.id.desc())
    return statement.order_by(_ITEM.start_date, _ITEM.id)


class _Statements:
    """What changes the tables, compiled once for the writer's cursor."""

    def __init__(self, catalog: Catalog) -> None:
        item, station = worklist_item, worklist_station
        prepare = catalog.prepare
        of_id = item.c.id == bindparam("of_id")
        self._held = prepare(
            select(*_columns(("id", "study_instance_uid", "step_id"))).where(
                item.c.key == bindparam("of_key")
            ),
            ["of_key"],
        )
        self._insert = prepare(insert(item).values(new_values(_STORED)), new_names(_STORED))
        self._replace = prepare(
            update(item).values(new_values(_REPLACED)).where(of_id),
            [*new_names(_REPLACED), "of_id"],
        )
        self._change = prepare(
            update(item).values(new_values(_CHANGED)).where(of_id), [*new_names(_CHANGED), "of_id"]
        )
        self._delete = prepare(delete(item).where(of_id), ["of_id"])
        self._insert_station = prepare(
            insert(station).values(new_values(_STATION)), new_names(_STATION)
        )
        self._delete_stations = prepare(
            delete(station).where(station.c.item == bindparam("of_id")), ["of_id"]
        )
        # Of a scheduled step, by what its requester knows it by.
        self._steps = tuple(
            prepare(
                select(*_columns(_FOLLOWING)).where(
                    column == bindparam("of_request"), item.c.step_id == bindparam("of_step")
                ),
                ["of_request", "of_step"],
            )
            for column in (item.c.study_instance_uid, item.c.accession_number)
        )

    def put(
        self,
        cursor: DBAPICursor,
        item: NewItem,
        found_by: tuple[str, ...],
        stations: tuple[str, ...],
        now: float,
    ) -> int:
        """Enter an item, or replace the one with its key; return its row id."""
        attributes = json.dumps(item.attributes, ensure_ascii=False, separators=(",", ":"))
        title = item.called_ae_title.strip(" ").upper()
        values = (item.key, item.origin, item.fingerprint, title, attributes, *found_by)
        row_id, *step = self._row(cursor, item.key) or (None,)
        if row_id is None:
            self._insert.run(cursor, *values, State.SCHEDULED, "", now, now)
            row_id = (self._row(cursor, item.key) or (None,))[0]
        else:
            self._replace.run(cursor, *values, now, row_id)
            if tuple(step) != found_by[:2]:
                self.change(cursor, row_id, (State.SCHEDULED, ""), now)
            self._delete_stations.run(cursor, row_id)
        for station in stations:
            self._insert_station.run(cursor, row_id, station, found_by[-1])
        assert isinstance(row_id, int)
        return row_id

    def change(self, cursor: DBAPICursor, row_id: int, standing: Standing, now: float) -> None:
        """Give an item a state."""
        self._change.run(cursor, *standing, now, row_id)

    def remove(self, cursor: DBAPICursor, keys: Sequence[str]) -> int:
        """Remove the items with ``keys``; return how many there were."""
        removed = 0
        for key in keys:
            if (row := self._row(cursor, key)) is not None:
                self._delete_stations.run(cursor, row[0])
                self._delete.run(cursor, row[0])
                removed += 1
        return removed

    def follow(
        self,
        cursor: DBAPICursor,
        requests: tuple[str, str],
        step_id: str,
        state_of: Callable[[str, str], Standing],
    ) -> list[str]:
        """Change the items of a step, found by the first of ``requests`` that has some."""
        if not step_id:
            return []
        for statement, request in zip(self._steps, requests, strict=True):
            if not request:
                continue
            statement.run(cursor, request, step_id)
            if rows := cursor.fetchall():
                now = time.time()
                for row_id, _, *known_by in rows:
                    self.change(cursor, row_id, state_of(*known_by), now)
                return [key for _, key, *_ in rows]
        return []

    def _row(self, cursor: DBAPICursor, key: str) -> Any:
        self._held.run(cursor, key)
        return cursor.fetchone()


def _columns(names: Sequence[str]) -> list[Column[Any]]:
    return [worklist_item.c[name] for name in names]


def _item(row: Any) -> Item:
    key, origin, fingerprint, title, attributes, state, step_uid, entered_at, changed_at = row
    return Item(
        key,
        origin,
        fingerprint,
        title,
        json.loads(attributes),
        State(state),
        step_uid,
        entered_at,
        changed_at,
    )


def _found_by(attributes: Attributes) -> tuple[str, ...]:
    """Return the values of ``_FOUND_BY``."""
    step = _step(attributes)
    return (
        text_of(attributes, "StudyInstanceUID"),
        text_of(step, "ScheduledProcedureStepID"),
        text_of(attributes, "AccessionNumber"),
        text_of(attributes, "RequestedProcedureID"),
        text_of(attributes, "PatientID"),
        text_of(attributes, "PatientName"),
        text_of(step, "ScheduledPerformingPhysicianName"),
        text_of(step, "Modality"),
        text_of(step, "ScheduledProcedureStepStartDate"),
    )


def _stations(item: NewItem) -> tuple[str, ...]:
    titles = text_of(_step(item.attributes), "ScheduledStationAETitle").split("\\")
    return tuple(dict.fromkeys(title.strip(" ") for title in titles if title))


def _step(attributes: Attributes) -> Attributes:
    return next(iter(items_of(attributes, "ScheduledProcedureStepSequence")), {})
