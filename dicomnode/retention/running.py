"""Applies the rules: now and then, at a bounded pace, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.catalog import Catalog
from dicomnode.index.entry import InstanceRow
from dicomnode.retention.clock import ADVICE, distrust
from dicomnode.retention.planning import Due, Planner
from dicomnode.retention.rules import DAY_SECONDS, Rules
from dicomnode.retention.state import State, States
from dicomnode.services.deletion_journal import order_of_rule
from dicomnode.services.removing import BATCH, Cause, Remover, Why

# The node has other things to do at its start.
_FIRST_SECONDS: Final = 60.0
# A clock that is set is noticed by then.
_LONGEST_SLEEP_SECONDS: Final = 60.0
_MOST_LISTED: Final = 1000


class Observer(Protocol):
    """Is told how it goes; ``deletion_journal.DeletionJournal``."""

    def ran(self, rule: str, objects: int, size_bytes: int, held: Mapping[str, str]) -> None:
        """A rule has been applied; ``held`` says of UIDs that were due why they stay."""

    def broken_off(self, rule: str, result: str) -> None:
        """A run came to no end."""

    def clock_jumped(self, words: str, advice: str) -> None:
        """Nothing is done, as the clock cannot be trusted."""

    def clock_trusted(self) -> None:
        """The clock is trusted."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""


@dataclass(slots=True)
class _Account:
    """What a rule has done in a run."""

    deleted: int = 0
    deleted_bytes: int = 0
    held: dict[str, str] = field(default_factory=dict)


