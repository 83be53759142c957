"""The state machine of the upper layer: PS3.8 §9.2, Tables 9-1 to 9-10.

Everything that changes an association's state is in this file. ``GRID`` is Table 9-10 as the
standard prints it, to be reviewed by eye; it is parsed at import. Each action's docstring is its
row of Tables 9-6 to 9-9. "Issue" appends to ``events``, "send" to ``output``; "close" sets
``should_close``.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TypeAlias

from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from dicomnode.ul.events import (
    AbortIndication,
    AssociateAccepted,
    AssociateIndication,
    AssociateRejected,
    ConnectionClosed,
    DataIndication,
    Event,
    ReleaseConfirmation,
    ReleaseIndication,
)
from dicomnode.ul.pdu import (
    PDU,
    AAbort,
    AAssociateAC,
    AAssociateRJ,
    AAssociateRQ,
    AbortReason,
    AbortSource,
    AReleaseRP,
    AReleaseRQ,
    Buffer,
    PDUType,
)


class Role(IntEnum):
    """Which side of the association we are (PS3.8 §7.1)."""

    REQUESTOR = 0
    ACCEPTOR = 1


class State(IntEnum):
    """Tables 9-1 to 9-5; ``words`` says the state in short."""

    STA1 = 1
    STA2 = 2
    STA3 = 3
    STA4 = 4
    STA5 = 5
    STA6 = 6
    STA7 = 7
    STA8 = 8
    STA9 = 9
    STA10 = 10
    STA11 = 11
    STA12 = 12
    STA13 = 13

    @property
    def words(self) -> str:
        """Say the state for logs."""
        return f"Sta{self.value} ({_STATE_WORDS[self]})"


_STATE_WORDS = {
    State.STA1: "idle",
    State.STA2: "awaiting A-ASSOCIATE-RQ",
    State.STA3: "awaiting our answer to A-ASSOCIATE-RQ",
    State.STA4: "awaiting the transport connection",
    State.STA5: "awaiting the answer to A-ASSOCIATE-RQ",
    State.STA6: "association established",
    State.STA7: "awaiting A-RELEASE-RP",
    State.STA8: "awaiting our answer to A-RELEASE-RQ",
    State.STA9: "release collision, requestor: awaiting our answer",
    State.STA10: "release collision, acceptor: awaiting A-RELEASE-RP",
    State.STA11: "release collision, requestor: awaiting A-RELEASE-RP",
    State.STA12: "release collision, acceptor: awaiting our answer",
    State.STA13: "awaiting the close of the transport connection",
}


class Evt(IntEnum):
    """The rows of Table 9-10; ``PDU`` events come from the peer."""

    A_ASSOCIATE_REQUEST = 1
    TRANSPORT_CONFIRMATION = 2
    A_ASSOCIATE_AC_PDU = 3
    A_ASSOCIATE_RJ_PDU = 4
    TRANSPORT_INDICATION = 5
    A_ASSOCIATE_RQ_PDU = 6
    A_ASSOCIATE_ACCEPT = 7
    A_ASSOCIATE_REJECT = 8
    P_DATA_REQUEST = 9
    P_DATA_TF_PDU = 10
    A_RELEASE_REQUEST = 11
    A_RELEASE_RQ_PDU = 12
    A_RELEASE_RP_PDU = 13
    A_RELEASE_RESPONSE = 14
    A_ABORT_REQUEST = 15
    A_ABORT_PDU = 16
    TRANSPORT_CLOSED = 17
    ARTIM_EXPIRED = 18
    INVALID_PDU = 19


GRID = """
        Sta1   Sta2   Sta3   Sta4   Sta5   Sta6   Sta7   Sta8   Sta9   Sta10  Sta11  Sta12  Sta13
