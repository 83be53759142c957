"""Tells logs and metrics how fetching goes."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry

from dicomnode.observe.fetch_metrics import FetchMetrics
from dicomnode.observe.logs import Logger
from dicomnode.observe.words import counted, duration, size
from dicomnode.sync.rules import Rule
from dicomnode.sync.state import State
from dicomnode.sync.syncing import Summary

# Objects and studies that are named in the log, of one run.
_MOST_NAMED = 10


class Journal:
    """Observes the runs; called on the event loop."""

    def __init__(self, log: Logger, registry: CollectorRegistry) -> None:
        self._log = log
        self._metrics = FetchMetrics(registry)

    def stands(self, state: State) -> None:
        """A rule has this state: at the start, and after each run."""
        self._metrics.stands(state.name, state.missing_studies, state.succeeded_at)

    def moved(self, rule: Rule, pulled: int, pushed: int) -> None:
        """So many more objects have been moved."""
        self._metrics.moved(rule.name, "pull", pulled)
        self._metrics.moved(rule.name, "push", pushed)

    def ended(self, rule: Rule, result: str, summary: Summary, seconds: float) -> None:
        """A run has come to its end, whatever it was."""
        self._metrics.ended(rule.name, result)
        compared = summary.compared
        line = (
            f"fetch {rule.name!r} from {rule.source}:"
            f" {counted(compared.studies, 'study', 'studies')} compared,"
            f" {compared.looked_into} looked into"
        )
        if rule.direction.pulls:
            line += f", {counted(summary.pulled, 'object', 'objects')} received"
        if summary.pulled_bytes:
            line += f", {size(summary.pulled_bytes)}"
        if rule.direction.pushes:
            line += f", {counted(summary.pushed, 'object', 'objects')} queued for {rule.source}"
        if summary.interrupted:
            line += ", to be gone on with when the window opens"
        took = duration(seconds)
        if not summary.incomplete:
            self._log.info(f"{line}, {took}")
            return
        lacking = counted(len(summary.incomplete), "study lacks", "studies lack")
        self._log.warning(f"{line}, {lacking} something, {took}")
        for words, count in summary.refusals.most_common(_MOST_NAMED):
            self._log.warning(f"fetch {rule.name!r}: {words} ({count} times)")
        for uid, why in list(summary.problems.items())[:_MOST_NAMED]:
            self._log.warning(f"fetch {rule.name!r}: {uid}: {why}")

    def failed(self, rule: Rule, state: State) -> None:
        """A run has come to no end."""
        self._metrics.ended(rule.name, "failed")
        pause = duration(max(state.not_before - time.time(), 0.0))
        self._log.warning(
            f"fetch {rule.name!r} from {rule.source} failed, {state.fetched} objects received;"
            f" tried again in {pause}: {state.last_error}"
        )

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""
        self._log.exception(f"internal error in {what}", error)
