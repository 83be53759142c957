"""How much passes over one connection, and how fast."""

from __future__ import annotations

# A rate is of about the last seconds: each look at it counts for as much as this many of them.
_MEMORY_SECONDS = 4.0


class Traffic:
    """Bytes since the connection was made, and the rates of the last seconds.

    Rates are bytes a second as of the last ``tick``; ``now`` is monotonic, in seconds.
    """

    __slots__ = (
        "_at",
        "_received_before",
        "_sent_before",
        "_started",
        "received_bytes",
        "received_rate",
        "sent_bytes",
        "sent_rate",
    )

    def __init__(self, now: float) -> None:
        self.received_bytes = self.sent_bytes = 0
        self.received_rate = self.sent_rate = 0.0
        self._received_before = self._sent_before = 0
        self._started = self._at = now

    def tick(self, now: float) -> None:
        """Work the rates out anew; called about once a second."""
        seconds = now - self._at
        if seconds <= 0:
            return
        # Until there is as much to remember, all of it counts alike.
        weight = seconds / max(seconds, min(_MEMORY_SECONDS, now - self._started))
        received = (self.received_bytes - self._received_before) / seconds
        sent = (self.sent_bytes - self._sent_before) / seconds
        self.received_rate += weight * (received - self.received_rate)
        self.sent_rate += weight * (sent - self.sent_rate)
        self._received_before, self._sent_before = self.received_bytes, self.sent_bytes
        self._at = now
