"""Messages of performed procedure steps in the outbox: who is told, and in which order.

Whoever is to get the N-CREATE of a step is told of all that follows, whatever becomes of the rules
meanwhile. Of one step, each destination gets one message at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import ColumnElement, bindparam, delete, exists, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.records import outbox_message, outbox_object, outbox_step
from dicomnode.outbox.rules import Order, Priority
from dicomnode.storage.json_model import Attributes

N_CREATE: Final = "N-CREATE"
N_SET: Final = "N-SET"

_o, _m, _s = outbox_object.c, outbox_message.c, outbox_step.c

# Inserts a row of the outbox in somebody's transaction: destination, the one that is meant, rule,
# priority, SOP Instance UID; returns its id.
Insert = Callable[[DBAPICursor, str, str, str, Priority, str], int]


@dataclass(frozen=True, slots=True)
class Message:
    """An N-CREATE or N-SET of a performed procedure step."""

    operation: str
    sop_instance_uid: str
    attributes: Attributes


def waits_for_another() -> ColumnElement[bool]:
    """Return the condition that a message has one of its step before it, for its destination.

    For a statement on outbox_object that joins outbox_message.
    """
    earlier, row = outbox_message.alias(), outbox_object.alias()
    return exists().where(
        earlier.c.sop_instance_uid == _m.sop_instance_uid,
        earlier.c.id < _m.id,
        row.c.id == earlier.c.id,
        row.c.destination == _o.destination,
    )


class StepMessages:
    """The tables of messages; everything that reads blocks and raises CatalogError."""

    def __init__(self, catalog: Catalog, insert: Insert) -> None:
        self._catalog = catalog
        self._insert_row = insert
        columns = [column.name for column in outbox_message.columns]
        self._insert = catalog.prepare(
            outbox_message.insert().values(new_values(columns)), new_names(columns)
        )
        columns = [column.name for column in outbox_step.columns]
        self._follow = catalog.prepare(
            outbox_step.insert().values(new_values(columns)), new_names(columns)
        )
        of_step = _s.sop_instance_uid == bindparam("uid")
        self._followers = catalog.prepare(
            select(_s.destination, _s.meant_for, _s.rule, _s.priority).where(of_step), ["uid"]
        )
        self._forget = catalog.prepare(delete(outbox_step).where(of_step), ["uid"])

    def created(
        self,
        sop_instance_uid: str,
        attributes: Attributes,
        orders: Sequence[Order],
        tell: Callable[[Iterable[str]], None],
    ) -> StepEntry:
        """Return the rows of a step's N-CREATE, for the transaction that enters the step."""
        text = _encoded(attributes)

        def apply(cursor: DBAPICursor) -> list[str]:
            for order in orders:
                follower = order.destination, order.rule.name, order.rule.priority
                self._follow.run(cursor, sop_instance_uid, order.destination, *follower)
                self._enter(
                    cursor, N_CREATE, sop_instance_uid, text, (order.destination, "", *follower[1:])
                )
            return [order.destination for order in orders]

        return StepEntry(apply, tell)

    def changed(
        self,
        sop_instance_uid: str,
        changes: Attributes,
        tell: Callable[[Iterable[str]], None],
        *,
        is_over: bool,
    ) -> StepEntry:
        """Return the rows of an N-SET; ``is_over`` tells that no other can follow."""
        text = _encoded(changes)

        def apply(cursor: DBAPICursor) -> list[str]:
            self._followers.run(cursor, sop_instance_uid)
            followers = cursor.fetchall()
            for destination, meant_for, rule, priority in followers:
                instead_of = meant_for if meant_for != destination else ""
                row = destination, instead_of, rule, Priority(priority)
                self._enter(cursor, N_SET, sop_instance_uid, text, row)
            if is_over and followers:
                self._forget.run(cursor, sop_instance_uid)
            return [row[0] for row in followers]

        return StepEntry(apply, tell)

    def _enter(
        self,
        cursor: DBAPICursor,
        operation: str,
        sop_instance_uid: str,
        text: str,
        row: tuple[str, str, str, Priority],
    ) -> None:
        row_id = self._insert_row(cursor, *row, sop_instance_uid)
        self._insert.run(cursor, row_id, sop_instance_uid, operation, text)

    def is_followed(self, sop_instance_uid: str) -> bool:
        """Tell whether anybody is told of a step."""
        statement = select(_s.destination).where(_s.sop_instance_uid == sop_instance_uid).limit(1)
        with self._catalog.read() as connection:
            return connection.execute(statement).first() is not None

    def get(self, row_id: int) -> Message | None:
        """Return a message, None when it has been dropped."""
        statement = select(_m.operation, _m.sop_instance_uid, _m.attributes)
        with self._catalog.read() as connection:
            row = connection.execute(statement.where(_m.id == row_id)).first()
        return Message(row[0], row[1], json.loads(row[2])) if row is not None else None


@dataclass(slots=True)
class StepEntry:
    """The rows of one message, as an ``Attachment``."""

    insert: Callable[[DBAPICursor], list[str]]
    tell: Callable[[Iterable[str]], None]
    destinations: list[str] = field(default_factory=list)

    def apply(self, cursor: DBAPICursor) -> None:
        self.destinations = self.insert(cursor)

    def committed(self) -> None:
        if self.destinations:
            self.tell(self.destinations)


def _encoded(attributes: Attributes) -> str:
    return json.dumps(attributes, ensure_ascii=False, separators=(",", ":"))
