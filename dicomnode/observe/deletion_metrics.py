"""The metrics of deleting and of retention rules."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class DeletionMetrics:
    """Counts what is deleted; every method may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._objects = Counter(
            "dicomnode_deleted_objects_total",
            "Objects deleted: by command, by a retention rule, or as all destinations have"
            " committed to keep them.",
            ["why"],
            registry=registry,
        )
        self._bytes = Counter(
            "dicomnode_deleted_bytes_total",
            "Size of the objects deleted.",
            ["why"],
            registry=registry,
        )
        self._files = Counter(
            "dicomnode_deleted_files_left_total",
            "Attempts to remove files of deleted objects that failed; each is tried again.",
            registry=registry,
        )
        self._runs = Counter(
            "dicomnode_retention_runs_total",
            "Runs of retention rules, by what came of them.",
            ["rule", "result"],
            registry=registry,
        )
        self._kept = Gauge(
            "dicomnode_retention_held_back_objects",
            "Objects that were due in the last run and may not go yet.",
            ["rule"],
            registry=registry,
        )
        self._clock = Gauge(
            "dicomnode_retention_clock_trusted",
            "0 while retention does nothing because the clock has jumped.",
            registry=registry,
        )
        self._clock.set(1)

    def deleted(self, why: str, objects: int, size_bytes: int) -> None:
        """Count objects that were deleted."""
        self._objects.labels(why).inc(objects)
        self._bytes.labels(why).inc(size_bytes)

    def file_stays(self) -> None:
        """Count a file that could not be removed."""
        self._files.inc()

    def ran(self, rule: str, result: str, held_back: int) -> None:
        """Count a run of a rule; ``result`` is complete or interrupted."""
        self._runs.labels(rule, result).inc()
        self._kept.labels(rule).set(held_back)

    def clock(self, *, trusted: bool) -> None:
        """Say whether the clock is trusted."""
        self._clock.set(trusted)
