"""The metrics of the custody log."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class CustodyMetrics:
    """Counts what could not be recorded; every method may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._failures = Counter(
            "dicomnode_custody_failures_total",
            "Attempts to write to the custody log that failed; they are repeated.",
            registry=registry,
        )
        self._lost = Counter(
            "dicomnode_custody_lost_total",
            "Custody records that were lost, as they could not be written.",
            registry=registry,
        )

    def failed(self) -> None:
        """Count an attempt."""
        self._failures.inc()

    def lost(self, number: int) -> None:
        """Count records."""
        self._lost.inc(number)