Evt1    AE-1
Evt2                         AE-2
Evt3           AA-1   AA-8          AE-3   AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-6
Evt4           AA-1   AA-8          AE-4   AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-6
Evt5    AE-5
Evt6           AE-6   AA-8          AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-7
Evt7                  AE-7
Evt8                  AE-8
Evt9                                       DT-1          AR-7
Evt10          AA-1   AA-8          AA-8   DT-2   AR-6   AA-8   AA-8   AA-8   AA-8   AA-8   AA-6
Evt11                                      AR-1
Evt12          AA-1   AA-8          AA-8   AR-2   AR-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-6
Evt13          AA-1   AA-8          AA-8   AA-8   AR-3   AA-8   AA-8   AR-10  AR-3   AA-8   AA-6
Evt14                                                    AR-4   AR-9                 AR-4
Evt15                 AA-1   AA-2   AA-1   AA-1   AA-1   AA-1   AA-1   AA-1   AA-1   AA-1
Evt16          AA-2   AA-3          AA-3   AA-3   AA-3   AA-3   AA-3   AA-3   AA-3   AA-3   AA-2
Evt17          AA-5   AA-4   AA-4   AA-4   AA-4   AA-4   AA-4   AA-4   AA-4   AA-4   AA-4   AR-5
Evt18          AA-2                                                                         AA-2
Evt19          AA-1   AA-8          AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-8   AA-7
"""


def parse_grid(grid: str) -> dict[tuple[Evt, State], str]:
    """Read Table 9-10 from its text: a cell belongs to the state it stands under."""
    header, *rows = grid.strip("\n").splitlines()
    columns = {state: header.index(f"Sta{state}") for state in State}
    table = {}
    for event, row in zip(Evt, rows, strict=True):
        assert row.split()[0] == f"Evt{event}"
        for state, column in columns.items():
            if action := row[column : column + 6].strip():
                table[event, state] = action
    return table


TABLE = parse_grid(GRID)

# What comes with an event: the PDU received or to be sent, the data of a P-DATA-TF, or the fault.
What: TypeAlias = PDU | tuple[DataIndication, ...] | list[Buffer] | RemoteProtocolError | None


class StateMachine:
    """State, ARTIM timer, events for the user and output for the transport of one association."""

    __slots__ = ("artim_seconds", "deadline", "events", "output", "role", "should_close", "state")

    def __init__(self, role: Role, artim_seconds: float) -> None:
        self.role = role
        self.artim_seconds = artim_seconds
        self.state = State.STA1
        self.deadline: float | None = None
        self.events: list[Event] = []
        self.output: list[Buffer] = []
        self.should_close = False

    def handle(self, event: Evt, now: float, what: What = None) -> None:
        """Do what Table 9-10 says of ``event``; LocalProtocolError where it says nothing."""
        action = ACTIONS.get((event, self.state))
        if action is None:
            name = event.name.replace("_", "-")
            raise LocalProtocolError(f"{name} is not allowed in {self.state.words}")
        self.state = action(self, now, what)

    def ae_1(self, now: float, what: What) -> State:
        """Issue TRANSPORT CONNECT request primitive to local transport service."""
        return State.STA4

    def ae_2(self, now: float, what: What) -> State:
        """Send A-ASSOCIATE-RQ-PDU."""
        self._send(what)
        return State.STA5

    def ae_3(self, now: float, what: What) -> State:
        """Issue A-ASSOCIATE confirmation (accept) primitive."""
        assert isinstance(what, AAssociateAC)
        self.events.append(AssociateAccepted(what))
        return State.STA6

    def ae_4(self, now: float, what: What) -> State:
        """Issue A-ASSOCIATE confirmation (reject) primitive and close transport connection."""
        assert isinstance(what, AAssociateRJ)
        self.events.append(AssociateRejected(what))
        self.should_close = True
        return State.STA1

    def ae_5(self, now: float, what: What) -> State:
        """Issue Transport connection response primitive; start ARTIM timer."""
        self._start_artim(now)
        return State.STA2

    def ae_6(self, now: float, what: What) -> State:
        """Stop ARTIM timer and, if A-ASSOCIATE-RQ acceptable by service-provider, issue
        A-ASSOCIATE indication primitive.

        The service-provider's own objection (protocol version) is found by negotiation and
        sent by AE-8, with the same bytes.
        """
        assert isinstance(what, AAssociateRQ)
        self.deadline = None
        self.events.append(AssociateIndication(what))
        return State.STA3

    def ae_7(self, now: float, what: What) -> State:
        """Send A-ASSOCIATE-AC PDU."""
        self._send(what)
        return State.STA6

    def ae_8(self, now: float, what: What) -> State:
        """Send A-ASSOCIATE-RJ PDU and start ARTIM timer."""
        self._send(what)
        self._start_artim(now)
        return State.STA13

    def dt_1(self, now: float, what: What) -> State:
        """Send P-DATA-TF PDU."""
        assert isinstance(what, list)
        self.output += what
        return State.STA6

    def dt_2(self, now: float, what: What) -> State:
        """Send P-DATA indication primitive."""
        assert isinstance(what, tuple)
        self.events += what
        return State.STA6

    def ar_1(self, now: float, what: What) -> State:
        """Send A-RELEASE-RQ PDU."""
        self._send(AReleaseRQ())
        return State.STA7

    def ar_2(self, now: float, what: What) -> State:
        """Issue A-RELEASE indication primitive."""
        self.events.append(ReleaseIndication())
        return State.STA8

    def ar_3(self, now: float, what: What) -> State:
        """Issue A-RELEASE confirmation primitive, and close transport connection."""
        self.events.append(ReleaseConfirmation())
        self.should_close = True
        return State.STA1

    def ar_4(self, now: float, what: What) -> State:
        """Issue A-RELEASE-RP PDU and start ARTIM timer."""
        self._send(AReleaseRP())
        self._start_artim(now)
        return State.STA13

    def ar_5(self, now: float, what: What) -> State:
        """Stop ARTIM timer."""
        self.deadline = None
        return State.STA1

    def ar_6(self, now: float, what: What) -> State:
        """Issue P-DATA indication."""
        self.dt_2(now, what)
        return State.STA7

    def ar_7(self, now: float, what: What) -> State:
        """Issue P-DATA-TF PDU."""
        self.dt_1(now, what)
        return State.STA8

    def ar_8(self, now: float, what: What) -> State:
        """Issue A-RELEASE indication (release collision): Sta9 if association-requestor,
        Sta10 if not."""
        self.events.append(ReleaseIndication(collision=True))
        return State.STA9 if self.role is Role.REQUESTOR else State.STA10

    def ar_9(self, now: float, what: What) -> State:
        """Send A-RELEASE-RP PDU."""
        self._send(AReleaseRP())
        return State.STA11

    def ar_10(self, now: float, what: What) -> State:
        """Issue A-RELEASE confirmation primitive."""
        self.events.append(ReleaseConfirmation())
        return State.STA12

    def aa_1(self, now: float, what: What) -> State:
        """Send A-ABORT PDU (service-user source) and start (or restart if already started)
        ARTIM timer.

        ``what`` is the A-ABORT of our user, or what the peer sent instead of A-ASSOCIATE-RQ.
        """
        if not isinstance(what, AAbort):
            fault = self._fault(what)
            what = AAbort(AbortSource.SERVICE_USER, AbortReason.REASON_NOT_SPECIFIED)
            self.events.append(AbortIndication(what.source, what.reason, False, fault.rule))
        self._send(what)
        self._start_artim(now)
        return State.STA13

    def aa_2(self, now: float, what: What) -> State:
        """Stop ARTIM timer if running. Close transport connection."""
        if self.state is State.STA2:
            self.events.append(ConnectionClosed(self._no_association(what)))
        self.deadline = None
        self.should_close = True
        return State.STA1

    def aa_3(self, now: float, what: What) -> State:
        """Issue A-ABORT indication if service-user initiated, A-P-ABORT indication if not, and
        close transport connection."""
        assert isinstance(what, AAbort)
        rule = f"A-ABORT received from {what.words}"
        self.events.append(AbortIndication(what.source, what.reason, True, rule))
        self.should_close = True
        return State.STA1

    def aa_4(self, now: float, what: What) -> State:
        """Issue A-P-ABORT indication primitive."""
        self.events.append(ConnectionClosed(f"connection lost in {self.state.words}"))
        return State.STA1

    def aa_5(self, now: float, what: What) -> State:
        """Stop ARTIM timer."""
        self.deadline = None
        return State.STA1

    def aa_6(self, now: float, what: What) -> State:
        """Ignore PDU."""
        return State.STA13

    def aa_7(self, now: float, what: What) -> State:
        """Send A-ABORT PDU."""
        fault = self._fault(what)
        self._send(AAbort(fault.source, fault.reason))
        return State.STA13

    def aa_8(self, now: float, what: What) -> State:
        """Send A-ABORT PDU (service-provider source), issue an A-P-ABORT indication, and start
        ARTIM timer."""
        fault = self._fault(what)
        self._send(AAbort(fault.source, fault.reason))
        self.events.append(AbortIndication(fault.source, fault.reason, False, fault.rule))
        self._start_artim(now)
        return State.STA13

    def _send(self, pdu: What) -> None:
        assert isinstance(pdu, PDU)
        self.output.append(pdu.encode())

    def _start_artim(self, now: float) -> None:
        self.deadline = now + self.artim_seconds

    def _fault(self, what: What) -> RemoteProtocolError:
        """Return what the peer did wrong; a PDU is wrong because it came in this state."""
        if isinstance(what, RemoteProtocolError):
            return what
        assert isinstance(what, PDU)
        return unexpected(what.TYPE, self.state)

    def _no_association(self, what: What) -> str:
        if isinstance(what, AAbort):
            return f"A-ABORT received from {what.words} before A-ASSOCIATE-RQ"
        return f"no A-ASSOCIATE-RQ within {self.artim_seconds:g} s (ARTIM)"


def unexpected(pdu_type: PDUType, state: State) -> RemoteProtocolError:
    """Make the error for a PDU that Table 9-10 does not want in ``state``."""
    return RemoteProtocolError(
        f"{pdu_type.words} received in {state.words}", reason=AbortReason.UNEXPECTED_PDU
    )


# The cells that answer the peer with A-ABORT whatever else its PDU says.
REFUSED = frozenset(cell for cell, action in TABLE.items() if action in ("AA-1", "AA-8"))

ACTIONS: dict[tuple[Evt, State], Callable[[StateMachine, float, What], State]] = {
    cell: getattr(StateMachine, action.lower().replace("-", "_")) for cell, action in TABLE.items()
}
