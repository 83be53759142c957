"""One association without I/O: the façade over framing, PDUs and the state machine.

The caller owns the socket and the clock. It gives received bytes to ``receive``, time to
``handle_timer``, then takes ``take_events`` and ``take_output`` and, once the output is written,
closes the connection if ``should_close``. What the peer sends never raises; what our own side
asks for at the wrong time raises LocalProtocolError and changes nothing.
"""

from __future__ import annotations

from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from dicomnode.ul.events import DataIndication, Event
from dicomnode.ul.framing import HEADER_LENGTH, fragment_size, p_data, read_header
from dicomnode.ul.fsm import REFUSED, Evt, Role, State, StateMachine, unexpected
from dicomnode.ul.items import MaximumLength
from dicomnode.ul.pdu import (
    AAssociateAC,
    AAssociateRJ,
    AAssociateRQ,
    Buffer,
    PDUType,
    Rejection,
    abort_pdu,
    decode_pdu,
    join_p_data,
)

__all__ = ["Association", "Role", "State"]

_EVENT_OF_PDU: dict[int, Evt] = {
    PDUType.A_ASSOCIATE_RQ: Evt.A_ASSOCIATE_RQ_PDU,
    PDUType.A_ASSOCIATE_AC: Evt.A_ASSOCIATE_AC_PDU,
    PDUType.A_ASSOCIATE_RJ: Evt.A_ASSOCIATE_RJ_PDU,
    PDUType.P_DATA_TF: Evt.P_DATA_TF_PDU,
    PDUType.A_RELEASE_RQ: Evt.A_RELEASE_RQ_PDU,
    PDUType.A_RELEASE_RP: Evt.A_RELEASE_RP_PDU,
    PDUType.A_ABORT: Evt.A_ABORT_PDU,
}


_WITHOUT_CONNECTION = (State.STA1, State.STA4)


