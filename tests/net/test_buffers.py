"""The receive buffers' budget."""

from __future__ import annotations

import asyncio

from dicomnode.net.buffers import BufferPool


async def make_pool(blocks: int) -> BufferPool:
    return BufferPool(asyncio.get_running_loop(), block_bytes=1024, limit_bytes=blocks * 1024)


async def test_no_more_than_the_budget_is_given_out() -> None:
    pool = await make_pool(2)
    assert pool.take() and pool.take()
    assert pool.take() is None
    assert pool.in_use_bytes == 2048


async def test_a_block_counts_until_its_last_user_released_it() -> None:
    pool = await make_pool(1)
    block = pool.take()
    assert block is not None
    block.retain()
    block.release()
    assert pool.take() is None
    block.release()
    assert pool.in_use_bytes == 0
    assert pool.take() is not None


async def test_who_waits_is_called_when_a_block_comes_back_from_another_thread() -> None:
    pool = await make_pool(1)
    block = pool.take()
    assert block is not None
    woken = asyncio.Event()
    pool.wait(1, woken.set)
    await asyncio.to_thread(block.release)
    await asyncio.wait_for(woken.wait(), 5)


async def test_who_waits_although_a_block_is_free_is_called_at_once() -> None:
    pool = await make_pool(1)
    woken = asyncio.Event()
    pool.wait(1, woken.set)
    await asyncio.wait_for(woken.wait(), 5)


async def test_a_forgotten_wait_is_not_called() -> None:
    pool = await make_pool(1)
    block = pool.take()
    assert block is not None
    woken = asyncio.Event()
    pool.wait(1, woken.set)
    pool.forget(woken.set)
    block.release()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not woken.is_set()


async def test_a_long_pdu_gets_a_block_of_its_own_size() -> None:
    pool = await make_pool(4)
    block = pool.take(3000)
    assert block is not None and len(block.view) == 3000
    assert pool.take(3000) is None


async def test_nobody_is_served_before_those_who_wait() -> None:
    pool = await make_pool(2)
    first, second = pool.take(), pool.take()
    assert first is not None and second is not None
    served: list[object] = []

    def ask() -> None:
        block = pool.take(2000)
        if block is None:
            pool.wait(2000, ask)
        else:
            served.append(block)

    pool.wait(2000, ask)
    first.release()
    assert pool.take() is None
    await asyncio.sleep(0)
    assert served == [] and pool.take() is None
    second.release()
    await asyncio.sleep(0)
    assert len(served) == 1


async def test_who_waits_for_more_than_is_free_is_not_asked_over_and_over() -> None:
    pool = await make_pool(3)
    held = pool.take()
    assert held is not None
    asked = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        if pool.take(3000) is None:
            pool.wait(3000, ask)

    ask()
    for _ in range(10):
        await asyncio.sleep(0)
    assert asked <= 2
    held.release()
    await asyncio.sleep(0)
    assert pool.in_use_bytes == 3000


async def test_who_gives_up_waiting_lets_the_next_one_in() -> None:
    pool = await make_pool(2)
    held = pool.take()
    assert held is not None
    woken = asyncio.Event()

    def never() -> None:
        pool.wait(2000, never)

    pool.wait(2000, never)
    pool.wait(1000, woken.set)
    assert not woken.is_set()
    pool.forget(never)
    await asyncio.wait_for(woken.wait(), 5)
