"""The metrics of fetching, by rule."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class FetchMetrics:
    """Counts runs and objects; every method may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._runs = Counter(
            "dicomnode_fetch_runs_total",
            "Runs of fetch rules that ended, by what came of them.",
            ["rule", "result"],
            registry=registry,
        )
        self._objects = Counter(
            "dicomnode_fetch_objects_total",
            "Objects that fetch rules moved, by direction; pushed ones are queued in the outbox.",
            ["rule", "direction"],
            registry=registry,
        )
        self._missing = Gauge(
            "dicomnode_fetch_missing_studies",
            "Studies that still lacked something on one side when the last run ended.",
            ["rule"],
            registry=registry,
        )
        self._success = Gauge(
            "dicomnode_fetch_last_success_timestamp_seconds",
            "When the last run ended after which nothing was missing; 0 for never.",
            ["rule"],
            registry=registry,
        )

    def ended(self, rule: str, result: str) -> None:
        """Count a run; ``result`` is complete, incomplete, failed or interrupted."""
        self._runs.labels(rule, result).inc()

    def moved(self, rule: str, direction: str, number: int) -> None:
        """Count objects; ``direction`` is pull or push."""
        self._objects.labels(rule, direction).inc(number)

    def stands(self, rule: str, missing_studies: int, succeeded_at: float) -> None:
        """Show how it stands with a rule."""
        self._missing.labels(rule).set(missing_studies)
        self._success.labels(rule).set(succeeded_at)
