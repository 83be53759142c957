"""Connections that are closed as soon as they are made: each is counted, and some are told."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter

from dicomnode.observe.logs import Logger

# Whoever opens thousands must not fill the log with them.
_PAUSE_SECONDS = 10.0


class Refusals:
    """Tells of refused connections: of each reason the first, and one line now and then.

    ``explain`` is told of each: by whom it was made ("" for a caller), whence, why, what to do.
    """

    def __init__(
        self,
        log: Logger,
        registry: CollectorRegistry,
        explain: Callable[[str, str, str, str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._explain = explain
        self._now = now
        self._counter = Counter(
            "dicomnode_connections_refused_total",
            "Connections that were closed at once, by reason.",
            ["reason"],
            registry=registry,
        )
        self._told: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def refused(self, address: str, reason: str, words: str) -> None:
        """Count a connection; ``reason`` is one of few, ``words`` say what the limit is."""
        self._counter.labels(reason).inc()
        self._explain("", address, words, f"Look for what opens so many at {address}.")
        now = self._now()
        if now - self._told.get(reason, -_PAUSE_SECONDS) < _PAUSE_SECONDS:
            self._untold[reason] = self._untold.get(reason, 0) + 1
            return
        self._told[reason] = now
        more = self._untold.pop(reason, 0)
        others = f"; {more} more since the last such line" if more else ""
        self._log.warning(f"connection from {address} closed at once: {words}{others}")
