"""Storage commitments that were asked of this node, and how far each has come (PS3.4 Annex J).

A commitment is pending until its instances have been checked, checked until its report has been
delivered or given up. Lists of instances are held packed: there may be 100,000 in one request.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import Prepared, Value, new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.records import commitment

# SOP Class UID and SOP Instance UID.
Referenced = tuple[str, str]

_FAST: Final = 1
_C: Final = commitment.c


class State(StrEnum):
    """How far a commitment has come."""

    PENDING = "pending"
    CHECKED = "checked"
    DELIVERED = "delivered"
    GIVEN_UP = "given up"


UNFINISHED: Final = (State.PENDING, State.CHECKED)


@dataclass(frozen=True, slots=True)
class Standing:
    """A commitment without its instances; times are in seconds since 1970 UTC.

    ``requester`` is the AE title that asked, ``called_ae_title`` the title of ours that it asked.
    ``due_since`` is when it was checked, or taken up again; until then, when it was asked for.
    """

    id: int
    requester: str
    transaction_uid: str
    called_ae_title: str
    instances: int
    failures: int
    requested_at: float
    due_since: float
    attempts: int
    last_error: str


@dataclass(frozen=True, slots=True)
class Commitment:
    """A commitment; ``reasons`` has the Failure Reason of the references that failed, by place."""

    standing: Standing
    references: Sequence[Referenced]
    reasons: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Reports for one requester, and since when the first of them waits.

    ``next_attempt_at`` is when the next of them is due; those that were given up have none.
    """

    requester: str
    count: int
    since: float
    last_error: str
    next_attempt_at: float | None


_STANDING: Final = tuple(
    _C["changed_at" if name == "due_since" else name] for name in Standing.__slots__
)
# Requesters that are told apart: whoever may ask can give himself any number of titles.
_MOST_REQUESTERS: Final = 1000


