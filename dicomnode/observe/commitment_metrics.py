"""The metrics of storage commitments that are asked of the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class CommitmentMetrics(Collector):
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
        self._counts: Callable[[], Mapping[Any, int]] = dict
        registry.register(self)

    def checked(self, result: str, number: int) -> None:
        """Count instances; ``result`` is committed, or says what is wrong."""
        self._instances.labels(result).inc(number)

    def reported(self, result: str, number: int = 1) -> None:
        """Count attempts; ``result`` is delivered, put off or given up."""
        self._reports.labels(result).inc(number)

    def set_source(self, source: Callable[[], Mapping[Any, int]]) -> None:
        """Read how many commitments are in each state from ``source``, which takes no query."""
        self._counts = source

    def describe(self) -> Iterator[Metric]:
        """Name no metrics, so that registering does not read the source."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the source."""
        states = GaugeMetricFamily(
            "dicomnode_commitments", "Storage commitments by state.", labels=["state"]
        )
        for state, number in self._counts().items():
            states.add_metric([state], number)
        yield states
