"""The metrics of the audit trail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_CAUSES: Final = (
    "internal error",
    "queue full",
    "spool failed",
    "spool full",
    "target removed",
    "too long",
)


class AuditMetrics:
    """Counts messages; every method may be called from any thread.

    ``waiting`` returns, for each target, its name, how many messages wait for it, and whether it
    could be written to when it was last tried.
    """

    def __init__(
        self, registry: CollectorRegistry, waiting: Callable[[], Iterable[tuple[str, int, bool]]]
    ) -> None:
        self._messages = Counter(
            "dicomnode_audit_messages_total",
            "Audit messages made, by the meaning of their event ID (PS3.16 CID 400).",
            ["event"],
            registry=registry,
        )
        self._lost = Counter(
            "dicomnode_audit_messages_lost_total",
            "Audit messages that were lost, by cause.",
            ["cause"],
            registry=registry,
        )
        # From the start, so that the first loss is an increase.
        for cause in _CAUSES:
            self._lost.labels(cause)
        registry.register(_Waiting(waiting))

    def made(self, event: str) -> None:
        """Count a message."""
        self._messages.labels(event).inc()

    def lost(self, cause: str, number: int) -> None:
        """Count messages; ``cause`` is one of those above."""
        self._lost.labels(cause).inc(number)


class _Waiting(Collector):
    def __init__(self, source: Callable[[], Iterable[tuple[str, int, bool]]]) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        waiting = GaugeMetricFamily(
            "dicomnode_audit_messages_waiting",
            "Audit messages that wait to be written, by target (syslog, file).",
            labels=["target"],
        )
        up = GaugeMetricFamily(
            "dicomnode_audit_target_up",
            "Whether the target of the audit trail could be written to when last tried.",
            labels=["target"],
        )
        for target, messages, is_up in self._source():
            waiting.add_metric([target], messages)
            up.add_metric([target], float(is_up))
        yield waiting
        yield up
