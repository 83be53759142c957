"""How late the event loop comes to what is due: one thread serves every association."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from prometheus_client import CollectorRegistry, Histogram

# A stall of twice this is seen for at least half of its length.
_INTERVAL_SECONDS: Final = 0.1
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


@contextlib.asynccontextmanager
async def noted_loop_lag(registry: CollectorRegistry) -> AsyncIterator[None]:
    """Observe the lag of the running loop, ten times a second, until the block ends."""
    lag = Histogram(
        "dicomnode_event_loop_lag_seconds",
        "How late the event loop came to a timer of 100 ms; what blocks it holds up every peer.",
        registry=registry,
        buckets=_BUCKETS,
    )
    task = asyncio.create_task(_note(lag))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _note(lag: Histogram) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _INTERVAL_SECONDS
        await asyncio.sleep(_INTERVAL_SECONDS)
        lag.observe(max(0.0, loop.time() - due))
