"""How connections and associations end, and how long a peer may take."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dicomnode.tls.faults import TLSFault


class How(StrEnum):
    """How a connection or the association on it ended; the words are also metric labels."""

    RELEASED = "released"
    REJECTED = "rejected"
    PEER_ABORTED = "aborted by peer"
    ABORTED = "aborted"
    PROTOCOL_ERROR = "protocol error"
    TIMED_OUT = "timed out"
    SHUT_DOWN = "shut down"
    LOST = "connection lost"


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended, and the sentence for the log that says why; ``fault``: what TLS failed of."""

    how: How
    why: str = ""
    fault: TLSFault | None = None


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a peer may take, in seconds."""

    artim: float
    pdu: float
    idle: float
    write: float
    connect: float
    response: float
