"""What stands against deleting an object: that it is still to be sent, or answered for.

Three things do. It waits in the outbox, is set aside there, or has been sent and is not committed
yet. Somebody has asked this node to commit to it and has no answer. This node has asked somebody
else to, and waits for the report. The tables are large and have no index for this, so they are
looked through outside the writer; its transaction looks at what has come since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, bindparam, func, literal_column, or_, select
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.catalog import Catalog
from dicomnode.index.commitment_requests import State as AskedState
from dicomnode.index.commitments import State as PromiseState
from dicomnode.index.commitments import unpacked
from dicomnode.index.records import (
    OutboxState,
    commitment,
    commitment_request,
    outbox_object,
)

# A report that has not come by then is not waited for: forwarding asks again.
_REPORT_SECONDS: Final = 24 * 3600.0
_UIDS_AT_ONCE: Final = 500

_o, _p, _a = outbox_object.c, commitment.c, commitment_request.c
# Messages of performed steps have no study; what is committed keeps nothing back.
_OF_OBJECTS: Final = (
    _o.study_instance_uid != literal_column("''"),
    _o.state != literal_column(str(int(OutboxState.COMMITTED))),
)
_WORDS: Final = {
    OutboxState.READY: "is still to be sent to {}",
    OutboxState.PAUSED: "is still to be sent to {}",
    OutboxState.UNSETTLED: "is to be sent to {} when its study is complete",
    OutboxState.SENT: "was sent to {}, which has not committed to keep it yet",
    OutboxState.DEAD: "is set aside in the outbox for {} (dicomnode outbox retry or drop)",
}
_ASKED_OF_US: Final = "{} asked this node to commit to it and has no report yet"
_ASKED_BY_US: Final = "{} was asked to commit to it and has not reported yet"


def _among(column: ColumnElement[str], states: Iterable[str]) -> ColumnElement[bool]:
    # Written out, as no parameter is needed and the index by state serves.
    return or_(*(column == literal_column(f"'{state}'") for state in states))


_UNANSWERED: Final = _among(
    _p.state, (PromiseState.PENDING, PromiseState.CHECKED, PromiseState.GIVEN_UP)
)
_UNREPORTED: Final = _among(_a.state, (AskedState.ASKING, AskedState.WAITING))


@dataclass(frozen=True, slots=True)
class Look:
    """What was found: of each UID that is held back, why; and how far was looked."""

    held: Mapping[str, str]
    last_row: int
    promises: Collection[tuple[int, float]]
    requests: Collection[str]


class Pending:
    """Looks; everything blocks, and raises CatalogError."""

    def __init__(self, catalog: Catalog, now: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._now = now
        self._new_rows = catalog.prepare(
            select(_o.sop_instance_uid).where(_o.id > bindparam("last"), *_OF_OBJECTS), ["last"]
        )
        self._promises = catalog.prepare(select(_p.id, _p.requested_at).where(_UNANSWERED), [])
        self._promise = catalog.prepare(
            select(_p.referenced).where(_p.id == bindparam("of_id")), ["of_id"]
        )
        self._requests = catalog.prepare(select(_a.transaction_uid).where(_UNREPORTED), [])
        self._request = catalog.prepare(
            select(_a.asked).where(_a.transaction_uid == bindparam("uid")), ["uid"]
        )

    def look(self, sop_instance_uids: Sequence[str]) -> Look:
        """Look through everything for objects."""
        held: dict[str, str] = {}
        promises: set[tuple[int, float]] = set()
        requests: set[str] = set()
        wanted = set(sop_instance_uids)

        def found(uids: Iterable[str], words: str, title: str) -> None:
            for uid in wanted.intersection(uids):
                held.setdefault(uid, words.format(title))

        with self._catalog.read() as connection:
            last_row = connection.scalar(select(func.max(_o.id))) or 0
            for start in range(0, len(sop_instance_uids) if last_row else 0, _UIDS_AT_ONCE):
                some = sop_instance_uids[start : start + _UIDS_AT_ONCE]
                statement = select(_o.sop_instance_uid, _o.destination, _o.state).where(
                    *_OF_OBJECTS, _o.sop_instance_uid.in_(some)
                )
                for uid, title, state in connection.execute(statement):
                    found((uid,), _WORDS[OutboxState(state)], title)
            asked = select(_p.id, _p.requested_at, _p.requester, _p.referenced).where(_UNANSWERED)
            for row in connection.execute(asked):
                promises.add((row[0], row[1]))
                found((uid for _, uid in unpacked(row[3])), _ASKED_OF_US, row[2])
            waiting = select(_a.transaction_uid, _a.peer_ae_title, _a.asked_at, _a.asked)
            for row in connection.execute(waiting.where(_UNREPORTED)):
                requests.add(row[0])
                if row[2] > self._now() - _REPORT_SECONDS:
                    found(_listed(row[3]), _ASKED_BY_US, row[1])
        return Look(held, last_row, promises, requests)

    def since(self, cursor: DBAPICursor, look: Look) -> set[str]:
        """Return what is held back by what has come since a look; part of a transaction."""
        self._new_rows.run(cursor, look.last_row)
        found = {row[0] for row in cursor.fetchall()}
        self._promises.run(cursor)
        for row in cursor.fetchall():
            if (row[0], row[1]) not in look.promises:
                self._promise.run(cursor, row[0])
                found.update(uid for each in cursor.fetchall() for _, uid in unpacked(each[0]))
        self._requests.run(cursor)
        for row in cursor.fetchall():
            if row[0] not in look.requests:
                self._request.run(cursor, row[0])
                found.update(uid for each in cursor.fetchall() for uid in _listed(each[0]))
        return found


def _listed(asked: str) -> Iterable[str]:
    return (line.partition(" ")[2] for line in asked.splitlines())
