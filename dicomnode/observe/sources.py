"""Figures that others keep, read whenever the metrics are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

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


class Sources(Collector):
    """Figures that others keep and that are read when they are asked for."""

    def __init__(self) -> None:
        self.archive: Callable[[], Mapping[str, float]] | None = None
        self.receive_buffer: Callable[[], tuple[int, int]] | None = None
        self.log_lines_dropped: Callable[[], int] | None = None

    def describe(self) -> Iterator[Metric]:
        """Name no metrics, so that registering does not read the sources."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Read the sources; what cannot be read now is left out, the rest stands."""
        yield from self._read_archive()
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
