"""What an association tells its user: the indications and confirmations of PS3.8 §7.

One frozen dataclass each. ``rule`` is a sentence for the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from dicomnode.ul.pdu import AAssociateAC, AAssociateRJ, AAssociateRQ


@dataclass(frozen=True, slots=True)
class AssociateIndication:
    """The peer asks for an association; answer with ``accept`` or ``reject``."""

    request: AAssociateRQ


@dataclass(frozen=True, slots=True)
class AssociateAccepted:
    """The peer accepted our request."""

    response: AAssociateAC


@dataclass(frozen=True, slots=True)
class AssociateRejected:
    """The peer rejected our request; the association is over."""

    response: AAssociateRJ


@dataclass(frozen=True, slots=True)
class DataIndication:
    """One presentation data value arrived.

    ``data`` is a view into the buffer that was given to ``receive``: it is valid as long as
    the caller keeps that buffer's bytes.
    """

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


@dataclass(frozen=True, slots=True)
class ReleaseIndication:
    """The peer asks for release; answer with ``respond_release``.

    ``collision``: we have asked for release too (PS3.8 §9.2, Sta9 and Sta10). The acceptor of
    the association then answers only when its own ReleaseConfirmation has come.
    """

    collision: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseConfirmation:
    """The peer answered our release."""


@dataclass(frozen=True, slots=True)
class AbortIndication:
    """The association ended by A-ABORT, from the peer or from us on the peer's fault."""

    source: int
    reason: int
    by_peer: bool
    rule: str


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The association ended without A-ABORT: connection lost, or ARTIM expired before it began."""

    rule: str = ""


Event: TypeAlias = (
    AssociateIndication
    | AssociateAccepted
    | AssociateRejected
    | DataIndication
    | ReleaseIndication
    | ReleaseConfirmation
    | AbortIndication
    | ConnectionClosed
)
