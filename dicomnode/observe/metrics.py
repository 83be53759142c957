"""The metrics of a node, in Prometheus' terms.

Labels never grow with what peers send: a calling AE title is a label only while the registry
knows it and ``other`` otherwise, UIDs only if PS3.6 has them, phrases up to a fixed number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydicom.uid import UID

from dicomnode import __version__

OTHER = "other"
"""The label value that stands for every value that is not told apart."""

# An operation is an echo of a millisecond, or an object of gigabytes over a slow line.
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_MOST_PHRASES = 64

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
    "free_bytes": ("dicomnode_storage_free_bytes", "Free space where objects are stored."),
}


class Metrics:
    """Counts what the node does; every method may be called from any thread.

    ``known_title`` tells whether the registry knows a calling AE title.
    """

    def __init__(
        self,
        known_title: Callable[[str], bool],
        registry: CollectorRegistry | None = None,
    ) -> None:
        # The creation time of each series would double the number of lines; nothing reads it.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry if registry is not None else CollectorRegistry()
        self._known_title = known_title
        self._spellings: dict[str, str] = {}
        self._reasons = _Phrases()
        self._requests: dict[tuple[str, str, int], _RequestSeries] = {}
        self._sources = _Sources()
        self._declare_associations()
        self._declare_operations()
        self.registry.register(self._sources)
        ProcessCollector(registry=self.registry)
        info = Gauge("dicomnode_info", "1; the version.", ["version"], registry=self.registry)
        info.labels(__version__).set(1)

    def _declare_associations(self) -> None:
        registry = self.registry
        self._active = Gauge(
            "dicomnode_associations_active", "Associations open now.", registry=registry
        )
        self._accepted = Counter(
            "dicomnode_associations_accepted_total",
            "Associations accepted.",
            ["calling_aet"],
            registry=registry,
        )
        self._rejected = Counter(
            "dicomnode_associations_rejected_total",
            "Associations rejected (A-ASSOCIATE-RJ), by the words of PS3.8 Table 9-21.",
            ["reason"],
            registry=registry,
        )
        self._aborted = Counter(
            "dicomnode_associations_aborted_total",
            "Associations that ended without a release.",
            ["by", "reason"],
            registry=registry,
        )
        self._connections = Counter(
            "dicomnode_connections_total",
            "Connections taken on the DICOM port, load balancers' checks included.",
            registry=registry,
        )
        self._contexts_refused = Counter(
            "dicomnode_contexts_refused_total",
            "Presentation contexts refused within accepted associations.",
            ["abstract_syntax", "reason"],
            registry=registry,
        )

    def _declare_operations(self) -> None:
        registry = self.registry
        self._dimse_requests = Counter(
            "dicomnode_dimse_requests_total",
            "DIMSE requests answered, by final status (hexadecimal).",
            ["service", "calling_aet", "status"],
            registry=registry,
        )
        self._dimse_seconds = Histogram(
            "dicomnode_dimse_request_seconds",
            "From a request's command to its final response.",
            ["service"],
            registry=registry,
            buckets=_SECONDS_BUCKETS,
        )
        self._received_bytes = Counter(
            "dicomnode_received_bytes_total",
            "Bytes of data sets received.",
            ["calling_aet"],
            registry=registry,
        )
        self._sent_bytes = Counter(
            "dicomnode_sent_bytes_total", "Bytes of data sets sent.", registry=registry
        )
        self._conflicting = Counter(
            "dicomnode_objects_conflicting_total",
            "Objects that came again with other bytes, by what storage.on_conflict did.",
            ["policy"],
            registry=registry,
        )

    # -- connections and associations ------------------------------------------------------------

    def connection_opened(self) -> None:
        """Count a connection on the DICOM port."""
        self._connections.inc()

    def association_accepted(self, calling_ae_title: str) -> None:
        """Count an association that is now open."""
        self._active.inc()
        self._accepted.labels(self._title(calling_ae_title)).inc()

    def association_ended(self) -> None:
        """Count down the open associations; called once for each accepted one."""
        self._active.dec()

    def association_rejected(self, words: str) -> None:
        """Count an A-ASSOCIATE-RJ; ``words`` are the standard's."""
        self._rejected.labels(self._reasons.bounded(words)).inc()

    def association_aborted(self, by: str, reason: str) -> None:
        """Count an association that broke off; ``by`` is "peer", "us" or "connection"."""
        self._aborted.labels(by, self._reasons.bounded(reason)).inc()

    def context_refused(self, abstract_syntax: str, words: str) -> None:
        """Count a presentation context that was refused in an accepted association."""
        # pydicom names the UIDs of PS3.6; every other UID is its own name.
        known = UID(abstract_syntax).name != abstract_syntax
        uid = abstract_syntax if known else OTHER
        self._contexts_refused.labels(uid, self._reasons.bounded(words)).inc()

    # -- operations ------------------------------------------------------------------------------

    def request_finished(
        self,
        service: str,
        calling_ae_title: str,
        status: int,
        seconds: float,
        received_bytes: int = 0,
    ) -> None:
        """Count a request that has its final response; ``service`` is for example C-STORE."""
        title = self._title(calling_ae_title)
        series = self._requests.get((service, title, status))
        if series is None:
            series = self._requests[service, title, status] = _RequestSeries(
                self._dimse_requests.labels(service, title, f"{status:04X}"),
                self._dimse_seconds.labels(service),
                self._received_bytes.labels(title),
            )
        series.count.inc()
        series.seconds.observe(seconds)
        if received_bytes:
            series.received_bytes.inc(received_bytes)

    def bytes_sent(self, count: int) -> None:
        """Count bytes of a data set sent."""
        self._sent_bytes.inc(count)

    def objects_conflicting(self, policy: str) -> None:
        """Count an object that came again with other bytes."""
        self._conflicting.labels(policy).inc()

    # -- read at each scrape -----------------------------------------------------------------------

    def set_archive_source(self, source: Callable[[], Mapping[str, float]]) -> None:
        """Read what is held from ``source`` at each scrape, on the scraping thread.

        Its keys: patients, studies, series, instances, bytes, identity_conflicts, free_bytes.
        """
        self._sources.archive = source

    def set_receive_buffer_source(self, source: Callable[[], tuple[int, int]]) -> None:
        """Read the receive buffers' bytes in use and their limit from ``source``."""
        self._sources.receive_buffer = source

    def set_log_source(self, source: Callable[[], int]) -> None:
        """Read the number of log lines dropped from ``source``."""
        self._sources.log_lines_dropped = source

    def render(self) -> bytes:
        """Return the text exposition; may block while the sources are read."""
        return generate_latest(self.registry)

    def _title(self, calling_ae_title: str) -> str:
        """Return the label of a calling AE title: one spelling of each title that is known."""
        if not self._known_title(calling_ae_title):
            return OTHER
        # Titles are matched without regard to case; each spelling a series of its own would let
        # a peer make thousands.
        return self._spellings.setdefault(calling_ae_title.casefold(), calling_ae_title)


class _RequestSeries:
    """The series that one kind of request counts into, looked up once."""

    __slots__ = ("count", "received_bytes", "seconds")

    def __init__(self, count: Counter, seconds: Histogram, received_bytes: Counter) -> None:
        self.count = count
        self.seconds = seconds
        self.received_bytes = received_bytes


class _Phrases:
    """Lets the first so many phrases be labels, and no more."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def bounded(self, phrase: str) -> str:
        """Return ``phrase``, or ``other`` when too many different ones came before it."""
        if phrase not in self._seen:
            if len(self._seen) >= _MOST_PHRASES:
                return OTHER
            self._seen.add(phrase)
        return phrase


class _Sources(Collector):
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
