"""What we asked others to keep, and what they said (PS3.4 Annex J, as SCU).

Instances are pairs of SOP Class UID and SOP Instance UID.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.backend import new_names, new_values
from dicomnode.index.catalog import Catalog
from dicomnode.index.records import commitment_request, committed_elsewhere

Instance = tuple[str, str]
FailedInstance = tuple[str, str, int]


class State(StrEnum):
    """Where a request stands.

    ``asking`` until the peer has answered the request, ``refused`` when it did not take it,
    ``waiting`` for its report. The report then says that all, some or none are committed.
    """

    ASKING = "asking"
    WAITING = "waiting"
    REFUSED = "refused"
    COMMITTED = "committed"
    PARTLY = "partly"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a report says of the instances that were asked for; ``digest`` tells reports apart."""

    committed: int
    failed: tuple[FailedInstance, ...]
    not_mentioned: tuple[Instance, ...]
    retrieve_ae_title: str
    digest: str

    @property
    def state(self) -> State:
        """The state that a request has with it."""
        if not self.failed and not self.not_mentioned:
            return State.COMMITTED
        return State.PARTLY if self.committed else State.FAILED


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """One request; ``why`` is a sentence about its state, times are in seconds since 1970 UTC."""

    transaction_uid: str
    peer_ae_title: str
    state: State
    why: str
    total: int
    committed: int
    failed: int
    not_mentioned: int
    retrieve_ae_title: str
    report: str
    asked_at: float
    changed_at: float


_TABLE: Final = commitment_request.c
_SHOWN: Final = tuple(CommitmentRequest.__slots__)
_ENTERED: Final = (
    "transaction_uid",
    "peer_ae_title",
    "state",
    "why",
    "asked",
    "total",
    "committed",
    "failed",
    "not_mentioned",
    "failed_list",
    "not_mentioned_list",
    "retrieve_ae_title",
    "report",
    "asked_at",
    "changed_at",
)
_EVIDENCE: Final = ("sop_instance_uid", "peer_ae_title", "committed_at")
# Instances in one transaction: whoever receives waits for no more.
_NOTED_AT_ONCE: Final = 500
_MOVED: Final = ("state", "why", "changed_at")
_CONCLUDED: Final = (
    "state",
    "why",
    "committed",
    "failed",
    "not_mentioned",
    "failed_list",
    "not_mentioned_list",
    "retrieve_ae_title",
    "report",
    "changed_at",
)