class Association:
    """One association, from the transport connection to its close (PS3.8 §9.2).

    ``maximum_length`` is what we advertise for P-DATA-TF (bytes of its variable field; 0 is no
    limit), ``artim_seconds`` the ARTIM timer. ``peer_maximum_length`` is read from the peer's
    A-ASSOCIATE PDU and may be lowered by the user. Times are monotonic seconds.
    """

    def __init__(self, role: Role, *, maximum_length: int, artim_seconds: float = 30.0) -> None:
        self.role = role
        self.maximum_length = maximum_length
        self.peer_maximum_length = 0
        self._machine = StateMachine(role, artim_seconds)
        self._request: AAssociateRQ | None = None
        self._bytes_wanted = HEADER_LENGTH
        self._deaf = False

    @property
    def state(self) -> State:
        """The state of Tables 9-1 to 9-5."""
        return self._machine.state

    @property
    def should_close(self) -> bool:
        """Whether the connection is to be closed once the output is written."""
        return self._machine.should_close

    @property
    def bytes_wanted(self) -> int:
        """Bytes, header included, of the PDU that ``receive`` left unfinished; 6 without header."""
        return self._bytes_wanted

    def take_events(self) -> list[Event]:
        """Take the events since the last call, in their order."""
        events, self._machine.events = self._machine.events, []
        return events

    def take_output(self) -> list[Buffer]:
        """Take the buffers to be written, in their order."""
        output, self._machine.output = self._machine.output, []
        return output

    def timer(self) -> float | None:
        """Return when ``handle_timer`` is to be called next."""
        return self._machine.deadline

    def handle_timer(self, now: float) -> None:
        """Let ARTIM expire if its time has come; earlier calls do nothing."""
        deadline = self._machine.deadline
        if deadline is not None and now >= deadline:
            self._machine.handle(Evt.ARTIM_EXPIRED, now)

    def connection_made(self, now: float) -> None:
        """The transport connection is open: send our request, or await the peer's."""
        if self.role is Role.REQUESTOR:
            self._machine.handle(Evt.TRANSPORT_CONFIRMATION, now, self._request)
        else:
            self._machine.handle(Evt.TRANSPORT_INDICATION, now)

    def connection_lost(self, now: float) -> None:
        """The transport connection is closed, by whichever side."""
        if self.state is not State.STA1:
            self._machine.handle(Evt.TRANSPORT_CLOSED, now)

    def receive(self, data: memoryview, now: float, most_pdus: int = 0) -> int:
        """Take whole PDUs from the front of ``data`` and return how many bytes they were.

        Never raises for what the peer sent. The caller offers the rest again with what follows;
        ``bytes_wanted`` says how much that must be: less than the rest when ``most_pdus`` (0 is
        no limit) were taken and there may be more. When the connection is to end, or the peer
        cannot be followed any more, everything is consumed.
        """
        offset, end = 0, len(data)
        left = most_pdus or -1
        self._bytes_wanted = HEADER_LENGTH
        try:
            while left and end - offset >= HEADER_LENGTH and self._listening():
                left -= 1
                pdu_type, length = read_header(data, offset, self.maximum_length)
                self._refuse_unexpected(pdu_type)
                start = offset + HEADER_LENGTH
                if length > end - start:
                    self._bytes_wanted = HEADER_LENGTH + length
                    return offset
                offset = start + length
                self._receive_pdu(pdu_type, data[start:offset], now)
        except RemoteProtocolError as fault:
            self._deaf = True
            self._machine.handle(Evt.INVALID_PDU, now, fault)
        return offset if self._listening() else end

    def request(self, request: AAssociateRQ, now: float) -> None:
        """Ask for an association; it goes out when the connection is made."""
        if self.role is not Role.REQUESTOR:
            raise LocalProtocolError("an acceptor does not request associations")
        request.encode()  # What cannot be encoded fails here, before anything is dialled.
        self._machine.handle(Evt.A_ASSOCIATE_REQUEST, now)
        self._request = request

    def accept(self, response: AAssociateAC, now: float) -> None:
        """Answer an AssociateIndication with A-ASSOCIATE-AC.

        From now on ``maximum_length`` is what ``response`` advertises.
        """
        self._machine.handle(Evt.A_ASSOCIATE_ACCEPT, now, response)
        advertised = response.find(MaximumLength)
        self.maximum_length = advertised.maximum_length if advertised else 0

    def reject(self, rejection: Rejection, now: float) -> None:
        """Answer an AssociateIndication with A-ASSOCIATE-RJ."""
        self._machine.handle(Evt.A_ASSOCIATE_REJECT, now, AAssociateRJ.of(rejection))

    @property
    def fragment_bytes(self) -> int:
        """How many bytes of data go into one PDU to this peer."""
        return fragment_size(self.peer_maximum_length)

    def send_data(
        self, context_id: int, data: Buffer, *, is_command: bool, is_last: bool = True
    ) -> None:
        """Send a command set or data set, or with ``is_last`` false what does not yet end it.

        It is cut into P-DATA-TF PDUs of the peer's maximum length; the data go to the output as
        views of where they lie.
        """
        buffers = p_data(
            context_id, data, self.peer_maximum_length, is_command=is_command, is_last=is_last
        )
        self._machine.handle(Evt.P_DATA_REQUEST, 0.0, buffers)

    def release(self, now: float) -> None:
        """Ask for the release of the association."""
        self._machine.handle(Evt.A_RELEASE_REQUEST, now)

    def respond_release(self, now: float) -> None:
        """Answer a ReleaseIndication."""
        self._machine.handle(Evt.A_RELEASE_RESPONSE, now)

    def abort(self, source: int, reason: int, now: float) -> None:
        """Send A-ABORT (codes of Table 9-26) and wait for the peer to close."""
        self._machine.handle(Evt.A_ABORT_REQUEST, now, abort_pdu(source, reason))

    def _listening(self) -> bool:
        return not self._deaf and self._machine.state not in _WITHOUT_CONNECTION

    def _refuse_unexpected(self, pdu_type: int) -> None:
        """Refuse from the header alone what Table 9-10 aborts in this state."""
        if (_EVENT_OF_PDU[pdu_type], self._machine.state) in REFUSED:
            raise unexpected(PDUType(pdu_type), self.state)

    def _receive_pdu(self, pdu_type: int, body: memoryview, now: float) -> None:
        if pdu_type == PDUType.P_DATA_TF:
            values = tuple([DataIndication(*fields) for fields in join_p_data(body)])
            self._machine.handle(Evt.P_DATA_TF_PDU, now, values)
            return
        pdu = decode_pdu(pdu_type, body)
        if isinstance(pdu, AAssociateRQ | AAssociateAC):
            maximum = pdu.find(MaximumLength)
            self.peer_maximum_length = maximum.maximum_length if maximum else 0
        self._machine.handle(_EVENT_OF_PDU[pdu.TYPE], now, pdu)
