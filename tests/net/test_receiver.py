"""What was received stays contiguous, within the budget."""

from __future__ import annotations

import asyncio

import pytest

from dicomnode.errors import RemoteProtocolError
from dicomnode.net.buffers import BufferPool
from dicomnode.net.receiver import Receiver

BLOCK = 64 * 1024


def fill(receiver: Receiver, data: bytes) -> memoryview:
    room = receiver.room()
    room[: len(data)] = data
    receiver.count(len(data))
    return receiver.pending


async def test_a_pdu_that_does_not_fit_behind_is_moved_to_the_front_untouched() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, 4 * BLOCK)
    receiver = Receiver(pool, lambda: None)
    receiver.trust()
    fill(receiver, bytes(60_000) + b"begin")
    receiver.consume(60_000)
    receiver.make_room(20_000)
    assert bytes(fill(receiver, b"end")) == b"beginend"
    assert len(receiver.room()) >= 20_000 - 8


async def test_bytes_that_somebody_still_reads_are_not_moved_over() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, 4 * BLOCK)
    receiver = Receiver(pool, lambda: None)
    receiver.trust()
    leased = fill(receiver, b"A" * 60_000 + b"begin")[:60_000]
    lease = receiver.block
    lease.retain()
    receiver.consume(60_000)
    receiver.make_room(20_000)
    fill(receiver, b"B" * 10_000)
    assert bytes(leased) == b"A" * 60_000
    assert pool.in_use_bytes == 2 * BLOCK
    lease.release()
    assert pool.in_use_bytes == BLOCK


async def test_without_budget_it_starves_until_a_block_comes_back() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, 2 * BLOCK)
    other = pool.take()
    assert other is not None
    changes: list[bool] = []
    receiver = Receiver(pool, lambda: changes.append(receiver.starved))
    receiver.trust()
    fill(receiver, b"A" * 60_000 + b"begin")
    lease = receiver.block
    lease.retain()
    receiver.consume(60_000)
    receiver.make_room(20_000)
    assert changes == [True]
    other.release()
    await asyncio.sleep(0)
    assert changes == [True, False]
    assert bytes(receiver.pending) == b"begin"


async def test_a_small_first_read_without_budget_starves_too() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, BLOCK)
    other = pool.take()
    assert other is not None
    changes: list[bool] = []
    receiver = Receiver(pool, lambda: changes.append(receiver.starved))
    receiver.trust()
    fill(receiver, b"begin")
    receiver.make_room(20_000)
    pool.take_small(10).release()
    await asyncio.sleep(0)
    # Something came back, but not enough.
    assert changes == [True]
    other.release()
    await asyncio.sleep(0)
    assert changes == [True, False]


async def test_who_has_nothing_pending_holds_no_block() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, 2 * BLOCK)
    receiver = Receiver(pool, lambda: None)
    receiver.trust()
    fill(receiver, b"whole")
    receiver.consume(5)
    receiver.make_room(6)
    assert pool.in_use_bytes == 0


async def test_closing_gives_back_what_is_pending() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, 2 * BLOCK)
    receiver = Receiver(pool, lambda: None)
    receiver.trust()
    fill(receiver, b"half")
    receiver.close()
    assert pool.in_use_bytes == 0


async def test_a_connection_without_association_gets_memory_only_as_it_fills_it() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, 64 * BLOCK)
    receiver = Receiver(pool, lambda: None)
    claimed, sent = 1 << 20, b"\x01" * 100_000
    fill(receiver, sent[:2])
    receiver.make_room(claimed)
    assert pool.in_use_bytes <= 4096
    at = 2
    while at < len(sent):
        size = min(len(receiver.room()), len(sent) - at)
        view = fill(receiver, sent[at : at + size])
        at += size
        assert bytes(view) == sent[:at]
        receiver.make_room(claimed)
        assert pool.in_use_bytes <= 4 * at + 4096


async def test_an_idle_connection_keeps_the_begin_of_a_pdu_in_little_memory() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, 2 * BLOCK)
    receiver = Receiver(pool, lambda: None)
    receiver.trust()
    fill(receiver, b"begin")
    receiver.rest()
    assert pool.in_use_bytes <= 4096
    assert bytes(fill(receiver, b"end")) == b"beginend"
    receiver.make_room(20_000)
    assert len(receiver.room()) >= 20_000 - 8


async def test_a_pdu_that_the_budget_can_never_hold_is_refused_at_once() -> None:
    pool = BufferPool(asyncio.get_running_loop(), BLOCK, 2 * BLOCK)
    receiver = Receiver(pool, lambda: None)
    receiver.trust()
    fill(receiver, b"begin")
    with pytest.raises(RemoteProtocolError, match=r"limits\.receive_buffer_bytes"):
        receiver.make_room(2 * BLOCK)
    receiver.close()
    assert pool.in_use_bytes == 0
