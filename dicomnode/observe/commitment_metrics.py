"""The metrics of storage commitments that are asked of the node."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class CommitmentMetrics:
    """Counts instances and reports; every method may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._instances = Counter(
            "dicomnode_commitment_instances_total",
            "Instances that were checked for a storage commitment, by what was found.",
            ["result"],
            registry=registry,
        )
        self._reports = Counter(
            "dicomnode_commitment_reports_total",
            "Attempts to deliver a storage commitment report, by what came of them.",
            ["result"],
            registry=registry,
        )

    def checked(self, result: str, number: int) -> None:
        """Count instances; ``result`` is committed, or says what is wrong."""
        self._instances.labels(result).inc(number)

    def reported(self, result: str, number: int = 1) -> None:
        """Count attempts; ``result`` is delivered, put off or given up."""
        self._reports.labels(result).inc(number)
