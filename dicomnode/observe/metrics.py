"""The metrics of a node, in Prometheus' terms.

Labels never grow with what peers send: a calling AE title is a label only while the registry
knows it and ``other`` otherwise, UIDs only if PS3.6 has them, phrases up to a fixed number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from pydicom._uid_dict import UID_dictionary

from dicomnode import __version__
from dicomnode.observe.sources import Sources, Waiting
from dicomnode.observe.tls_metrics import TLSMetrics

OTHER = "other"
"""The label value that stands for every value that is not told apart."""
ACCEPTED = "accepted"
"""The result of an association that was requested and made."""

# An operation is an echo of a millisecond, or an object of gigabytes over a slow line.
_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
# A retrieval is one image, or a study of thousands to a slow destination.
_RETRIEVE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_LEVELS = frozenset({"PATIENT", "STUDY", "SERIES", "IMAGE", "WORKLIST"})
_MOST_PHRASES = 64


class Metrics:
    """Counts what the node does; every method may be called from any thread.

    ``known_title`` tells whether the registry knows an AE title.
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
        self._sources = Sources(self._title)
        self._declare_associations()
        self._declare_operations()
        self._declare_queries()
        self._declare_retrievals()
        self._declare_forwarding()
        self.tls = TLSMetrics(self.registry)
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
        self._refusals = Counter(
            "dicomnode_refusals_total",
            "Associations and operations that a setting or a quota refused, by the key that did.",
            ["rule", "calling_aet"],
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
        self._outgoing_active = Gauge(
            "dicomnode_outgoing_associations_active",
            "Associations open now that this node requested.",
            registry=registry,
        )
        self._outgoing = Counter(
            "dicomnode_outgoing_associations_total",
            "Associations that this node requested, by what came of the request.",
            ["called_aet", "result"],
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
        self._settling_failures = Counter(
            "dicomnode_settling_failures_total",
            "Times that files of small objects could not be made durable.",
            registry=registry,
        )

    def _declare_queries(self) -> None:
        registry = self.registry
        self._query_matches = Counter(
            "dicomnode_query_matches_total",
            "Matches sent in answer to C-FIND.",
            ["level"],
            registry=registry,
        )
        self._query_empty = Counter(
            "dicomnode_query_empty_total", "C-FIND without a match.", ["level"], registry=registry
        )
        self._query_seconds = Histogram(
            "dicomnode_query_seconds",
            "From a C-FIND's command to its final response, the reading of the peer included.",
            ["level"],
            registry=registry,
            buckets=_SECONDS_BUCKETS,
        )

    def _declare_retrievals(self) -> None:
        registry = self.registry
        self._sub_operations = Counter(
            "dicomnode_retrieve_sub_operations_total",
            "C-STORE sub-operations of C-GET and C-MOVE.",
            ["service", "result"],
            registry=registry,
        )
        self._retrieve_bytes = Counter(
            "dicomnode_retrieve_bytes_total",
            "Bytes of data sets sent by C-GET and C-MOVE.",
            ["service"],
            registry=registry,
        )
        self._retrieve_seconds = Histogram(
            "dicomnode_retrieve_seconds",
            "From the command of a C-GET or C-MOVE to its final response.",
            ["service"],
            registry=registry,
            buckets=_RETRIEVE_BUCKETS,
        )

    def _declare_forwarding(self) -> None:
        self._forwarded = Counter(
            "dicomnode_forwarded_total",
            "Objects and messages forwarded, or tried to be: sent, refused, lost or set aside.",
            ["destination", "result"],
            registry=self.registry,
        )
        self._forwarded_bytes = Counter(
            "dicomnode_forwarded_bytes_total",
            "Bytes of data sets forwarded.",
            ["destination"],
            registry=self.registry,
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

    def refused(self, rule: str, calling_ae_title: str) -> None:
        """Count what a setting refused; ``rule`` is its key, such as ``max_stored_bytes``.

        Rules are words of ours alone, and few.
        """
        self._refusals.labels(rule, self._title(calling_ae_title)).inc()

    def association_aborted(self, by: str, reason: str) -> None:
        """Count an association that broke off; ``by`` is "peer", "us" or "connection"."""
        self._aborted.labels(by, self._reasons.bounded(reason)).inc()

    def context_refused(self, abstract_syntax: str, words: str) -> None:
        """Count a presentation context that was refused in an accepted association."""
        uid = abstract_syntax if abstract_syntax in UID_dictionary else OTHER
        self._contexts_refused.labels(uid, self._reasons.bounded(words)).inc()

    def outgoing_association(self, called_ae_title: str, result: str) -> None:
        """Count an association that we requested; ``result`` is accepted, rejected or failed."""
        self._outgoing.labels(self._title(called_ae_title), result).inc()
        if result == ACCEPTED:
            self._outgoing_active.inc()

    def outgoing_association_ended(self) -> None:
        """Count down the open ones; called once for each that was accepted."""
        self._outgoing_active.dec()

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

    def objects_conflicting(self, policy: str) -> None:
        """Count an object that came again with other bytes."""
        self._conflicting.labels(policy).inc()

    def settling_failed(self) -> None:
        """Count that files of small objects could not be made durable."""
        self._settling_failures.inc()

    def query_finished(self, level: str, matches: int, sent_bytes: int, seconds: float) -> None:
        """Count a C-FIND; ``level`` is its Query/Retrieve Level, or "WORKLIST"."""
        level = level if level in _LEVELS else OTHER
        self._query_matches.labels(level).inc(matches)
        self._query_empty.labels(level).inc(not matches)
        self._query_seconds.labels(level).observe(seconds)
        self._sent_bytes.inc(sent_bytes)

    def retrieve_finished(
        self, service: str, sub_operations: Mapping[str, int], sent_bytes: int, seconds: float
    ) -> None:
        """Count a C-GET or C-MOVE; ``sub_operations`` by result: completed, warning, failed."""
        for result, count in sub_operations.items():
            self._sub_operations.labels(service, result).inc(count)
        self._retrieve_bytes.labels(service).inc(sent_bytes)
        self._retrieve_seconds.labels(service).observe(seconds)
        self._sent_bytes.inc(sent_bytes)

    def forwarded(self, destination: str, results: Mapping[str, int], sent_bytes: int) -> None:
        """Count objects of the outbox, by what became of them."""
        title = self._title(destination)
        for result, count in results.items():
            if count:
                self._forwarded.labels(title, result).inc(count)
        self._forwarded_bytes.labels(title).inc(sent_bytes)
        self._sent_bytes.inc(sent_bytes)

    # -- read at each scrape -----------------------------------------------------------------------

    def set_archive_source(self, source: Callable[[], Mapping[str, float]]) -> None:
        """Read what is held from ``source`` at each scrape, on the scraping thread.

        Its keys: patients, studies, series, instances, bytes, identity_conflicts, free_bytes.
        """
        self._sources.archive = source

    def set_outbox_source(self, source: Callable[[], Iterable[Waiting]]) -> None:
        """Read what waits in the outbox from ``source`` at each scrape."""
        self._sources.outbox = source

    def set_receive_buffer_source(self, source: Callable[[], tuple[int, int]]) -> None:
        """Read the receive buffers' bytes in use and their limit from ``source``."""
        self._sources.receive_buffer = source

    def set_log_source(self, source: Callable[[], int]) -> None:
        """Read the number of log lines dropped from ``source``."""
        self._sources.log_lines_dropped = source

    def add_counts_source(
        self, name: str, words: str, label: str, source: Callable[[], Mapping[Any, int]]
    ) -> None:
        """Read a gauge from ``source``: a number for each value of its label, which are few."""
        self._sources.add_counts(name, words, label, source)

    def render(self) -> bytes:
        """Return the text exposition; may block while the sources are read."""
        return generate_latest(self.registry)

    def _title(self, ae_title: str) -> str:
        """Return the label of an AE title: one spelling of each title that is known."""
        if not self._known_title(ae_title):
            return OTHER
        # Titles are matched without regard to case; each spelling a series of its own would let
        # a peer make thousands.
        return self._spellings.setdefault(ae_title.casefold(), ae_title)


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
