"""The rows of what has been sent and is to be committed by its destination (PS3.4 Annex J)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import and_, bindparam, delete, exists, func, literal_column, select, update
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.catalog import Catalog
from dicomnode.index.records import OutboxState, outbox_object
from dicomnode.index.schema import instance
from dicomnode.outbox.queue import CHUNK
from dicomnode.outbox.statements import in_state

_T = TypeVar("_T")
_o = outbox_object.c
# As the index of ``records`` has it.
_TO_DELETE: Final = _o.to_delete == literal_column("1")


@dataclass(frozen=True, slots=True)
class Sent:
    """An object that a destination has; ``sop_class_uid`` is "" when the archive has it no more."""

    id: int
    sop_class_uid: str
    sop_instance_uid: str
    attempts: int
    to_delete: bool


@dataclass(frozen=True, slots=True)
class Lacking:
    """An object that is not kept: why, and when it is sent again (None: it is set aside)."""

    sent: Sent
    words: str
    not_before: float | None


class CommitmentRows:
    """Reads and changes them; everything blocks and raises CatalogError."""

    def __init__(self, catalog: Catalog, now: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._now = now
        of_row = _o.id == bindparam("row_id")
        self._delete = catalog.prepare(delete(outbox_object).where(of_row), ["row_id"])
        until: Any = bindparam("until")
        values: dict[str, Any] = {"not_before": until, "transaction_uid": bindparam("uid")}
        self._ask = catalog.prepare(
            update(outbox_object).values(values).where(of_row), ["until", "uid", "row_id"]
        )
        values = {
            "state": bindparam("new_state"),
            "attempts": bindparam("count"),
            "not_before": until,
            "transaction_uid": literal_column("''"),
            "last_error": bindparam("words"),
        }
        self._move = catalog.prepare(
            update(outbox_object).values(values).where(of_row),
            ["new_state", "count", "until", "words", "row_id"],
        )
        of_object = and_(_o.sop_instance_uid == bindparam("uid"), _TO_DELETE)
        committed = in_state(OutboxState.COMMITTED)
        self._queued = catalog.prepare(select(func.max(_o.queued_at)).where(of_object), ["uid"])
        self._others = catalog.prepare(select(_o.id).where(of_object, ~committed), ["uid"])
        self._forget = catalog.prepare(delete(outbox_object).where(of_object, committed), ["uid"])
        self._forget_kept = catalog.prepare(delete(outbox_object).where(committed, ~_TO_DELETE), [])

    # -- asking ----------------------------------------------------------------------------------

    def unasked(self, limit: int) -> dict[str, list[Sent]]:
        """Return what each destination may be asked to commit to now."""
        due = _o.transaction_uid == "", _o.not_before <= self._now()
        return {title: self._sent(title, *due, limit=limit) for title in self._destinations(*due)}

    def transactions(self) -> list[tuple[str, str]]:
        """Return destination and Transaction UID of what has been asked."""
        statement = (
            select(_o.destination, _o.transaction_uid)
            .where(in_state(OutboxState.SENT), _o.transaction_uid != "")
            .distinct()
        )
        with self._catalog.read() as connection:
            return [(row[0], row[1]) for row in connection.execute(statement)]

    def of_transaction(self, destination: str, transaction_uid: str) -> list[Sent]:
        """Return what a transaction is about."""
        return self._sent(destination, _o.transaction_uid == transaction_uid)

    def is_any(self) -> bool:
        """Tell whether anything is to be committed, or deleted when others have committed to it."""
        for state in (OutboxState.SENT, OutboxState.COMMITTED):
            with self._catalog.read() as connection:
                if connection.scalar(select(_o.id).where(in_state(state)).limit(1)) is not None:
                    return True
        return False

    def _destinations(self, *conditions: Any) -> list[str]:
        statement = select(_o.destination).where(in_state(OutboxState.SENT), *conditions)
        with self._catalog.read() as connection:
            return list(connection.scalars(statement.distinct()))

    def _sent(self, destination: str, *conditions: Any, limit: int | None = None) -> list[Sent]:
        columns = _o.id, instance.c.sop_class_uid, _o.sop_instance_uid, _o.attempts, _o.to_delete
        held = outbox_object.outerjoin(instance, instance.c.sop_instance_uid == _o.sop_instance_uid)
        statement = (
            select(*columns)
            .select_from(held)
            .where(in_state(OutboxState.SENT), _o.destination == destination, *conditions)
            .order_by(_o.id)
            .limit(limit)
        )
        with self._catalog.read() as connection:
            rows = connection.execute(statement)
            return [Sent(row[0], row[1] or "", row[2], row[3], bool(row[4])) for row in rows]

    # -- what has been answered ------------------------------------------------------------------

    def asked(self, objects: Sequence[Sent], transaction_uid: str, until: float = 0.0) -> None:
        """Note that a commitment was asked for; or, with "", that it is to be asked for later."""
        self._each(
            objects, lambda cursor, one: self._ask.run(cursor, until, transaction_uid, one.id)
        )

    def committed(self, objects: Sequence[Sent]) -> None:
        """The destination keeps these; what is not to be deleted here is done with."""

        def change(cursor: DBAPICursor, one: Sent) -> None:
            if one.to_delete:
                self._move.run(cursor, OutboxState.COMMITTED, one.attempts, 0.0, "", one.id)
            else:
                self._delete.run(cursor, one.id)

        self._each(objects, change)

    def not_committed(self, objects: Sequence[Lacking]) -> None:
        """The destination does not keep these: they are sent again."""

        def change(cursor: DBAPICursor, lacking: Lacking) -> None:
            one, until = lacking.sent, lacking.not_before
            state = OutboxState.DEAD if until is None else OutboxState.PAUSED
            count = one.attempts + 1
            self._move.run(cursor, state, count, until or 0.0, lacking.words, one.id)

        self._each(objects, change)

    def _each(self, objects: Sequence[_T], change: Callable[[DBAPICursor, _T], None]) -> None:
        for start in range(0, len(objects), CHUNK):
            chunk = objects[start : start + CHUNK]

            def apply(cursor: DBAPICursor, chunk: Sequence[_T] = chunk) -> None:
                for one in chunk:
                    change(cursor, one)

            self._catalog.transact(apply)

    # -- what may be deleted here ----------------------------------------------------------------

    def deletable(self) -> list[str]:
        """Return SOP Instance UIDs that all destinations are through with, the next of them."""
        other = outbox_object.alias()
        waits = exists().where(
            other.c.sop_instance_uid == _o.sop_instance_uid,
            other.c.to_delete == literal_column("1"),
            other.c.state != literal_column(str(OutboxState.COMMITTED.value)),
        )
        statement = (
            select(_o.sop_instance_uid)
            .where(in_state(OutboxState.COMMITTED), _TO_DELETE, ~waits)
            .distinct()
            .limit(CHUNK)
        )
        with self._catalog.read() as connection:
            return list(connection.scalars(statement))

    def forget(self, cursor: DBAPICursor, sop_instance_uid: str, received_at: float | None) -> bool:
        """Remove the rows of an object that is deleted with them; False: it may not be.

        It may not while one of them waits, nor where what is held was received after the last of
        them was made: that is under no rule. Part of somebody's transaction.
        """
        self._others.run(cursor, sop_instance_uid)
        if cursor.fetchall():
            return False
        self._queued.run(cursor, sop_instance_uid)
        queued_at = cursor.fetchall()[0][0]
        self._forget.run(cursor, sop_instance_uid)
        return queued_at is not None and (received_at is None or received_at <= queued_at)

    def forget_kept(self) -> None:
        """Remove the rows of objects that are to stay after all."""
        self._catalog.transact(lambda cursor: self._forget_kept.run(cursor))
