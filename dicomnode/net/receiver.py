"""What one connection has received and its association not yet consumed, in a pooled block."""

from __future__ import annotations

from collections.abc import Callable

from dicomnode.errors import RemoteProtocolError
from dicomnode.net.buffers import Block, BufferPool

# A block with less room than this is given up for a fresh one.
_MINIMUM_ROOM_BYTES = 32 * 1024
# What a connection may take in before it is trusted with a pooled block, or while there is none.
_SMALL_BYTES = 4 * 1024


class Receiver:
    """Keeps the incomplete PDU contiguous, so that whole PDUs are found in place.

    Until ``trust`` a connection gets memory only as it fills it, whatever length a PDU claims:
    who has no association yet may be anybody. ``on_starved`` is called when the pool has no
    block for the rest of a PDU, and when it has one again; in between ``starved`` is true and
    the connection must not read.
    """

    def __init__(self, pool: BufferPool, on_starved: Callable[[], None]) -> None:
        self.starved = False
        self._pool = pool
        self._on_starved = on_starved
        self._trusted = False
        self._block: Block | None = None
        self._start = 0
        self._end = 0
        self._wanted_bytes = 0

    @property
    def block(self) -> Block:
        """The block that ``pending`` is a view of: the lease of what is in it."""
        assert self._block is not None
        return self._block

    @property
    def is_empty(self) -> bool:
        """Whether everything received has been consumed."""
        return self._start == self._end

    def trust(self) -> None:
        """From now on take a whole block at once, so that large PDUs are not copied."""
        self._trusted = True

    def room(self) -> memoryview:
        """Return where the next bytes are to be received."""
        block = self._block
        if block is None:
            pooled = self._pool.take() if self._trusted else None
            block = self._block = pooled or self._pool.take_small(_SMALL_BYTES)
            self._start = self._end = 0
        return block.view[self._end :]

    @property
    def size_bytes(self) -> int:
        """How long ``pending`` is."""
        return self._end - self._start

    @property
    def pending(self) -> memoryview:
        """All that was received and is not consumed."""
        return self.block.view[self._start : self._end] if self._block else memoryview(b"")

    def count(self, size_bytes: int) -> None:
        """Count in what was received into ``room``."""
        self._end += size_bytes

    def consume(self, size_bytes: int) -> None:
        """Drop the first bytes of ``pending``."""
        self._start += size_bytes

    def make_room(self, wanted_bytes: int) -> None:
        """Provide for the next read; an incomplete PDU has ``wanted_bytes`` altogether.

        Raises RemoteProtocolError for a PDU that the pool can never hold.
        """
        block = self._block
        if block is None:
            return
        if self.is_empty:
            if not block.shared or len(block.view) - self._end < _MINIMUM_ROOM_BYTES:
                self.rest()
            return
        if not self._trusted:
            if self._end < len(block.view):
                return
            wanted_bytes = min(wanted_bytes, 2 * len(block.view))
        if self._start + wanted_bytes > len(block.view) and not self._move(block, wanted_bytes):
            self._refuse_impossible(block, wanted_bytes)
            self.starved = True
            self._wanted_bytes = wanted_bytes
            self._pool.wait(self._wanted_bytes, self._try_again)
            self._on_starved()

    def _move(self, block: Block, wanted_bytes: int) -> bool:
        """Bring the incomplete PDU to the front of a block that can hold it; False without one."""
        pending = self._end - self._start
        if not block.shared and wanted_bytes <= len(block.view):
            block.view[:pending] = bytes(block.view[self._start : self._end])
        else:
            small = not self._trusted and wanted_bytes < self._pool.block_bytes
            take = self._pool.take_small if small else self._pool.take
            fresh = take(wanted_bytes)
            if fresh is None:
                return False
            fresh.view[:pending] = block.view[self._start : self._end]
            block.release()
            self._block = fresh
        self._start, self._end = 0, pending
        return True

    def _refuse_impossible(self, block: Block, wanted_bytes: int) -> None:
        """Refuse what no wait makes room for; ``block`` is held while its content is moved."""
        pool = self._pool
        held = len(block.view) if len(block.view) >= pool.block_bytes else 0
        if wanted_bytes > pool.block_bytes and held + wanted_bytes > pool.limit_bytes:
            raise RemoteProtocolError(
                f"a PDU of {wanted_bytes} bytes does not fit into {pool.limit_bytes} bytes of"
                " receive buffers (limits.receive_buffer_bytes)"
            )

    def rest(self) -> None:
        """Give a block back when next to nothing in it is waiting: idle connections hold none."""
        block, pending = self._block, self._end - self._start
        if block is None or pending > _SMALL_BYTES // 2 or self.starved:
            return
        small = None
        if pending:
            if len(block.view) <= _SMALL_BYTES:
                return
            small = self._pool.take_small(_SMALL_BYTES)
            small.view[:pending] = block.view[self._start : self._end]
        block.release()
        self._block = small
        self._start, self._end = 0, pending

    def close(self) -> None:
        """Drop what is pending and give the block back; whoever goes on is as at the beginning."""
        self._trusted = False
        self._pool.forget(self._try_again)
        self.starved = False
        self._start = self._end
        self.rest()

    def _try_again(self) -> None:
        if self._move(self.block, self._wanted_bytes):
            self.starved = False
            self._on_starved()
        else:
            self._pool.wait(self._wanted_bytes, self._try_again)
