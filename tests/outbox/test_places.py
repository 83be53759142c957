"""How many destinations are sent to at once."""

from __future__ import annotations

import asyncio

from dicomnode.outbox.pace import Places


async def test_whoever_waits_gets_the_next_place() -> None:
    places, order = Places(1), []

    async def use(name: str) -> None:
        async with places:
            order.append(name)
            await asyncio.sleep(0)

    async with places:
        assert places.are_taken and not places.are_wanted
        waiting = [asyncio.create_task(use(name)) for name in "ab"]
        await asyncio.sleep(0)
        assert places.are_wanted
    await asyncio.gather(*waiting)
    assert order == ["a", "b"]
    assert not places.are_taken and not places.are_wanted


async def test_whoever_gives_up_waiting_wants_no_place() -> None:
    places = Places(1)
    async with places:
        waiting = asyncio.create_task(places.__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert not places.are_wanted