class CommitmentRequests:
    """The requests of one catalog; usable from any thread that may wait for the disk.

    Everything raises CatalogError where the index fails. Changes are durable on return.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        table = commitment_request
        of_uid = table.c.transaction_uid == bindparam("of_uid")
        prepare = catalog.prepare
        self._insert = prepare(insert(table).values(new_values(_ENTERED)), new_names(_ENTERED))
        self._move = prepare(
            update(table)
            .values(new_values(_MOVED))
            .where(of_uid, table.c.state == bindparam("old")),
            [*new_names(_MOVED), "of_uid", "old"],
        )
        self._conclude = prepare(
            update(table)
            .values(new_values(_CONCLUDED))
            .where(of_uid, table.c.report == bindparam("old")),
            [*new_names(_CONCLUDED), "of_uid", "old"],
        )
        evidence = committed_elsewhere
        self._add_evidence = prepare(
            insert(evidence).values(new_values(_EVIDENCE)), new_names(_EVIDENCE)
        )
        self._forget_evidence = prepare(
            delete(evidence).where(
                evidence.c.sop_instance_uid == bindparam("uid"),
                evidence.c.peer_ae_title == bindparam("title"),
            ),
            ["uid", "title"],
        )
        self._prune = prepare(
            delete(table).where(table.c.asked_at < bindparam("before")), ["before"]
        )

    # -- changing ----------------------------------------------------------------------------------

    def enter(
        self, transaction_uid: str, peer_ae_title: str, instances: Sequence[Instance]
    ) -> None:
        """Enter a request that is about to be made."""
        now, asked = time.time(), _text(instances)
        values = (transaction_uid, peer_ae_title, State.ASKING.value, "", asked, len(instances))
        rest = (0, 0, 0, "", "", "", "", now, now)
        self._catalog.transact(lambda cursor: self._insert.run(cursor, *values, *rest))

    def answered(self, transaction_uid: str, state: State, why: str = "") -> None:
        """Note how the peer answered the request, unless its report was quicker."""
        values = (state.value, why, time.time(), transaction_uid, State.ASKING.value)
        self._catalog.transact(lambda cursor: self._move.run(cursor, *values))

    def conclude(self, transaction_uid: str, outcome: Outcome) -> bool:
        """Keep the outcome of a request; False when there is no such request, or it has one."""
        self._keep_evidence(transaction_uid, outcome)
        values = (
            outcome.state.value,
            "",
            outcome.committed,
            len(outcome.failed),
            len(outcome.not_mentioned),
            _text(outcome.failed),
            _text(outcome.not_mentioned),
            outcome.retrieve_ae_title,
            outcome.digest,
            time.time(),
            transaction_uid,
            "",
        )

        def apply(cursor: DBAPICursor) -> bool:
            self._conclude.run(cursor, *values)
            return bool(cursor.rowcount)

        return self._catalog.transact(apply)

    def _keep_evidence(self, transaction_uid: str, outcome: Outcome) -> None:
        """Note of each instance who keeps it, as of when that was asked: it outlives the request.

        What has taken its place since is not what the peer was asked about.
        """
        request = self.get(transaction_uid)
        if request is None or not outcome.committed:
            return
        lacking = {one[1] for one in (*outcome.failed, *outcome.not_mentioned)}
        kept = [uid for _, uid in self.instances(transaction_uid) if uid not in lacking]
        peer, at = request.peer_ae_title, request.asked_at

        for start in range(0, len(kept), _NOTED_AT_ONCE):

            def apply(cursor: DBAPICursor, some: Sequence[str]) -> None:
                for uid in some:
                    self._forget_evidence.run(cursor, uid, peer)
                    self._add_evidence.run(cursor, uid, peer, at)

            self._catalog.transact(partial(apply, some=kept[start : start + _NOTED_AT_ONCE]))

    def prune(self, before: float) -> None:
        """Remove what was asked before a time, in seconds since 1970 UTC."""
        self._catalog.transact(lambda cursor: self._prune.run(cursor, before))

    # -- reading -----------------------------------------------------------------------------------

    def get(self, transaction_uid: str) -> CommitmentRequest | None:
        """Return a request without its instances."""
        statement = _shown().where(_TABLE.transaction_uid == transaction_uid)
        with self._catalog.read() as connection:
            row = connection.execute(statement).first()
        return None if row is None else _request(row)

    def in_state(self, state: State) -> list[CommitmentRequest]:
        """Return the requests in a state, oldest first."""
        statement = _shown().where(_TABLE.state == state.value).order_by(_TABLE.asked_at)
        with self._catalog.read() as connection:
            return [_request(row) for row in connection.execute(statement)]

    def instances(self, transaction_uid: str) -> list[Instance]:
        """Return the instances that a request is about."""
        return [(row[0], row[1]) for row in self._list(transaction_uid, "asked")]

    def failed(self, transaction_uid: str) -> list[FailedInstance]:
        """Return the instances that are not committed, with their Failure Reasons."""
        rows = self._list(transaction_uid, "failed_list")
        return [(row[0], row[1], int(row[2])) for row in rows]

    def not_mentioned(self, transaction_uid: str) -> list[Instance]:
        """Return the instances of which the report says nothing."""
        return [(row[0], row[1]) for row in self._list(transaction_uid, "not_mentioned_list")]

    def _list(self, transaction_uid: str, column: str) -> Iterator[list[str]]:
        statement = select(_TABLE[column]).where(_TABLE.transaction_uid == transaction_uid)
        with self._catalog.read() as connection:
            found = connection.scalar(statement)
        return (line.split(" ") for line in (found or "").splitlines())

    def counts(self) -> Mapping[State, int]:
        """Return how many requests there are in each state."""
        statement = select(_TABLE.state, func.count()).group_by(_TABLE.state)
        counts = dict.fromkeys(State, 0)
        with self._catalog.read() as connection:
            counts.update({State(row[0]): row[1] for row in connection.execute(statement)})
        return counts


def _shown() -> Any:
    return select(*(_TABLE[name] for name in _SHOWN))


def _request(row: Any) -> CommitmentRequest:
    transaction_uid, peer_ae_title, state, *rest = row
    return CommitmentRequest(transaction_uid, peer_ae_title, State(state), *rest)


def _text(rows: Sequence[Sequence[object]]) -> str:
    # Not JSON, which takes no breath in a list of 100,000: the interpreter would stand still.
    return "\n".join([" ".join(map(str, row)) for row in rows])
