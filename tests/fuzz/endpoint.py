"""The smallest user of ``ul`` and ``dimse`` joined, and a valid association to damage.

``Endpoint`` does what the shell around an association does, without sockets and clock, and
checks at every step what hostile bytes must never change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dicomnode.dimse.command import CEchoRQ, Command, CStoreRQ, answer, encode_command
from dicomnode.dimse.command import Request as DimseRequest
from dicomnode.dimse.message import CommandReceived, DataFragment, MessageReader
from dicomnode.errors import RemoteProtocolError
from dicomnode.ul.association import Association, Role, State
from dicomnode.ul.events import (
    AbortIndication,
    AssociateAccepted,
    AssociateIndication,
    AssociateRejected,
    ConnectionClosed,
    DataIndication,
    Event,
    ReleaseIndication,
)
from dicomnode.ul.framing import HEADER_LENGTH, MAXIMUM_ASSOCIATE_LENGTH, p_data
from dicomnode.ul.items import (
    AsynchronousOperationsWindow,
    CommonExtendedNegotiation,
    ContextResult,
    ExtendedNegotiation,
    ImplementationClassUID,
    ImplementationVersionName,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
    RoleSelection,
    UserIdentityRQ,
)
from dicomnode.ul.negotiation import (
    AcceptorPolicy,
    Negotiated,
    SupportedContext,
    concluded,
    negotiate,
)
from dicomnode.ul.pdu import AAssociateAC, AAssociateRQ, Rejection, decode_pdu

MAXIMUM_LENGTH = 4096
NOW = 1000.0

VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

REQUEST = AAssociateRQ(
    "DICOMNODE",
    "CT_1",
    (
        PresentationContextRQ(1, VERIFICATION, (IMPLICIT_LITTLE_ENDIAN,)),
        PresentationContextRQ(
            3, CT_IMAGE_STORAGE, (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)
        ),
        PresentationContextRQ(5, "1.2.3", (IMPLICIT_LITTLE_ENDIAN,)),
    ),
    (
        MaximumLength(16384),
        ImplementationClassUID("1.2.276.0.7230010.3.0.3.6.7"),
        AsynchronousOperationsWindow(4, 1),
        RoleSelection(CT_IMAGE_STORAGE, True, True),
        ImplementationVersionName("OFFIS_DCMTK_367"),
        ExtendedNegotiation(CT_IMAGE_STORAGE, b"\2\0\0\0\0\0"),
        CommonExtendedNegotiation(CT_IMAGE_STORAGE, "1.2.840.10008.4.2", ("1.2.3.4",)),
        UserIdentityRQ(2, True, b"user", b"secret"),
    ),
)
RESPONSE = AAssociateAC(
    "DICOMNODE",
    "CT_1",
    tuple(
        PresentationContextAC(
            context.context_id, ContextResult.ACCEPTANCE, context.transfer_syntaxes[0]
        )
        for context in REQUEST.presentation_contexts
    ),
    (MaximumLength(16384), ImplementationClassUID("1.2.3"), AsynchronousOperationsWindow(2, 1)),
)
ECHO = CEchoRQ(message_id=1, affected_sop_class_uid=VERIFICATION)
STORE = CStoreRQ(
    message_id=2,
    affected_sop_class_uid=CT_IMAGE_STORAGE,
    affected_sop_instance_uid="1.2.3.4.5",
    has_data_set=True,
)
DATA_SET = bytes(range(256)) * 6
RELEASE = bytes.fromhex("05000000000400000000")


def message_pdus(
    context_id: int, command: Command, data_set: bytes | None, maximum_length: int = 1024
) -> list[bytes]:
    """One message as whole P-DATA-TF PDUs."""
    buffers = p_data(context_id, encode_command(command), maximum_length, is_command=True)
    if data_set is not None:
        buffers += p_data(context_id, data_set, maximum_length, is_command=False)
    return [head + bytes(data) for head, data in zip(buffers[::2], buffers[1::2], strict=True)]


#: The bytes of a requestor: association, C-ECHO, C-STORE with data, release; one item a PDU.
RECORDED: list[bytes] = [
    REQUEST.encode(),
    *message_pdus(1, ECHO, None),
    *message_pdus(3, STORE, DATA_SET),
    RELEASE,
]
#: The bytes of an acceptor: its answer, the responses, its release response.
RECORDED_ANSWER: list[bytes] = [
    RESPONSE.encode(),
    *message_pdus(1, answer(ECHO, 0), None),
    *message_pdus(3, answer(STORE, 0xA700, error_comment="disk full"), None),
    bytes.fromhex("06000000000400000000"),
]


def policy() -> AcceptorPolicy:
    supported = SupportedContext({IMPLICIT_LITTLE_ENDIAN, EXPLICIT_LITTLE_ENDIAN}, scu=True)
    classes = {VERIFICATION: supported, CT_IMAGE_STORAGE: supported}
    return AcceptorPolicy(
        calling_recognized=True,
        lookup=classes.get,
        maximum_length=MAXIMUM_LENGTH,
        implementation_class_uid="1.2.3",
        implementation_version_name="TEST",
        max_operations=8,
        extended=lambda item: item.info,
    )


@dataclass
class Endpoint:
    """One side of an association in memory."""

    role: Role = Role.ACCEPTOR
    commands: list[Command] = field(default_factory=list)
    data_sets: list[bytes] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    broken_rules: list[str] = field(default_factory=list)
    sent: bytes = b""

    def __post_init__(self) -> None:
        self.association = Association(self.role, maximum_length=MAXIMUM_LENGTH)
        self.reader: MessageReader | None = None
        self._pending = b""
        self._data_set = bytearray()
        if self.role is Role.REQUESTOR:
            self.association.request(REQUEST, NOW)
        self.association.connection_made(NOW)
        self._take_output()

    @property
    def is_over(self) -> bool:
        return self.association.state in (State.STA1, State.STA13)

    def receive(self, data: bytes) -> None:
        """Take what came from the peer, as the shell does: what is not consumed is offered again.

        Asserts that what has to be kept is less than one PDU of an admissible length.
        """
        offered = self._pending + data
        consumed = self.association.receive(memoryview(offered), NOW)
        assert 0 <= consumed <= len(offered)
        self._pending = offered[consumed:]
        wanted = self.association.bytes_wanted
        if self._pending:
            assert len(self._pending) < wanted
            assert wanted <= HEADER_LENGTH + max(MAXIMUM_LENGTH, MAXIMUM_ASSOCIATE_LENGTH)
        for event in self.association.take_events():
            self.events.append(event)
            self._handle(event)
        self._take_output()

    def close(self) -> None:
        """The peer closes the connection."""
        self.association.connection_lost(NOW)
        self.events += self.association.take_events()
        assert self.association.state is State.STA1
        assert self.association.timer() is None

    def _handle(self, event: Event) -> None:
        try:
            match event:
                case AssociateIndication(request):
                    self._associate(request)
                case AssociateAccepted(response):
                    self._established(concluded(REQUEST, response))
                case DataIndication():
                    self._read(event)
                case ReleaseIndication() if self.association.state is State.STA8:
                    self.association.respond_release(NOW)
                case _:
                    pass
        except RemoteProtocolError as error:
            self.broken_rules.append(error.rule)
            if not self.is_over:
                self.association.abort(error.source, error.reason, NOW)

    def _associate(self, request: AAssociateRQ) -> None:
        # Bytes behind the request may have ended the association before it is answered.
        if self.association.state is not State.STA3:
            return
        outcome = negotiate(request, policy())
        if isinstance(outcome, Rejection):
            self.association.reject(outcome, NOW)
            return
        self.association.accept(outcome.response, NOW)
        self._established(outcome)

    def _established(self, negotiated: Negotiated) -> None:
        self.reader = MessageReader(negotiated.contexts)

    def _read(self, fragment: DataIndication) -> None:
        if self.reader is None or self.broken_rules:
            return
        match self.reader.feed(fragment):
            case CommandReceived(context_id, command):
                self.commands.append(command)
                self._data_set.clear()
                if isinstance(command, DimseRequest):
                    self._respond(context_id, command)
            case DataFragment(data=data, is_last=is_last):
                self._data_set += data
                if is_last:
                    self.data_sets.append(bytes(self._data_set))
            case None:
                pass

    def _respond(self, context_id: int, request: DimseRequest) -> None:
        """Whatever a peer's request says, its response can be written."""
        encoded = encode_command(answer(request, 0))
        if self.association.state is not State.STA6:
            return
        self.association.send_data(context_id, encoded, is_command=True)

    def _take_output(self) -> None:
        self.sent += b"".join(self.association.take_output())

    def sent_pdus(self) -> list[object]:
        """Decode everything sent; it must be whole and valid PDUs."""
        pdus: list[object] = []
        rest = memoryview(self.sent)
        while rest:
            end = HEADER_LENGTH + int.from_bytes(rest[2:6], "big")
            assert len(rest) >= end
            pdus.append(decode_pdu(rest[0], rest[HEADER_LENGTH:end]))
            rest = rest[end:]
        return pdus

    def has_ended_once(self) -> bool:
        """Tell whether at most one event says that the association is over."""
        endings = (AbortIndication, ConnectionClosed, AssociateRejected)
        return sum(isinstance(event, endings) for event in self.events) <= 1
