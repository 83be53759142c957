"""Receive buffers: blocks of equal size out of one pool with a hard budget.

The pool is what bounds the memory of all associations together. Who finds it empty stops
reading and is called again when a block comes back.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

# Blocks kept for use again; what is idle beyond them goes back to the allocator.
_SPARE_BLOCKS = 32


class Block:
    """One receive buffer, counted by its users; the ``Lease`` of ``dimse.channel``.

    It goes back to its pool when the last user releases it. Any thread may retain and release.
    """

    __slots__ = ("_pool", "_uses", "view")

    def __init__(self, size_bytes: int, pool: BufferPool) -> None:
        self.view = memoryview(bytearray(size_bytes))
        self._pool = pool
        self._uses = 0

    def retain(self) -> None:
        with self._pool.lock:
            self._uses += 1

    def release(self) -> None:
        self._pool.give_back(self)

    @property
    def shared(self) -> bool:
        """Whether somebody besides the connection that fills it still reads from it."""
        return self._uses > 1


class BufferPool:
    """Blocks of ``block_bytes`` within ``limit_bytes`` altogether.

    ``take`` and ``wait`` belong to the event loop; blocks come back from any thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, block_bytes: int, limit_bytes: int) -> None:
        self.block_bytes = block_bytes
        self.limit_bytes = max(limit_bytes, block_bytes)
        self.lock = threading.Lock()
        self._loop = loop
        self._spare: list[Block] = []
        self._in_use_bytes = 0
        # Outside the budget, or the small blocks of who waits could keep it from ever being met.
        self._small_bytes = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._wake_scheduled = False

    @property
    def in_use_bytes(self) -> int:
        return self._in_use_bytes + self._small_bytes

    @property
    def is_short(self) -> bool:
        """Whether somebody waits for a block."""
        return bool(self._waiting)

    def take(self, size_bytes: int = 0) -> Block | None:
        """Return a block of at least ``size_bytes`` with one use, or None when the budget is spent.

        Nobody is served before those who wait. A block larger than ``block_bytes`` serves the
        rare long A-ASSOCIATE PDU, and who was promised a larger maximum length than others.
        """
        size = max(size_bytes, self.block_bytes)
        with self.lock:
            if self._waiting or self._in_use_bytes + size > self.limit_bytes:
                return None
            self._in_use_bytes += size
            if size == self.block_bytes and self._spare:
                block = self._spare.pop()
            else:
                block = Block(size, self)
            block._uses = 1
        return block

    def take_small(self, size_bytes: int) -> Block:
        """Return a small block whatever the budget says; its user stops reading until it may."""
        with self.lock:
            self._small_bytes += size_bytes
            block = Block(size_bytes, self)
            block._uses = 1
        return block

    def give_back(self, block: Block) -> None:
        """Drop one use of ``block``."""
        with self.lock:
            block._uses -= 1
            if block._uses == 0:
                size = len(block.view)
                if size < self.block_bytes:
                    self._small_bytes -= size
                else:
                    self._in_use_bytes -= size
                if size == self.block_bytes and len(self._spare) < _SPARE_BLOCKS:
                    self._spare.append(block)
            if not self._waiting or self._wake_scheduled:
                return
            self._wake_scheduled = True
        self._loop.call_soon_threadsafe(self._wake)

    def wait(self, size_bytes: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop once, after something has been given back.

        It may be called without a block of ``size_bytes`` being free; it then asks and waits
        again.
        """
        with self.lock:
            self._waiting.append((max(size_bytes, self.block_bytes), callback))
            # A block that came back between the caller's take() and now would wake nobody.
            self._wake_if_served()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back a ``wait``."""
        with self.lock:
            self._waiting = deque(entry for entry in self._waiting if entry[1] != callback)
            self._wake_if_served()

    def _wake_if_served(self) -> None:
        """Wake who waits when the first of them would get its block; the lock is held."""
        if not self._waiting or self._wake_scheduled:
            return
        if self._in_use_bytes + self._waiting[0][0] <= self.limit_bytes:
            self._wake_scheduled = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        with self.lock:
            self._wake_scheduled = False
            callbacks = list(self._waiting)
            self._waiting.clear()
        for _, callback in callbacks:
            callback()
