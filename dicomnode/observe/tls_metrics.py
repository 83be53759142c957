"""The metrics of TLS."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

DONE = "done"
"""The result of a handshake that was made; every other one is the cause of its failure."""


class TLSMetrics:
    """Counts handshakes, and tells when certificates expire."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._handshakes = Counter(
            "dicomnode_tls_handshakes_total",
            "TLS handshakes by side (server: we were called) and result: done, or why not.",
            ["side", "result"],
            registry=registry,
        )
        self._active = Gauge(
            "dicomnode_tls_handshakes_active",
            "Connections on the TLS port whose handshake is not finished.",
            registry=registry,
        )
        self._expiry = Gauge(
            "dicomnode_tls_certificate_expiry_timestamp_seconds",
            "When our certificate (own) and the CA that ends first (ca) expire.",
            ["certificate"],
            registry=registry,
        )

        self._list_end = Gauge(
            "dicomnode_tls_revocation_list_end_timestamp_seconds",
            "When the revocation list that ends first ends; 0 without any.",
            registry=registry,
        )

    def handshake(self, side: str, result: str) -> None:
        """Count a handshake."""
        self._handshakes.labels(side, result).inc()

    def expires(self, certificate: str, timestamp: float) -> None:
        """Set when a certificate expires, in seconds since the epoch."""
        self._expiry.labels(certificate).set(timestamp)

    def revocation_list_ends(self, timestamp: float) -> None:
        """Set when the first revocation list ends, in seconds since the epoch."""
        self._list_end.set(timestamp)

    def set_active_source(self, source: Callable[[], int]) -> None:
        """Read the number of handshakes under way from ``source``."""
        self._active.set_function(source)