class Commitments:
    """The commitments of one catalog; usable from any thread that may wait for the disk.

    Everything raises CatalogError where the index fails; what changes something returns when that
    is durable. ``open`` has to be called first.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._statements = _Statements(catalog)
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(State, 0)

    def open(self) -> None:
        """Count what there is."""
        statement = select(_C.state, func.count()).group_by(_C.state)
        with self._catalog.read() as connection:
            found = {State(row[0]): row[1] for row in connection.execute(statement)}
        with self._lock:
            self._counts.update(found)

    def counts(self) -> dict[State, int]:
        """Return how many commitments are in each state; takes no query."""
        with self._lock:
            return dict(self._counts)

    # -- changing ----------------------------------------------------------------------------------

    def add(
        self,
        requester: str,
        called_ae_title: str,
        transaction_uid: str,
        references: Sequence[Referenced],
    ) -> bool:
        """Enter a request; False where the requester has used its Transaction UID before."""
        packed, now = _pack(references), time.time()
        statements = self._statements

        def apply(cursor: DBAPICursor) -> bool:
            statements.find.run(cursor, requester, transaction_uid)
            if cursor.fetchone() is not None:
                return False
            statements.insert.run(
                *(cursor, requester, transaction_uid, called_ae_title, State.PENDING),
                *(len(references), 0, packed, b"", now, now, 0, now, ""),
            )
            return True

        added = self._catalog.transact(apply)
        if added:
            self._count(None, State.PENDING)
        return added

    def checked(self, id: int, reasons: Mapping[int, int]) -> None:
        """Keep the outcome of a check; its report is due at once."""
        packed, now = _pack_reasons(reasons), time.time()
        check = self._statements.check
        self._move(
            *(check, (State.CHECKED, len(reasons), packed, now, now), id),
            *(State.PENDING, State.CHECKED),
        )

    def deliver(self, id: int) -> None:
        """Note that a report has been taken; its instances are forgotten."""
        now, after = time.time(), State.DELIVERED
        self._move(self._statements.deliver, (after, b"", b"", now, ""), id, State.CHECKED, after)

    def give_up(self, id: int, words: str) -> None:
        """Set a report aside, until somebody has it sent again or dropped."""
        now, after = time.time(), State.GIVEN_UP
        self._move(self._statements.give_up, (after, now, words), id, State.CHECKED, after)

    def retry(self, requester: str) -> int:
        """Have every report for a requester attempted now; return how many that changes.

        What was given up is tried as long as if it were new.
        """
        statements, now = self._statements, time.time()

        def apply(cursor: DBAPICursor) -> tuple[int, int]:
            statements.hurry.run(cursor, now, requester, now)
            waiting = cursor.rowcount
            statements.revive.run(cursor, State.CHECKED, now, 0, now, requester)
            return waiting, cursor.rowcount

        waiting, revived = self._catalog.transact(apply)
        self._count(State.GIVEN_UP, State.CHECKED, revived)
        return waiting + revived

    def drop(self, requester: str, states: Sequence[State]) -> int:
        """Forget commitments of a requester that are in ``states``; return how many."""
        statements = self._statements

        def apply(cursor: DBAPICursor) -> dict[State, int]:
            dropped = {}
            for state in states:
                statements.drop.run(cursor, requester, state)
                dropped[state] = cursor.rowcount
            return dropped

        dropped = self._catalog.transact(apply)
        for state, number in dropped.items():
            self._count(state, None, number)
        return sum(dropped.values())

    def _move(
        self,
        statement: Prepared,
        values: tuple[Value, ...],
        id: int,
        before: State,
        after: State,
    ) -> None:
        """Change the state of a commitment, unless that has changed already."""

        def apply(cursor: DBAPICursor) -> int:
            statement.run(cursor, *values, id, before)
            return cursor.rowcount

        if self._catalog.transact(apply) > 0:
            self._count(before, after)

    def put_off(self, standings: Sequence[Standing], next_attempt_at: float, words: str) -> None:
        """Count an attempt to deliver that failed, and say when the next one is due."""
        put_off = self._statements.put_off

        def apply(cursor: DBAPICursor) -> None:
            for standing in standings:
                attempts = standing.attempts + 1
                put_off.run(cursor, attempts, next_attempt_at, words, standing.id)

        self._catalog.transact(apply)

    def make_due(self) -> None:
        """Have every report that waits attempted now: its destination may be another by now."""
        make_due = self._statements.make_due
        self._catalog.transact(lambda cursor: make_due.run(cursor, 0.0, State.CHECKED))

    def prune(self, before: float) -> None:
        """Forget the commitments that were finished before a time."""
        prune = self._statements.prune

        def apply(cursor: DBAPICursor) -> dict[State, int]:
            removed = {}
            for state in (State.DELIVERED, State.GIVEN_UP):
                prune.run(cursor, state, before)
                removed[state] = max(cursor.rowcount, 0)
            return removed

        for state, number in self._catalog.transact(apply).items():
            self._count(state, None, number)

    def _count(self, before: State | None, after: State | None, number: int = 1) -> None:
        with self._lock:
            if before is not None:
                self._counts[before] -= number
            if after is not None:
                self._counts[after] += number

    # -- reading -----------------------------------------------------------------------------------

    def next_pending(self, excluding: Collection[int], *, smallest: bool) -> Commitment | None:
        """Return the pending commitment that came first, or the one of the fewest instances."""
        # As the indexes have them; of what is pending, the next attempt is the time of the request.
        order = (_C.instances, _C.id) if smallest else (_C.next_attempt_at, _C.id)
        statement = (
            select(*_STANDING, _C.referenced)
            .where(_C.state == State.PENDING, _C.id.not_in(tuple(excluding)))
            .order_by(*order)
            .limit(1)
        )
        with self._catalog.read() as connection:
            row = connection.execute(statement).first()
        return Commitment(Standing(*row[:-1]), unpacked(row[-1]), {}) if row else None

    def get(self, id: int) -> Commitment | None:
        """Return a commitment with its instances; None once it is finished."""
        statement = select(*_STANDING, _C.referenced, _C.reasons).where(
            _C.id == id, _C.state.in_(UNFINISHED)
        )
        with self._catalog.read() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        return Commitment(Standing(*row[:-2]), unpacked(row[-2]), _unpack_reasons(row[-1]))

    def destinations(self, now: float, latest: float) -> tuple[list[str], float | None]:
        """Return the requesters whose reports are due, and when the next one after ``now`` is.

        What would be due only after ``latest`` is due at once: the clock has gone back.
        """
        is_due = _is_due(now, latest)
        checked = _C.state == State.CHECKED
        with self._catalog.read() as connection:
            requesters = connection.scalars(
                select(_C.requester).where(checked, is_due).group_by(_C.requester)
            ).all()
            following = connection.scalar(
                select(func.min(_C.next_attempt_at)).where(checked, ~is_due)
            )
        return list(requesters), following

    def due(self, requester: str, now: float, latest: float, limit: int) -> list[Standing]:
        """Return what is to be reported to a requester, the first first; as ``destinations``."""
        return self._standings(
            select(*_STANDING)
            .where(_C.requester == requester, _C.state == State.CHECKED, _is_due(now, latest))
            .order_by(_C.id)
            .limit(limit)
        )

    def given_up(self, limit: int, requester: str | None = None) -> list[Standing]:
        """Return the commitments whose reports were given up, the last first."""
        statement = select(*_STANDING).where(_C.state == State.GIVEN_UP)
        if requester is not None:
            statement = statement.where(_C.requester == requester)
        return self._standings(statement.order_by(_C.changed_at.desc()).limit(limit))

    def waiting(self, state: State) -> list[Waiting]:
        """Return by requester how many commitments are in a state: CHECKED or GIVEN_UP."""
        # All but one row of each requester from the index: rows hold long lists.
        grouped = (
            select(
                func.count().label("number"),
                func.min(_C.next_attempt_at).label("next"),
                func.min(_C.id).label("first"),
            )
            .where(_C.state == state)
            .group_by(_C.requester)
            .limit(_MOST_REQUESTERS)
            .subquery()
        )
        columns = _C.requester, grouped.c.number, _C.changed_at, _C.last_error, grouped.c.next
        statement = select(*columns).join_from(grouped, commitment, _C.id == grouped.c.first)
        with self._catalog.read() as connection:
            rows = connection.execute(statement).all()
        is_due = state is State.CHECKED
        return [Waiting(*row[:-1], row[-1] if is_due else None) for row in rows]

    def _standings(self, statement: Any) -> list[Standing]:
        with self._catalog.read() as connection:
            return [Standing(*row) for row in connection.execute(statement)]


def _is_due(now: float, latest: float) -> ColumnElement[bool]:
    return or_(_C.next_attempt_at <= now, _C.next_attempt_at > latest)


class _Statements:
    """What changes the table, compiled once for the writer's cursor."""

    def __init__(self, catalog: Catalog) -> None:
        prepare = catalog.prepare
        columns = [column.name for column in commitment.columns if column.name != "id"]
        of_id, of_state = _C.id == bindparam("of_id"), _C.state == bindparam("of_state")
        self.find = prepare(
            select(_C.id).where(
                _C.requester == bindparam("title"), _C.transaction_uid == bindparam("uid")
            ),
            ["title", "uid"],
        )
        self.insert = prepare(insert(commitment).values(new_values(columns)), new_names(columns))
        check = ["state", "failures", "reasons", "changed_at", "next_attempt_at"]
        self.check = prepare(
            update(commitment).values(new_values(check)).where(of_id, of_state),
            [*new_names(check), "of_id", "of_state"],
        )
        deliver = ["state", "referenced", "reasons", "changed_at", "last_error"]
        self.deliver = prepare(
            update(commitment).values(new_values(deliver)).where(of_id, of_state),
            [*new_names(deliver), "of_id", "of_state"],
        )
        give_up = ["state", "changed_at", "last_error"]
        self.give_up = prepare(
            update(commitment).values(new_values(give_up)).where(of_id, of_state),
            [*new_names(give_up), "of_id", "of_state"],
        )
        of_requester = _C.requester == bindparam("of_requester")
        checked, given_up = (
            _C.state == literal_column(f"'{state}'") for state in (State.CHECKED, State.GIVEN_UP)
        )
        self.hurry = prepare(
            update(commitment)
            .values(new_values(["next_attempt_at"]))
            .where(of_requester, checked, _C.next_attempt_at > bindparam("now")),
            ["new_next_attempt_at", "of_requester", "now"],
        )
        revive = ["state", "attempts", "changed_at", "next_attempt_at"]
        self.revive = prepare(
            update(commitment).values(new_values(revive)).where(of_requester, given_up),
            ["new_state", "new_changed_at", "new_attempts", "new_next_attempt_at", "of_requester"],
        )
        self.drop = prepare(
            delete(commitment).where(of_requester, of_state), ["of_requester", "of_state"]
        )
        put_off = ["attempts", "next_attempt_at", "last_error"]
        self.put_off = prepare(
            update(commitment).values(new_values(put_off)).where(of_id),
            [*new_names(put_off), "of_id"],
        )
        self.make_due = prepare(
            update(commitment).values(new_values(["next_attempt_at"])).where(of_state),
            [*new_names(["next_attempt_at"]), "of_state"],
        )
        self.prune = prepare(
            delete(commitment).where(of_state, _C.changed_at < bindparam("before")),
            ["of_state", "before"],
        )


def _pack(references: Sequence[Referenced]) -> bytes:
    lines = "\n".join(f"{sop_class} {sop_instance}" for sop_class, sop_instance in references)
    return zlib.compress(lines.encode(), _FAST)


def unpacked(packed: bytes) -> list[Referenced]:
    """Return the instances of the column ``referenced``."""
    pairs = (line.partition(" ") for line in zlib.decompress(packed).decode().splitlines())
    return [(sop_class, sop_instance) for sop_class, _, sop_instance in pairs]


def _pack_reasons(reasons: Mapping[int, int]) -> bytes:
    return zlib.compress(json.dumps(list(reasons.items())).encode(), _FAST)


def _unpack_reasons(packed: bytes) -> dict[int, int]:
    return dict(json.loads(zlib.decompress(packed))) if packed else {}
