"""Where the bytes of connections can be listened to: as the upper layer takes and makes them.

That is after decryption, whatever the connection is. Without a tap it costs one look for None at
each read and write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Address = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The two ends of a connection; ``requested`` is whether we made it."""

    ours: Address
    theirs: Address
    requested: bool
    encrypted: bool


class Tap(Protocol):
    """Listens to one connection. Copies what it keeps, returns at once, and raises nothing."""

    def begins(self, peer_ae_title: str) -> bool:
        """The peer's AE title is known now; False when it is not to be listened to."""

    def received(self, data: memoryview) -> None:
        """The upper layer has taken ``data``, which is valid until this returns."""

    def sent(self, buffers: Sequence[bytes | memoryview]) -> None:
        """The upper layer has handed ``buffers`` to the transport."""

    def ended(self, unread: memoryview) -> None:
        """The connection is closed; ``unread`` came and was not taken."""


class Taps(Protocol):
    """Decides which connections are listened to."""

    @property
    def is_listening(self) -> bool:
        """Whether any new connection may be listened to; asked of each."""

    def connected(self, ends: Ends) -> Tap | None:
        """A connection has been made; None: it is not listened to."""
