"""The metrics of files that are read again, or found not to be whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge


class ScrubMetrics:
    """Counts files and bytes; every method may be called from any thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._objects = Counter(
            "dicomnode_scrub_objects_total",
            "Stored objects that the scrub has read and compared with what was received.",
            registry=registry,
        )
        self._bytes = Counter(
            "dicomnode_scrub_read_bytes_total", "Bytes that the scrub has read.", registry=registry
        )
        self._found = Counter(
            "dicomnode_scrub_found_total",
            "Files found that are not whole, by what is wrong and who met them.",
            ["kind", "by"],
            registry=registry,
        )

    def read(self, objects: int, size: int) -> None:
        """Count what has been read."""
        self._objects.inc(objects)
        self._bytes.inc(size)

    def found(self, kind: str, by: str) -> None:
        """Count a file that is not whole."""
        self._found.labels(kind, by).inc()

    def follow(
        self,
        age_seconds: Callable[[], float],
        unknown_files: Callable[[], int],
        bad_files: Callable[[], Mapping[str, int]],
    ) -> None:
        """Read these whenever the metrics are scraped."""
        Gauge(
            "dicomnode_scrub_age_seconds",
            "How long ago the object was proven whole that has not been for the longest.",
            registry=self._registry,
        ).set_function(age_seconds)
        Gauge(
            "dicomnode_scrub_unknown_files",
            "Files below objects/ that the index does not know, as of the last whole scrub.",
            registry=self._registry,
        ).set_function(unknown_files)
        listed = Gauge(
            "dicomnode_scrub_bad_files",
            "Files that are not whole now, by what is wrong.",
            ["kind"],
            registry=self._registry,
        )
        for kind in bad_files():
            listed.labels(kind).set_function(partial(_of_kind, bad_files, kind))


def _of_kind(bad_files: Callable[[], Mapping[str, int]], kind: str) -> float:
    return bad_files()[kind]
