"""The statements that change the outbox, each compiled once for its database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, literal_column, or_, select, update
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.sql import Select

from dicomnode.index.backend import Prepared
from dicomnode.index.catalog import Catalog
from dicomnode.index.records import (
    OutboxState,
    outbox_destination,
    outbox_message,
    outbox_object,
    outbox_step,
)
from dicomnode.outbox.steps import N_CREATE

_o, _m, _s = outbox_object.c, outbox_message.c, outbox_step.c


def in_state(state: OutboxState) -> ColumnElement[bool]:
    """Return the condition that a row is in ``state``, as the indexes of ``records`` have it.

    A number in the statement, as no index of some rows is used for a parameter.
    """
    return _o.state == _number(state)


def is_to_delete() -> ColumnElement[bool]:
    """Return the condition that a row's object goes with the last of them, as its index has it."""
    return _o.to_delete == _number(1)


def _number(value: int) -> ColumnElement[int]:
    return literal_column(str(int(value)))


_CREATION: ColumnElement[str] = literal_column(f"'{N_CREATE}'")
_OF_ROW = _o.id == bindparam("row_id")
_OF_DESTINATION = _o.destination == bindparam("title")


@dataclass(frozen=True, slots=True)
class Drop:
    """What drops the next rows of a destination that are in one state."""

    keep: Prepared
    unfollow: Prepared
    remove: Prepared

    def run(self, cursor: DBAPICursor, destination: str, most: int) -> None:
        """Drop ``most`` rows and what depends on them; the cursor then knows how many."""
        self.keep.run(cursor, destination, most)
        self.unfollow.run(cursor, destination, destination, most)
        self.remove.run(cursor, destination, *(destination, most) * 2)


class Statements:
    """What the queue runs in the writer's thread; each attribute is one statement."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        names = [column.name for column in outbox_object.columns]
        rows = outbox_object.insert().values({name: bindparam(name) for name in names})
        self.insert = catalog.prepare(rows, names)
        self.delete = catalog.prepare(delete(outbox_object).where(_OF_ROW), ["row_id"])
        self._prepare_rows()
        self._prepare_chunks()
        self._prepare_destinations()

    def _prepare_rows(self) -> None:
        state: Any = bindparam("new_state")
        attempts: Any = bindparam("new_attempts")
        until: Any = bindparam("until")
        words: Any = bindparam("words")
        self.set_state = self._row(
            {"state": state, "attempts": attempts, "not_before": until, "last_error": words},
            *("new_state", "new_attempts", "until", "words"),
        )
        self.defer = self._row({"state": state, "not_before": until}, "new_state", "until")
        self.bury = self._row({"state": _number(OutboxState.DEAD), "last_error": words}, "words")
        self.redirect = self._row(
            {"destination": bindparam("other"), "meant_for": bindparam("title")}, "other", "title"
        )

        # A step's messages and its followers, by the row of its N-CREATE.
        other: Any = bindparam("other")
        of_step = select(_m.sop_instance_uid).where(_m.id == bindparam("row_id"))
        messages = select(_m.id).where(_m.sop_instance_uid.in_(of_step))
        self.redirect_step = self._catalog.prepare(
            update(outbox_object)
            .values({"destination": other, "meant_for": bindparam("title")})
            .where(_o.id.in_(messages), _o.destination == bindparam("before")),
            ["other", "title", "row_id", "before"],
        )
        self.follow_step = self._catalog.prepare(
            update(outbox_step)
            .values({"destination": other})
            .where(_s.sop_instance_uid.in_(of_step), _s.destination == bindparam("title")),
            ["other", "row_id", "title"],
        )

    def _row(self, values: Mapping[str, Any], *names: str) -> Prepared:
        """Return an UPDATE of one row."""
        statement = update(outbox_object).values(values).where(_OF_ROW)
        return self._catalog.prepare(statement, [*names, "row_id"])

    def _prepare_chunks(self) -> None:
        ready = {"state": _number(OutboxState.READY)}
        due = (
            _chunk(OutboxState.PAUSED)
            .where(or_(_o.not_before <= bindparam("now"), _o.not_before > bindparam("latest")))
            .order_by(_o.not_before)
        )
        prepare = self._catalog.prepare
        self.promote = prepare(
            update(outbox_object).values(ready).where(_o.id.in_(due)),
            ["title", "now", "latest", "most"],
        )
        self.unpause = prepare(
            update(outbox_object).values(ready).where(_o.id.in_(_chunk(OutboxState.PAUSED))),
            ["title", "most"],
        )
        # As new: it waits no longer for the time at which it would have been given up.
        anew = ready | {"attempts": _number(0), "queued_at": bindparam("now")}
        self.revive = prepare(
            update(outbox_object).values(anew).where(_o.id.in_(_chunk(OutboxState.DEAD))),
            ["now", "title", "most"],
        )
        self.release = prepare(
            update(outbox_object)
            .values(ready)
            .where(in_state(OutboxState.UNSETTLED))
            .where(_o.rule == bindparam("name"))
            .where(_o.study_instance_uid == bindparam("uid")),
            ["name", "uid"],
        )
        self.drop = {state: self._drop(state) for state in OutboxState}

    def _drop(self, state: OutboxState) -> Drop:
        # All mean the same rows, as the last alone removes any.
        chosen = _chunk(state).order_by(_o.id)
        uids = select(_o.sop_instance_uid).where(_o.id.in_(chosen))
        keep = (
            update(outbox_object)
            .values(to_delete=_number(0))
            .where(_o.to_delete == _number(1))
            .where(_o.sop_instance_uid.in_(uids))
        )
        # What follows an N-CREATE that is dropped could only be refused.
        created = select(_m.sop_instance_uid).where(_m.id.in_(chosen), _m.operation == _CREATION)
        unfollow = delete(outbox_step).where(
            _s.destination == bindparam("of"), _s.sop_instance_uid.in_(created)
        )
        messages = select(_m.id).where(_m.sop_instance_uid.in_(created))
        remove = delete(outbox_object).where(
            _o.destination == bindparam("of"), or_(_o.id.in_(chosen), _o.id.in_(messages))
        )
        names, prepare = ["title", "most"], self._catalog.prepare
        return Drop(
            prepare(keep, names),
            prepare(unfollow, ["of", *names]),
            prepare(remove, ["of", *names, *names]),
        )

    def _prepare_destinations(self) -> None:
        names = [column.name for column in outbox_destination.columns]
        rows = outbox_destination.insert().values({name: bindparam(name) for name in names})
        self.insert_down = self._catalog.prepare(rows, names)
        self.forget_down = self._catalog.prepare(
            delete(outbox_destination).where(outbox_destination.c.title == bindparam("row_title")),
            ["row_title"],
        )


def _chunk(state: OutboxState) -> Select[tuple[int]]:
    """Return the ids of the next rows of a destination that are in ``state``."""
    found = select(_o.id).where(_OF_DESTINATION, in_state(state))
    # Without an offset, SQLite's dialect makes one of a parameter.
    return found.limit(bindparam("most")).offset(_number(0))
