"""The protocols at which ``net`` and ``services`` meet.

``net`` asks an ``Admission`` who may associate, gives each established association to a
``Provider`` as a ``Channel``, and tells the ``Handler`` that it gets back what arrives. All
calls run on the event loop and return at once. Memory travels as memoryviews into pooled receive
buffers: a view is valid until the call returns, and longer only while the ``Lease`` that came
with it is retained.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dicomnode.certificates import Expected, Secured
from dicomnode.dimse.command import Command
from dicomnode.errors import AssociationError
from dicomnode.ul.items import (
    AsynchronousOperationsWindow,
    ExtendedNegotiation,
    PresentationContextRQ,
    RoleSelection,
)
from dicomnode.ul.negotiation import Negotiated
from dicomnode.ul.pdu import AAssociateRQ, Rejection


class Lease(Protocol):
    """Keeps a receive buffer from being used again; may be called from any thread."""

    def retain(self) -> None:
        """Keep the buffer; each call needs one ``release``."""

    def release(self) -> None:
        """Give the buffer back; its views must not be touched afterwards."""


# A sink gets at least as much at once, until the last fragment: enough for it to set to work, so
# that what it has not yet begun to write never keeps receive buffers from others.
LOT_BYTES = 96 * 1024


class DataSetSink(Protocol):
    """Takes the data set of one message as it arrives.

    Fragments come in lots of ``LOT_BYTES`` or more, the last ones in a smaller lot before
    ``finish``. A sink must let go of a lot by itself: enough of them kept for what follows would
    use up the receive buffers.
    """

    def write(self, fragment: memoryview, lease: Lease) -> None:
        """Take the next fragment; retain ``lease`` to keep ``fragment`` beyond this call."""

    def finish(self) -> None:
        """The last fragment has been written: the message is whole."""

    def abandon(self, why: str) -> None:
        """The association ended first: drop what was taken."""


class DataSetSource(Protocol):
    """A data set to be sent that does not fit into one piece of memory."""

    async def read(self) -> bytes | memoryview:
        """Return the next piece, empty at the end; it is not touched afterwards.

        Whatever it raises ends the association, as the message can be neither finished nor left.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far one operation is, without anything about patients.

    ``service`` is "C-STORE" and the like, ``by_peer`` whether the peer asked for it; ``started`` is
    monotonic, in seconds. ``figures`` are such as ``completed`` or ``received_bytes``.
    """

    service: str
    message_id: int
    by_peer: bool
    started: float
    figures: Mapping[str, int | str] = field(default_factory=dict)


class Traffic(Protocol):
    """How many bytes have passed over a connection; rates are bytes a second, of late."""

    received_bytes: int
    sent_bytes: int
    received_rate: float
    sent_rate: float


class Channel(Protocol):
    """One established association as the services see it.

    ``number`` counts associations since start, ``negotiated`` is the outcome of negotiation
    (PS3.8 §7.1.1), ``peer_address`` the peer's IP address, ``secured`` the TLS of the connection.
    """

    number: int
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    negotiated: Negotiated
    secured: Secured | None

    @property
    def peer_ae_title(self) -> str:
        """The AE title of the other side, whichever side asked for the association."""

    def send(
        self, context_id: int, command: Command, data_set: bytes | memoryview | None = None
    ) -> None:
        """Send one message; ignored when the association has ended meanwhile.

        ``data_set`` must not change afterwards: it is sent from where it lies. While another
        message's data set is being streamed, this one waits for its end (PS3.8 Annex E).
        """

    async def stream(self, context_id: int, command: Command, data_set: DataSetSource) -> None:
        """Send one message, reading ``data_set`` no faster than the peer takes it.

        Returns once all of it has been handed to the transport, or the association has ended.
        """

    @property
    def traffic(self) -> Traffic:
        """What has passed over the connection."""

    def progress(self) -> Sequence[Progress]:
        """Return the operations that are under way, whoever asked for them."""

    @property
    def is_blocked(self) -> bool:
        """Whether what is sent now waits, for the peer or for the end of a stream."""

    async def drained(self) -> None:
        """Wait until the peer has read enough for more to be sent; returns at once when ended."""

    def pause(self) -> None:
        """Stop reading from the peer (back-pressure); calls nest."""

    def resume(self) -> None:
        """Undo one ``pause``."""

    async def release(self) -> None:
        """Ask for the release of an association that we requested, and wait for its end.

        Returns at once when it has ended already; gives up, with A-ABORT, after a deadline or
        when it is cancelled.
        """

    def abort(self, rule: str, *, source: int = 0, reason: int = 0) -> None:
        """End the association with A-ABORT; ``rule`` is the sentence for the log."""


class Handler(Protocol):
    """What the services do with one association."""

    @property
    def outstanding(self) -> int:
        """Operations that the peer asked for and that have no final response yet."""

    def message(self, context_id: int, command: Command) -> DataSetSink | None:
        """A command arrived; its data set, if it has one, goes to the sink returned.

        Raises RemoteProtocolError when the message may not be sent here (answered by A-ABORT).
        """

    def progress(self) -> Sequence[Progress]:
        """Return the operations that are under way, whoever asked for them."""

    def closed(self, why: str) -> None:
        """The association has ended; ``why`` is a sentence, or words such as "released"."""


class Provider(Protocol):
    """Makes a handler for each association that has been accepted."""

    def established(self, channel: Channel) -> Handler:
        """An association has been accepted on ``channel``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """An association that we ask for: whom, as whom, for what (PS3.8 §7.1.1).

    ``window`` and ``extended`` are the further negotiation of PS3.7 §D.3.3.3 and §D.3.3.5.
    ``tls`` says whose certificate is expected; None: no TLS.
    """

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[PresentationContextRQ, ...]
    roles: tuple[RoleSelection, ...] = ()
    window: AsynchronousOperationsWindow | None = None
    extended: tuple[ExtendedNegotiation, ...] = ()
    tls: Expected | None = None