class Retention:
    """Runs the rules; ``now`` gives seconds since 1970 UTC."""

    def __init__(
        self,
        catalog: Catalog,
        remover: Remover,
        rules: Rules,
        journal: Observer,
        free_bytes: Callable[[], int],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._planner = Planner(catalog, free_bytes)
        self._states = States(catalog)
        self._remover = remover
        self._rules = rules
        self._journal = journal
        self._now = now
        self._turn = threading.Lock()
        self._is_running = False
        self._runs = 0
        self._wanted = False
        self._next_at = 0.0
        self._distrust = ""
        self._stopping = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="retention", daemon=True)

    def start(self) -> None:
        """Begin to apply the rules."""
        self._next_at = time.monotonic() + _FIRST_SECONDS
        self._thread.start()

    def stop(self) -> None:
        """End after the batch that is under way. Blocks."""
        self._stopping.set()
        self._news.set()
        self._thread.join()

    def follow(self, rules: Rules) -> None:
        """Go by other rules from the next run on; one that is under way is broken off."""
        self._rules = rules

    def run_now(self) -> None:
        """Have the rules applied as soon as possible."""
        self._wanted = True
        self._news.set()

    def trust_clock(self) -> None:
        """The clock is right, whatever it was before. Blocks; raises CatalogError."""
        self._states.trust(self._now())
        self._distrust = ""
        self._journal.clock_trusted()

    # -- what is told ------------------------------------------------------------------------------

    def plan(self, within_days: float) -> dict[str, Any]:
        """Return what is due now and soon, and why, as JSON values. Blocks; raises CatalogError."""
        rules, now = self._rules, self._now()
        clock = self._doubt(rules, now)
        totals = {"objects": 0, "bytes": 0, "studies": 0}
        listed: list[dict[str, Any]] = []
        number = 0
        for due in self._planner.due(rules, now, within_seconds=within_days * DAY_SECONDS):
            number += 1
            goes = due.due_at <= now and not due.held and not clock
            if goes:
                totals["objects"] += len(due.rows)
                totals["bytes"] += due.size_bytes
                totals["studies"] += 1
            if len(listed) < _MOST_LISTED:
                listed.append(_shown(due, goes=goes))
        return {
            "now": now,
            "clock": clock,
            "free_bytes": self._planner.free_bytes(),
            "going": totals,
            "listed": listed,
            "unlisted": number - len(listed),
        }

    def figures(self) -> dict[str, Any]:
        """Return how it stands with each rule; ``runs`` counts since the start.

        Blocks; raises CatalogError.
        """
        states = self._states.load()
        rules = [states.get(rule.name, State(rule.name)) for rule in self._rules.all]
        return {
            "running": self._is_running,
            "runs": self._runs,
            "clock": self._distrust,
            "rules": [
                {
                    "name": state.name,
                    "last_run": state.ran_at or None,
                    "deleted": state.deleted,
                    "deleted_bytes": state.deleted_bytes,
                    "held_back": state.kept,
                    "last_error": state.last_error,
                }
                for state in rules
            ],
        }

    # -- running -----------------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._stopping.is_set():
            self._news.clear()
            if self._wanted or time.monotonic() >= self._next_at:
                self._wanted = False
                self._next_at = time.monotonic() + self._rules.every_seconds
                try:
                    self.run()
                except Exception as error:  # the thread must outlive it
                    self._journal.internal_error("retention", error)
                self._runs += 1
            left = self._next_at - time.monotonic()
            if not self._stopping.is_set() and not self._wanted:
                self._news.wait(min(max(left, 0.0), _LONGEST_SLEEP_SECONDS))

    def run(self) -> None:
        """Apply the rules once. Blocks; raises CatalogError, OutOfResources."""
        with self._turn:
            rules = self._rules
            if not self._believes(rules) or not rules.all:
                return
            self._is_running = True
            try:
                self._apply(rules)
            finally:
                self._is_running = False

    def _believes(self, rules: Rules) -> bool:
        """Tell whether the clock may be believed; if not, that is told at each run.

        Without rules too: those that are made later find it known.
        """
        now = self._now()
        self._distrust = self._doubt(rules, now)
        if not self._distrust:
            self._states.trust(now)
            self._journal.clock_trusted()
        elif rules.all:
            self._journal.clock_jumped(self._distrust, ADVICE)
        return not self._distrust

    def _doubt(self, rules: Rules, now: float) -> str:
        newest = self._planner.aging.newest
        return distrust(self._states, now, newest, rules.max_jump_seconds)

    def _apply(self, rules: Rules) -> None:
        accounts = {rule.name: _Account() for rule in rules.all}
        began, complete = self._now(), False
        try:
            for due in self._planner.due(rules, began):
                account = accounts[due.rule.name]
                if due.held:
                    account.held.update(due.held)
                elif not self._delete(rules, due, account):
                    return
            complete = True
        finally:
            for name, account in accounts.items():
                self._conclude(name, account, began, complete=complete)

    def _delete(self, rules: Rules, due: Due, account: _Account) -> bool:
        """Delete objects of a study; False when the run is to end here."""
        for start in range(0, len(due.rows), BATCH):
            if self._stopping.is_set() or self._rules is not rules:
                return False
            # A clock that jumps now finds no more than what was old when the run began.
            some = due.rows[start : start + BATCH]
            gone = self._remove(due, some, account)
            account.deleted += len(gone)
            account.deleted_bytes += sum(row.size_bytes for row in gone)
            self._stopping.wait(len(some) / rules.objects_per_second)
            if len(gone) < len(some):
                # Something has come for this study: the next run looks again.
                return True
        return True

    def _remove(
        self, due: Due, some: Sequence[InstanceRow], account: _Account
    ) -> list[InstanceRow]:
        by, reason = order_of_rule(due.rule.name)
        planned = {row.sop_instance_uid: row for row in some}
        pending, aging = self._planner.pending, self._planner.aging

        def chosen(cursor: DBAPICursor, rows: Sequence[InstanceRow]) -> list[str]:
            if aging.grew(cursor, due.study):
                return []
            held_back = pending.since(cursor, due.look)
            return [
                row.sop_instance_uid
                for row in rows
                if row == planned[row.sop_instance_uid] and row.sop_instance_uid not in held_back
            ]

        return self._remover.remove(list(planned), chosen, Why(Cause.RETENTION, reason, by))

    def _conclude(self, name: str, account: _Account, began: float, *, complete: bool) -> None:
        before = self._states.load().get(name, State(name))
        held = account.held
        error = ""
        if held:
            uid, why = next(iter(held.items()))
            error = f"{uid} {why}"
        state = replace(
            before,
            ran_at=began,
            deleted=before.deleted + account.deleted,
            deleted_bytes=before.deleted_bytes + account.deleted_bytes,
            kept=len(held),
            last_error=error,
        )
        self._states.save(state)
        if complete:
            self._journal.ran(name, account.deleted, account.deleted_bytes, held)
        else:
            self._journal.broken_off(name, "interrupted")


def _shown(due: Due, *, goes: bool) -> dict[str, Any]:
    uid, why = next(iter(due.held.items()), ("", ""))
    return {
        "study_instance_uid": due.study.study_instance_uid,
        "study_date": due.study.study_date,
        "received_at": due.study.received_at,
        "rule": due.rule.name,
        "objects": len(due.rows),
        "bytes": due.size_bytes,
        "due_at": due.due_at,
        "goes": goes,
        "why": due.words,
        "held": len(due.held),
        "held_why": f"{uid} {why}" if uid else "",
    }
