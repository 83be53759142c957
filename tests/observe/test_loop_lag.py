"""How late the event loop is, as a metric."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import CollectorRegistry

from dicomnode.observe.loop_lag import noted_loop_lag


async def test_what_blocks_the_loop_is_seen_as_lag() -> None:
    registry = CollectorRegistry()

    def stalls() -> float:
        name, short = "dicomnode_event_loop_lag_seconds", {"le": "0.1"}
        seen = registry.get_sample_value(f"{name}_count")
        return (seen or 0) - (registry.get_sample_value(f"{name}_bucket", short) or 0)

    async with noted_loop_lag(registry):
        await asyncio.sleep(0)  # the timer runs
        time.sleep(0.3)
        async with asyncio.timeout(10):
            while not stalls():
                await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == {asyncio.current_task()}