class Requestor(Protocol):
    """Makes associations with other nodes."""

    async def associate(self, proposal: Proposal, provider: Provider) -> Channel:
        """Connect and negotiate; what arrives goes to the handler that ``provider`` makes.

        Raises AssociationError: ConnectionFailed, AssociationRejected, AssociationAborted, or
        AssociationTimedOut. The message names the peer and is fit for the log.
        """


@dataclass(frozen=True, slots=True)
class Admitted:
    """The association may be made; ``release`` gives its slot back and is called exactly once."""

    negotiated: Negotiated
    release: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Refused:
    """The association may not be made; ``why`` names the rule for the log.

    ``reason`` tells rules of ours apart that the standard has no words of their own for. ``rule``
    is the setting that decided, for metrics, "" where none did; ``advice`` is what to change, as a
    sentence, "" where the words of the rejection say enough.
    """

    rejection: Rejection
    why: str
    reason: str = ""
    rule: str = ""
    advice: str = ""

    @property
    def words(self) -> str:
        """Say the reason in few words, for logs and metrics."""
        return self.reason or self.rejection.words


@dataclass(frozen=True, slots=True)
class Deferred:
    """Whether the association may be made takes time to find out; its slot is taken meanwhile.

    ``decide`` is awaited at most once. ``release`` is called exactly once, and nothing else gives
    the slot back.
    """

    decide: Callable[[], Awaitable[Negotiated | Refused]]
    release: Callable[[], None]


class Admission(Protocol):
    """Decides who may associate."""

    def admit(
        self, request: AAssociateRQ, peer_address: str, secured: Secured | None = None
    ) -> Admitted | Refused | Deferred:
        """Answer an A-ASSOCIATE indication; raises RemoteProtocolError for a malformed one."""


class Observer(Protocol):
    """Is told what happens to associations; keeps logs and metrics."""

    def accepted(self, channel: Channel) -> None:
        """An association has been established."""

    def rejected(self, peer_address: str, request: AAssociateRQ, refused: Refused) -> None:
        """An association request was answered with A-ASSOCIATE-RJ."""

    def ended(self, channel: Channel, how: str, why: str) -> None:
        """An established association ended; ``how`` is in the words of ``net.ending.How``."""

    def failed(self, peer_address: str, how: str, why: str) -> None:
        """A connection ended before there was an association."""


class RequestObserver(Protocol):
    """Is told what happens to associations that we ask for; keeps logs and metrics."""

    def requested(self, channel: Channel) -> None:
        """An association that we asked for has been established."""

    def request_failed(self, proposal: Proposal, error: AssociationError) -> None:
        """An association that we asked for was not established; ``error`` names the peer."""

    def request_ended(self, channel: Channel, how: str, why: str) -> None:
        """An association that we asked for has ended, in the words of ``Observer.ended``."""
