"""What stands between a connection and the sink of a service."""

from __future__ import annotations

from dicomnode.dimse.channel import LOT_BYTES, DataSetSink, Lease
from dicomnode.net.buffers import BufferPool

# Smaller fragments are joined: each would cost its sink some hundred bytes.
_SMALL_BYTES = 1024
_JOINED_BYTES = 16 * 1024


class Gathering:
    """Hands fragments on to ``sink`` in lots; what is less than one can be copied out of the way.

    Were it left to lie in the receive buffers, enough connections with too little to write would
    hold all of them, and none could receive the rest.
    """

    __slots__ = ("_joined", "_kept", "_pool", "_sink", "_size_bytes")

    def __init__(self, sink: DataSetSink, pool: BufferPool) -> None:
        self._sink = sink
        self._pool = pool
        self._kept: list[tuple[memoryview, Lease]] = []
        # Follows what is kept.
        self._joined = bytearray()
        self._size_bytes = 0

    def write(self, fragment: memoryview, lease: Lease) -> None:
        size = len(fragment)
        if size >= LOT_BYTES and not self._size_bytes:
            self._sink.write(fragment, lease)
            return
        self._size_bytes += size
        if size < _SMALL_BYTES:
            self._joined += fragment
            if len(self._joined) >= _JOINED_BYTES:
                self._keep_joined()
        else:
            self._keep_joined()
            lease.retain()
            self._kept.append((fragment, lease))
        if self._size_bytes >= LOT_BYTES:
            self._hand_on()

    def let_go(self) -> None:
        """Copy what is kept, so that its receive buffers can be used again."""
        if self._kept:
            data = b"".join([*(fragment for fragment, _ in self._kept), self._joined])
            self._release()
            self._joined += data

    def finish(self) -> None:
        self._hand_on()
        self._sink.finish()

    def abandon(self, why: str) -> None:
        self._release()
        self._sink.abandon(why)

    def _hand_on(self) -> None:
        self._keep_joined()
        self._size_bytes = 0
        try:
            for fragment, lease in self._kept:
                self._sink.write(fragment, lease)
        finally:
            self._release()

    def _keep_joined(self) -> None:
        if self._joined:
            block = self._pool.take_small(len(self._joined))
            block.view[:] = self._joined
            self._joined.clear()
            self._kept.append((block.view, block))

    def _release(self) -> None:
        kept, self._kept = self._kept, []
        self._joined.clear()
        for _, lease in kept:
            lease.release()


class Discarding:
    """Swallows the data set of a message that was answered by its command alone."""

    def write(self, fragment: memoryview, lease: Lease) -> None:
        pass

    def let_go(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def abandon(self, why: str) -> None:
        pass
