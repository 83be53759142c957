"""Connections that are closed at once: all are counted, few are told."""

from __future__ import annotations

import io

from prometheus_client import CollectorRegistry

from dicomnode.observe.logs import Log
from dicomnode.observe.refusals import Refusals
from dicomnode.settings import LogSettings


def test_a_flood_is_counted_whole_and_told_now_and_then() -> None:
    output, registry, clock = io.StringIO(), CollectorRegistry(), [0.0]
    log = Log(LogSettings(), stream=output)
    explained: list[tuple[str, ...]] = []

    def explain(*words: str) -> None:
        explained.append(words)

    refusals = Refusals(log.logger, registry, explain, now=lambda: clock[0])
    for _ in range(1000):
        refusals.refused("10.0.0.9", "too many", "264 are open already")
        clock[0] += 1 / 64
    refusals.refused("10.0.0.8", "too many from one address", "132 are open already")
    log.start()
    log.stop()
    first, second, other = output.getvalue().splitlines()
    assert first.endswith("connection from 10.0.0.9 closed at once: 264 are open already")
    assert second.endswith("; 639 more since the last such line")
    assert "10.0.0.8" in other
    name = "dicomnode_connections_refused_total"
    assert registry.get_sample_value(name, {"reason": "too many"}) == 1000
    assert explained[-1] == (
        "",
        "10.0.0.8",
        "132 are open already",
        "Look for what opens so many at 10.0.0.8.",
    )
