"""The queue of what is to be forwarded: rows of the index's database, one per destination.

A row is made in the transaction that enters its object, and goes when the destination has the
object. Whoever takes rows leaves them where they are, so that a crash sends again and loses
nothing. Everything here blocks; what changes rows is committed by the index's one writer.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, func, select, union_all
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.catalog import Catalog, InstanceEntry, InstanceRow, ObjectAttachment
from dicomnode.index.custody import Custody
from dicomnode.index.records import (
    OutboxState,
    outbox_destination,
    outbox_message,
    outbox_object,
)
from dicomnode.index.schema import instance, series, study
from dicomnode.index.statements import ROW
from dicomnode.outbox.items import Down, Item, Settlement, Tally
from dicomnode.outbox.rules import Order, Priority
from dicomnode.outbox.statements import Drop, Statements, in_state, is_to_delete
from dicomnode.outbox.steps import N_CREATE, StepMessages, waits_for_another

# So many rows are changed in one transaction: whoever receives waits for no more.
CHUNK: Final = 1000
_SET_ASIDE: Final = "set aside in the outbox: see dicomnode outbox list --dead"
_TO_DELETE: Final = "about to be deleted here, as other destinations have it"
_o = outbox_object.c
_operation: Final = func.coalesce(outbox_message.c.operation, "")
_ROWS: Final = outbox_object.outerjoin(outbox_message)


class Queue:
    """All rows; ``now`` gives seconds since 1970 UTC, ``custody`` records what is forwarded."""

    def __init__(
        self,
        catalog: Catalog,
        now: Callable[[], float] = time.time,
        custody: Custody | None = None,
    ) -> None:
        self._catalog = catalog
        self._custody = custody
        self._now = now
        self._sql = Statements(catalog)
        with catalog.read() as connection:
            last = connection.scalar(select(func.max(_o.id))) or 0
        # Never given twice while this runs: a row that is settled late meets no other.
        self._ids = itertools.count(last + 1)
        # Pauses are no longer than this.
        self.longest_wait_seconds = math.inf
        self.messages = StepMessages(catalog, self.insert_message)

    # -- entering ----------------------------------------------------------------------------------

    def attachment(
        self,
        entry: InstanceEntry,
        orders: Sequence[Order],
        committed: Callable[[Sequence[Order]], None],
    ) -> ObjectAttachment:
        """Return the rows of an object, for the transaction that enters it."""
        return _Entry(self, entry, orders, committed)

    def insert(
        self, cursor: DBAPICursor, entry: InstanceEntry, orders: Sequence[Order]
    ) -> list[int]:
        """Insert the rows of an object, part of somebody's transaction; return their ids."""
        to_delete = any(order.rule.delete_when_committed for order in orders)
        made: list[int] = []
        for order in orders:
            rule = order.rule
            settled = rule.stable_seconds is None
            row_id = self._insert(
                cursor,
                *(order.destination, "", rule.name, rule.priority),
                OutboxState.READY if settled else OutboxState.UNSETTLED,
                entry.study_instance_uid,
                entry.sop_instance_uid,
                *(int(rule.commit), int(to_delete)),
            )
            made.append(row_id)
        return made

    def withdraw(self, cursor: DBAPICursor, ids: Iterable[int]) -> None:
        """Delete rows whose object was not stored after all; part of somebody's transaction."""
        for row_id in ids:
            self._sql.delete.run(cursor, row_id)

    def insert_message(
        self,
        cursor: DBAPICursor,
        destination: str,
        meant_for: str,
        rule: str,
        priority: Priority,
        sop_instance_uid: str,
    ) -> int:
        """Insert the row of a message of a performed step, part of a transaction; return its id."""
        row = destination, meant_for, rule, priority
        return self._insert(cursor, *row, OutboxState.READY, "", sop_instance_uid, 0, 0)

    def _insert(
        self,
        cursor: DBAPICursor,
        destination: str,
        meant_for: str,
        rule: str,
        priority: Priority,
        state: OutboxState,
        study_instance_uid: str,
        sop_instance_uid: str,
        to_commit: int,
        to_delete: int,
    ) -> int:
        row_id = next(self._ids)
        self._sql.insert.run(
            *(cursor, row_id, destination, meant_for, rule, priority, state, 0, 0.0, self._now()),
            *(study_instance_uid, sop_instance_uid, to_commit, "", to_delete, ""),
        )
        return row_id

    def enqueue(
        self, destination: str, rule: str, priority: Priority, objects: Mapping[str, str]
    ) -> dict[str, str]:
        """Queue objects that are held, given by SOP Instance UID with the UID of their study.

        What waits for the destination already is not queued again. Returns those that cannot be
        queued, and why. Raises CatalogError.
        """
        waiting, why_not = self._queued(destination, objects)
        rest = [pair for pair in objects.items() if pair[0] not in waiting | why_not.keys()]
        for start in range(0, len(rest), CHUNK):

            def apply(
                cursor: DBAPICursor, some: list[tuple[str, str]] = rest[start : start + CHUNK]
            ) -> None:
                for uid, study_uid in some:
                    order = destination, "", rule, priority, OutboxState.READY
                    self._insert(cursor, *order, study_uid, uid, 0, 0)

            self._catalog.transact(apply)
        return why_not

    def _queued(
        self, destination: str, objects: Mapping[str, str]
    ) -> tuple[set[str], dict[str, str]]:
        """Return which of ``objects`` wait for a destination, and which cannot be queued for it."""
        waiting: set[str] = set()
        why_not: dict[str, str] = {}
        uids = list(objects)
        with self._catalog.read() as connection:
            for some in (uids[start : start + CHUNK] for start in range(0, len(uids), CHUNK)):
                for state in OutboxState:
                    # One after the other, as each has an index of its own.
                    found = connection.scalars(
                        select(_o.sop_instance_uid).where(
                            in_state(state),
                            _o.destination == destination,
                            _o.sop_instance_uid.in_(some),
                        )
                    )
                    if state is OutboxState.DEAD:
                        why_not |= dict.fromkeys(found, _SET_ASIDE)
                    else:
                        waiting.update(found)
                going = select(_o.sop_instance_uid).where(is_to_delete())
                found = connection.scalars(going.where(_o.sop_instance_uid.in_(some)))
                why_not |= dict.fromkeys(set(found) - waiting, _TO_DELETE)
        return waiting, why_not

    # -- taking ------------------------------------------------------------------------------------

    def destinations(self) -> list[str]:
        """Return the destinations that something is to be sent to. Raises CatalogError."""
        with self._catalog.read() as connection:
            return list(connection.scalars(select(_o.destination).distinct()))

    def take(self, destination: str, limit: int) -> list[Item]:
        """Return what is to be sent next, of a performed step one message. Raises CatalogError."""
        now = self._now()
        due = self.next_due(destination)
        if due is not None and due <= now:
            latest = now + self.longest_wait_seconds
            self._catalog.transact(
                lambda cursor: self._sql.promote.run(cursor, destination, now, latest, CHUNK)
            )
        statement = (
            select(
                *(_o.id, _o.rule, _o.priority, _o.attempts, _o.queued_at),
                *(_o.sop_instance_uid, _o.to_commit, _o.meant_for, _operation),
            )
            .select_from(_ROWS)
            .where(_o.destination == destination, in_state(OutboxState.READY))
            .where(~waits_for_another())
            .order_by(_o.priority, _o.id)
            .limit(limit)
        )
        with self._catalog.read() as connection:
            found = connection.execute(statement).all()
            uids = {row[5] for row in found if not row[8]}
            held = connection.execute(ROW.where(instance.c.sop_instance_uid.in_(uids)))
            rows = {row[0]: InstanceRow(*row) for row in held}
        return [
            Item(*row[:6], bool(row[6]), meant_for=row[7], operation=row[8], row=rows.get(row[5]))
            for row in found
        ]

    def next_due(self, destination: str) -> float | None:
        """Return when the first paused object is due, None for none. Raises CatalogError.

        What would wait longer than anything should is due at once: the clock has gone back.
        """
        paused = _o.destination == destination, in_state(OutboxState.PAUSED)
        # Each is the end of an index; of both at once SQLite would read it whole.
        first_and_last = select(
            *(
                select(end(_o.not_before)).where(*paused).scalar_subquery()
                for end in (func.min, func.max)
            )
        )
        with self._catalog.read() as connection:
            row = connection.execute(first_and_last).one()
        first: float | None = row[0]
        now = self._now()
        if first is None or row[1] <= now + self.longest_wait_seconds:
            return first
        return min(first, now)

    def settle(self, settlement: Settlement) -> None:
        """Write down what became of objects. Raises CatalogError."""

        def apply(cursor: DBAPICursor) -> None:
            sql = self._sql
            for item in settlement.done:
                if item.to_commit:
                    sql.set_state.run(cursor, OutboxState.SENT, item.attempts, 0.0, "", item.id)
                else:
                    sql.delete.run(cursor, item.id)
            for failure in settlement.failed:
                dead = failure.not_before is None
                sql.set_state.run(
                    cursor,
                    OutboxState.DEAD if dead else OutboxState.PAUSED,
                    failure.item.attempts + 1,
                    failure.not_before or 0.0,
                    failure.words,
                    failure.item.id,
                )
            for item, until in settlement.deferred:
                sql.defer.run(cursor, OutboxState.PAUSED, until, item.id)
            if self._custody is not None and settlement.happenings:
                self._custody.enter(cursor, settlement.happenings)

        self._catalog.transact(apply)

    # -- studies that are to be complete -----------------------------------------------------------

    def release_studies(self, stable_seconds: dict[str, float]) -> tuple[set[str], float | None]:
        """Let the objects of complete studies go, by rule; those of rules that are gone at once.

        Returns the destinations that got objects, and when to look again (None: nothing waits).
        Raises CatalogError.
        """
        now = self._now()
        statement = (
            select(_o.rule, _o.study_instance_uid, func.max(_o.queued_at))
            .where(in_state(OutboxState.UNSETTLED))
            .group_by(_o.rule, _o.study_instance_uid)
        )
        with self._catalog.read() as connection:
            waiting = connection.execute(statement).all()
        released: set[str] = set()
        following: float | None = None
        for rule, uid, last in waiting:
            seconds = stable_seconds.get(rule, 0.0)
            due = last + seconds
            if due <= now:
                due = max(due, self._last_received(uid) + seconds)
            if due <= now:
                released |= self._release(rule, uid)
            else:
                following = due if following is None else min(due, following)
        return released, following

    def _last_received(self, study_instance_uid: str) -> float:
        """Return when the last object of a study arrived, those that no rule takes included."""
        statement = (
            select(func.max(instance.c.received_at))
            .select_from(instance.join(series).join(study))
            .where(study.c.study_instance_uid == study_instance_uid)
        )
        with self._catalog.read() as connection:
            return connection.scalar(statement) or 0.0

    def _release(self, rule: str, study_instance_uid: str) -> set[str]:
        statement = (
            select(_o.destination)
            .where(
                in_state(OutboxState.UNSETTLED),
                _o.rule == rule,
                _o.study_instance_uid == study_instance_uid,
            )
            .distinct()
        )
        with self._catalog.read() as connection:
            destinations = set(connection.scalars(statement))
        self._catalog.transact(
            lambda cursor: self._sql.release.run(cursor, rule, study_instance_uid)
        )
        return destinations

    # -- destinations that are down ----------------------------------------------------------------

    def downs(self) -> dict[str, Down]:
        """Return the destinations that could not be had the last time. Raises CatalogError."""
        with self._catalog.read() as connection:
            rows = connection.execute(select(outbox_destination))
            return {row[0]: Down(*row[1:]) for row in rows}

    def set_down(self, destination: str, down: Down | None) -> None:
        """Remember that a destination is down, or up again (None). Raises CatalogError."""

        def apply(cursor: DBAPICursor) -> None:
            self._sql.forget_down.run(cursor, destination)
            if down is not None:
                values = down.since, down.failures, down.not_before, down.words
                self._sql.insert_down.run(cursor, destination, *values)

        self._catalog.transact(apply)

    def redirect(self, destination: str, alternate: str, rules: Collection[str]) -> int:
        """Give what waits for a destination, by some rules, to another; return how much that is.

        Performed steps go as a whole: those whose N-CREATE it has already stay. Raises
        CatalogError.
        """
        waiting = (
            select(_o.id, _operation)
            .select_from(_ROWS)
            .where(_o.destination == destination, _o.rule.in_(rules), _o.meant_for == "")
            .where(_operation.in_(("", N_CREATE)))
        )

        def change(cursor: DBAPICursor, row_id: int, operation: str) -> None:
            self._sql.redirect.run(cursor, alternate, destination, row_id)
            if operation:
                self._sql.redirect_step.run(cursor, alternate, destination, row_id, destination)
                self._sql.follow_step.run(cursor, alternate, row_id, destination)

        return self._each(waiting, change)

    def give_up(self, destination: str, queued_before: float, words: str) -> int:
        """Set aside what has waited too long for a destination; return how much that is.

        Raises CatalogError.
        """
        waiting = select(_o.id).where(_o.destination == destination, _o.queued_at < queued_before)
        return self._each(waiting, lambda cursor, row_id: self._sql.bury.run(cursor, words, row_id))

    def _each(self, waiting: Any, change: Callable[..., None]) -> int:
        """Change each row of READY and PAUSED, some at a time; ``change`` takes it from there."""
        total = 0
        for state in (OutboxState.READY, OutboxState.PAUSED):
            while True:
                with self._catalog.read() as connection:
                    rows = connection.execute(waiting.where(in_state(state)).limit(CHUNK)).all()
                if not rows:
                    break

                def apply(cursor: DBAPICursor, rows: Sequence[Any] = rows) -> None:
                    for row in rows:
                        change(cursor, *row)

                self._catalog.transact(apply)
                total += len(rows)
        return total

    # -- looking and stepping in -------------------------------------------------------------------

    def tallies(self) -> list[Tally]:
        """Return how much is in the queue, by destination and state. Raises CatalogError."""
        # Each state from its own index; the oldest row is the one with the lowest id. One statement
        # for all: a row that goes from one state to another meanwhile would be missed.
        counted = union_all(*map(_counted, OutboxState)).subquery()
        statement = select(
            counted.c.destination, _o.state, counted.c.rows, _o.queued_at, _o.last_error
        ).join_from(counted, outbox_object, _o.id == counted.c.first)
        with self._catalog.read() as connection:
            rows = connection.execute(statement).all()
        return [Tally(row[0], OutboxState(row[1]), *row[2:]) for row in rows]

    def dead(self, destination: str | None, limit: int) -> list[dict[str, Any]]:
        """Return objects that have been set aside, oldest first. Raises CatalogError."""
        shown = ("id", "destination", "rule", "sop_instance_uid", "attempts", "queued_at")
        columns = [_o[name] for name in (*shown, "last_error")]
        statement = (
            select(*columns, func.coalesce(outbox_message.c.operation, "object").label("what"))
            .select_from(_ROWS)
            .where(in_state(OutboxState.DEAD))
            .order_by(_o.id)
            .limit(limit)
        )
        if destination is not None:
            statement = statement.where(_o.destination == destination)
        with self._catalog.read() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def revive(self, destination: str) -> int:
        """Have all that waits or was set aside for a destination sent now. Raises CatalogError."""
        now = self._now()
        paused = self._in_chunks(lambda cursor: self._sql.unpause.run(cursor, destination, CHUNK))
        return paused + self._in_chunks(
            lambda cursor: self._sql.revive.run(cursor, now, destination, CHUNK)
        )

    def drop(self, destination: str, *, dead_only: bool) -> int:
        """Remove what is to be sent to a destination; return how much. Raises CatalogError.

        An object that was to be deleted once all destinations have it now stays. With the N-CREATE
        of a performed step goes whatever follows it.
        """
        states = (OutboxState.DEAD,) if dead_only else tuple(OutboxState)
        total = 0
        for state in states:
            drop = self._sql.drop[state]

            def apply(cursor: DBAPICursor, drop: Drop = drop) -> None:
                drop.run(cursor, destination, CHUNK)

            total += self._in_chunks(apply)
        return total

    def _in_chunks(self, apply: Callable[[DBAPICursor], None]) -> int:
        """Run ``apply`` until it changes no row any more; return how many it changed."""

        def counted(cursor: DBAPICursor) -> int:
            apply(cursor)
            return cursor.rowcount

        total = 0
        while changed := self._catalog.transact(counted):
            total += changed
        return total


def _counted(state: OutboxState) -> Select[tuple[str, int, int]]:
    return (
        select(_o.destination, func.count().label("rows"), func.min(_o.id).label("first"))
        .where(in_state(state))
        .group_by(_o.destination)
    )


@dataclass(slots=True)
class _Entry:
    """The rows of one object, as an ``ObjectAttachment``."""

    queue: Queue
    entry: InstanceEntry
    orders: Sequence[Order]
    tell: Callable[[Sequence[Order]], None]
    made: Sequence[int] = ()

    def apply(self, cursor: DBAPICursor) -> None:
        self.made = self.queue.insert(cursor, self.entry, self.orders)

    def committed(self) -> None:
        self.tell(self.orders)

    def undo(self, cursor: DBAPICursor) -> None:
        self.queue.withdraw(cursor, self.made)
