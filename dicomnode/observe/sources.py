"""Figures that others keep, read whenever the metrics are scraped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_ARCHIVE = {
    "instances": ("dicomnode_objects", "Objects held."),
    "series": ("dicomnode_series", "Series held."),
    "studies": ("dicomnode_studies", "Studies held."),
    "patients": ("dicomnode_patients", "Patients held."),
    "bytes": ("dicomnode_objects_bytes", "Size of the objects held."),
    "identity_conflicts": (
        "dicomnode_identity_conflicts",
        "Patient IDs that came with two different names and birth dates.",
    ),
    "unsettled": (
        "dicomnode_unsettled_objects",
        "Objects whose files are not known to be durable yet; their bytes are, in the index.",
    ),
    "unsettled_bytes": ("dicomnode_unsettled_bytes", "Size of these objects."),
    "free_bytes": ("dicomnode_storage_free_bytes", "Free space where objects are stored."),
}

# The state of objects that nobody waits for.
_SET_ASIDE = "dead"


@dataclass(frozen=True, slots=True)
class Waiting:
    """So much for a destination is in a state; ``oldest_seconds`` is the oldest's age."""

    destination: str
    state: str
    count: int
    oldest_seconds: float


class Sources(Collector):
    """Figures that others keep and that are read when they are asked for.

    ``title`` gives the label of an AE title.
    """

    def __init__(self, title: Callable[[str], str]) -> None:
        self._title = title
        self.archive: Callable[[], Mapping[str, float]] | None = None
        self.outbox: Callable[[], Iterable[Waiting]] | None = None
        self.receive_buffer: Callable[[], tuple[int, int]] | None = None
        self.log_lines_dropped: Callable[[], int] | None = None
        self._counts: list[tuple[str, str, str, Callable[[], Mapping[Any, int]]]] = []

    def add_counts(
        self, name: str, words: str, label: str, source: Callable[[], Mapping[Any, int]]
    ) -> None:
        """Read the metric ``name`` from ``source``: a number for each value of its label."""
        self._counts.append((name, words, label, source))

    def describe(self) -> Iterator[Metric]:
        """Name no metrics, so that registering does not read the sources."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the sources; what cannot be read now is left out, the rest stands."""
        yield from self._read_archive()
        yield from self._read_outbox()
        yield from self._read_counts()
        if self.receive_buffer is not None:
            used, limit = self.receive_buffer()
            yield GaugeMetricFamily(
                "dicomnode_receive_buffer_bytes", "Receive buffers in use.", used
            )
            yield GaugeMetricFamily(
                "dicomnode_receive_buffer_limit_bytes", "Budget of all receive buffers.", limit
            )
        if self.log_lines_dropped is not None:
            yield CounterMetricFamily(
                "dicomnode_log_lines_dropped",
                "Log lines that could not be written in time.",
                self.log_lines_dropped(),
            )

    def _read_archive(self) -> Iterator[Metric]:
        if self.archive is None:
            return
        try:
            figures = self.archive()
        except Exception:
            # A scrape must show the other metrics just when the index or the disk fails.
            figures = {}
        yield GaugeMetricFamily(
            "dicomnode_archive_readable", "1 when index and storage answered.", bool(figures)
        )
        for key, value in figures.items():
            name, words = _ARCHIVE[key]
            yield GaugeMetricFamily(name, words, value)

    def _read_outbox(self) -> Iterator[Metric]:
        if self.outbox is None:
            return
        depth = GaugeMetricFamily(
            "dicomnode_outbox_depth",
            "Objects, messages of performed steps and reports that wait to be sent on.",
            labels=["destination", "state"],
        )
        oldest = GaugeMetricFamily(
            "dicomnode_outbox_oldest_seconds",
            "Since when the oldest of them waits, but for those that were set aside.",
            labels=["destination"],
        )
        counts: Counter[tuple[str, str]] = Counter()
        ages: dict[str, float] = {}
        try:
            for waiting in self.outbox():
                title = self._title(waiting.destination)
                counts[title, waiting.state] += waiting.count
                if waiting.state != _SET_ASIDE:
                    ages[title] = max(waiting.oldest_seconds, ages.get(title, 0.0))
        except Exception:
            # As above: the index has failed, and dicomnode_archive_readable says so.
            return
        for labels, count in counts.items():
            depth.add_metric(labels, count)
        for destination, seconds in ages.items():
            oldest.add_metric([destination], seconds)
        yield depth
        yield oldest

    def _read_counts(self) -> Iterator[Metric]:
        for name, words, label, source in self._counts:
            try:
                counts = source()
            except Exception:
                # As above; the archive's metric says that the index does not answer.
                counts = {}
            family = GaugeMetricFamily(name, words, labels=[label])
            for value, number in counts.items():
                family.add_metric([value], number)
            yield family
