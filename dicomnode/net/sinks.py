"""What stands between a connection and the sink of a service."""

from __future__ import annotations

from dicomnode.dimse.channel import DataSetSink, Lease
from dicomnode.net.buffers import BufferPool

# Smaller fragments are joined: each would cost its sink some hundred bytes, and would keep a
# whole receive buffer from being used again.
_SMALL_BYTES = 1024
_JOINED_BYTES = 16 * 1024


class Joining:
    """Hands fragments on to ``sink``, joining the small ones by copying them."""

    __slots__ = ("_joined", "_pool", "_sink")

    def __init__(self, sink: DataSetSink, pool: BufferPool) -> None:
        self._sink = sink
        self._pool = pool
        self._joined = bytearray()

    def write(self, fragment: memoryview, lease: Lease) -> None:
        if len(fragment) < _SMALL_BYTES:
            self._joined += fragment
            if len(self._joined) >= _JOINED_BYTES:
                self._hand_on()
            return
        self._hand_on()
        self._sink.write(fragment, lease)

    def finish(self) -> None:
        self._hand_on()
        self._sink.finish()

    def abandon(self, why: str) -> None:
        self._sink.abandon(why)

    def _hand_on(self) -> None:
        if not self._joined:
            return
        block = self._pool.take_small(len(self._joined))
        block.view[:] = self._joined
        self._joined.clear()
        try:
            self._sink.write(block.view, block)
        finally:
            block.release()


class Discarding:
    """Swallows the data set of a message that was answered by its command alone."""

    def write(self, fragment: memoryview, lease: Lease) -> None:
        pass

    def finish(self) -> None:
        pass

    def abandon(self, why: str) -> None:
        pass
