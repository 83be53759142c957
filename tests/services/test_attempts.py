"""Passcodes are compared a few at a time, and many wrong ones take little."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dicomnode.services import attempts as module
from dicomnode.services.attempts import Attempts, TooManyAttempts


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.asyncio, "sleep", clock.sleep)
    return clock


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def test_what_was_right_is_known_for_a_while(
    threads: ThreadPoolExecutor, clock: Clock
) -> None:
    attempts, asked = Attempts(threads, lambda: clock.now), []

    def right() -> bool:
        asked.append(1)
        return True

    for _ in range(3):
        assert await attempts.is_right("a", b"claim", right)
    assert len(asked) == 1
    clock.now += 301
    assert await attempts.is_right("a", b"claim", right)
    attempts.forget()
    assert await attempts.is_right("a", b"claim", right)
    assert len(asked) == 3


async def test_wrong_ones_make_their_address_wait_ever_longer_up_to_a_bound(
    threads: ThreadPoolExecutor, clock: Clock
) -> None:
    attempts = Attempts(threads, lambda: clock.now)
    times = []
    for number in range(7):
        assert not await attempts.is_right("a", b"%d" % number, lambda: False)
        times.append(clock.now)
    waited = [after - before for before, after in itertools.pairwise(times)]
    assert waited == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    before = clock.now
    assert not await attempts.is_right("b", b"x", lambda: False)
    assert clock.now == before, "another address does not wait for it"


async def test_a_right_one_ends_the_waiting(threads: ThreadPoolExecutor, clock: Clock) -> None:
    attempts = Attempts(threads, lambda: clock.now)
    await attempts.is_right("a", b"1", lambda: False)
    assert await attempts.is_right("a", b"2", lambda: True)
    before = clock.now
    await attempts.is_right("a", b"3", lambda: False)
    assert clock.now == before


async def test_only_so_many_wait_of_one_address_and_in_all(threads: ThreadPoolExecutor) -> None:
    attempts, go = Attempts(threads, asyncio.get_running_loop().time), threading.Event()

    def compare() -> bool:
        go.wait(10)
        return True

    def begin(address: str, claim: int) -> asyncio.Task[bool]:
        return asyncio.create_task(attempts.is_right(address, b"%d" % claim, compare))

    waiting = [begin(f"10.0.0.{number // 4}", number) for number in range(32)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyAttempts):
        await attempts.is_right("10.0.0.0", b"x", compare)
    with pytest.raises(TooManyAttempts):
        await attempts.is_right("192.0.2.1", b"y", compare)
    go.set()
    assert all(await asyncio.gather(*waiting))
    assert await attempts.is_right("10.0.0.0", b"x", compare)


async def test_who_leaves_before_the_answer_has_tried_all_the_same(
    threads: ThreadPoolExecutor,
) -> None:
    clock = Clock()
    attempts, begun, go = Attempts(threads, lambda: clock.now), threading.Event(), threading.Event()

    def compare() -> bool:
        begun.set()
        go.wait(10)
        return False

    task = asyncio.create_task(attempts.is_right("a", b"1", compare))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert attempts._addresses["a"].next_at == pytest.approx(0.25)
    assert attempts._waiting == attempts._addresses["a"].waiting == 0


async def test_what_is_remembered_is_bounded(threads: ThreadPoolExecutor, clock: Clock) -> None:
    attempts = Attempts(threads, lambda: clock.now)
    for number in range(5000):
        await attempts.is_right(f"{number}", b"%d" % number, lambda: True)
    assert len(attempts._addresses) <= 4096 and len(attempts._known) <= 1024
