"""The outbox as people see it: what waits for each AE, and stepping in.

Objects and messages of performed steps are forwarding's. Storage commitment reports have ways of
their own, the requester's association first; here they stand beside what else waits for an AE.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from dicomnode.index.commitments import Standing, State
from dicomnode.index.commitments import Waiting as WaitingReports
from dicomnode.index.records import OutboxState
from dicomnode.observe.sources import Waiting
from dicomnode.outbox.forwarding import Forwarding

_LISTED: Final = 1000


class Reports(Protocol):
    """The storage commitment reports that wait; ``commitment.StorageCommitment``."""

    def waiting(self, state: State) -> list[WaitingReports]:
        """Return by requester how many reports wait, or were given up; blocks."""

    def given_up(self, requester: str | None, limit: int) -> Sequence[Standing]:
        """Return what was given up; blocks."""

    async def retry(self, requester: str) -> int:
        """Send what waits or was given up now; return how much that is."""

    async def drop(self, requester: str, *, dead_only: bool) -> int:
        """Forget reports; return how many."""


class Desk:
    """Everything here raises CatalogError where the index fails."""

    def __init__(
        self, forwarding: Forwarding, reports: Reports, now: Callable[[], float] = time.time
    ) -> None:
        self._forwarding = forwarding
        self._queue = forwarding.queue
        self._reports = reports
        self._now = now

    def titles(self) -> list[str]:
        """Return the AEs that something has been, or can be, queued for; blocks."""
        reports = (*self._reports.waiting(State.CHECKED), *self._reports.waiting(State.GIVEN_UP))
        return sorted({*self._forwarding.titles, *(each.requester for each in reports)})

    def figures(self) -> list[dict[str, Any]]:
        """Return each AE and what waits for it; blocks."""
        found = {title: self._figures_of(title) for title in self._forwarding.titles}

        def shown(title: str, since: float, words: str) -> dict[str, Any]:
            row = found.setdefault(title, self._figures_of(title))
            row["oldest"] = since if row["oldest"] is None else min(since, row["oldest"])
            row["last_error"] = row["last_error"] or words
            return row

        for tally in self._queue.tallies():
            row = shown(tally.destination, tally.oldest, tally.last_error)
            row["objects"][tally.state.name.lower()] = tally.count
        for reports in self._reports.waiting(State.GIVEN_UP):
            row = shown(reports.requester, reports.since, reports.last_error)
            row["reports"]["dead"] = reports.count
        for reports in self._reports.waiting(State.CHECKED):
            row = shown(reports.requester, reports.since, reports.last_error)
            row["reports"]["waiting"] = reports.count
            if row["down_since"] is None and reports.last_error:
                row["down_since"], row["next_attempt"] = reports.since, reports.next_attempt_at
        return [found[title] for title in sorted(found)]

    def _figures_of(self, title: str) -> dict[str, Any]:
        down = self._forwarding.down(title)
        return {
            "destination": title,
            "objects": {state.name.lower(): 0 for state in OutboxState},
            "reports": {"waiting": 0, "dead": 0},
            "oldest": None,
            "down_since": down.since if down is not None else None,
            "next_attempt": down.not_before if down is not None else None,
            "last_error": down.words if down is not None else "",
        }

    def waiting(self) -> list[Waiting]:
        """Return how much waits, for the metrics; blocks."""
        counts: Counter[tuple[str, OutboxState]] = Counter()
        oldest: dict[tuple[str, OutboxState], float] = {}

        def add(title: str, state: OutboxState, count: int, since: float) -> None:
            counts[title, state] += count
            oldest[title, state] = min(since, oldest.get((title, state), since))

        for tally in self._queue.tallies():
            add(tally.destination, tally.state, tally.count, tally.oldest)
        for reports in self._reports.waiting(State.CHECKED):
            state = OutboxState.PAUSED if reports.last_error else OutboxState.READY
            add(reports.requester, state, reports.count, reports.since)
        for reports in self._reports.waiting(State.GIVEN_UP):
            add(reports.requester, OutboxState.DEAD, reports.count, reports.since)
        now = self._now()
        return [
            Waiting(title, state.name.lower(), count, max(now - oldest[title, state], 0.0))
            for (title, state), count in counts.items()
        ]

    def dead(self, destination: str | None) -> list[dict[str, Any]]:
        """Return what has been set aside; blocks."""
        reports = [
            {
                "id": report.id,
                "destination": report.requester,
                "what": "report",
                "rule": "",
                "transaction_uid": report.transaction_uid,
                "attempts": report.attempts,
                "queued_at": report.requested_at,
                "last_error": report.last_error,
            }
            for report in self._reports.given_up(destination, _LISTED)
        ]
        return self._queue.dead(destination, _LISTED) + reports

    async def retry(self, destination: str) -> int:
        """Send now what waits for an AE or was set aside; return how much that is."""
        forwarded = await self._forwarding.retry(destination)
        return forwarded + await self._reports.retry(destination)

    async def drop(self, destination: str, *, dead_only: bool) -> int:
        """Remove what is to be sent to an AE; return how much."""
        forwarded = await self._forwarding.drop(destination, dead_only=dead_only)
        return forwarded + await self._reports.drop(destination, dead_only=dead_only)
