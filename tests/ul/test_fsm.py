"""Table 9-10, cell by cell: against pynetdicom's transcription, and as the association acts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pynetdicom.fsm import ACTIONS as THEIR_ACTIONS
from pynetdicom.fsm import TRANSITION_TABLE

from dicomnode.errors import LocalProtocolError
from dicomnode.ul import fsm
from dicomnode.ul.association import Association, Role, State
from dicomnode.ul.events import (
    AbortIndication,
    AssociateAccepted,
    AssociateIndication,
    AssociateRejected,
    ConnectionClosed,
    DataIndication,
    ReleaseConfirmation,
    ReleaseIndication,
)
from dicomnode.ul.fsm import TABLE, Evt, StateMachine
from dicomnode.ul.pdu import (
    AAbort,
    AAssociateRJ,
    AReleaseRP,
    AReleaseRQ,
    PDUType,
    Rejection,
)
from tests.ul.endpoints import (
    ARTIM_SECONDS,
    BOTH_ROLES,
    DATA,
    REQUEST,
    RESPONSE,
    ROLES,
    association_in,
)

NOW = 10.0
CELLS = [(event, state) for event in Evt for state in State]
CELLS_BY_ROLE = [
    (event, state, role)
    for event, state in CELLS
    for role in ROLES.get(state, BOTH_ROLES)
    # An acceptor never requests; that it may not is tested with the association.
    if (event, role) != (Evt.A_ASSOCIATE_REQUEST, Role.ACCEPTOR) or state is not State.STA1
]


def receive(pdu) -> object:
    """Make a driver that lets the association receive a PDU."""
    data = pdu if isinstance(pdu, bytes) else pdu.encode()
    return lambda association: association.receive(memoryview(data), NOW)


def machine(event: Evt, what=None) -> object:
    """Make a driver of the state machine itself, where the façade picks the event by role."""
    return lambda association: association._machine.handle(event, NOW, what)


DRIVERS = {
    Evt.A_ASSOCIATE_REQUEST: lambda association: association.request(REQUEST, NOW),
    Evt.TRANSPORT_CONFIRMATION: machine(Evt.TRANSPORT_CONFIRMATION, REQUEST),
    Evt.A_ASSOCIATE_AC_PDU: receive(RESPONSE),
    Evt.A_ASSOCIATE_RJ_PDU: receive(AAssociateRJ.of(Rejection.NO_REASON_GIVEN)),
    Evt.TRANSPORT_INDICATION: machine(Evt.TRANSPORT_INDICATION),
    Evt.A_ASSOCIATE_RQ_PDU: receive(REQUEST),
    Evt.A_ASSOCIATE_ACCEPT: lambda association: association.accept(RESPONSE, NOW),
    Evt.A_ASSOCIATE_REJECT: lambda association: association.reject(
        Rejection.LOCAL_LIMIT_EXCEEDED, NOW
    ),
    Evt.P_DATA_REQUEST: lambda association: association.send_data(1, b"command!", is_command=True),
    Evt.P_DATA_TF_PDU: receive(DATA),
    Evt.A_RELEASE_REQUEST: lambda association: association.release(NOW),
    Evt.A_RELEASE_RQ_PDU: receive(AReleaseRQ()),
    Evt.A_RELEASE_RP_PDU: receive(AReleaseRP()),
    Evt.A_RELEASE_RESPONSE: lambda association: association.respond_release(NOW),
    Evt.A_ABORT_REQUEST: lambda association: association.abort(0, 0, NOW),
    Evt.A_ABORT_PDU: receive(AAbort(0, 0)),
    Evt.TRANSPORT_CLOSED: lambda association: association.connection_lost(NOW),
    Evt.ARTIM_EXPIRED: lambda association: association.handle_timer(NOW + ARTIM_SECONDS),
    Evt.INVALID_PDU: receive(b"\x08\0\0\0\0\4\0\0\0\0"),
}
OUR_SIDE = {1, 2, 5, 7, 8, 9, 11, 14, 15}


@dataclass
class Effect:
    """What an action does, by Tables 9-6 to 9-9; ``artim`` None leaves the timer alone."""

    sent: tuple[PDUType, ...] = ()
    issued: tuple[type, ...] = ()
    artim: bool | None = None
    closes: bool = False


EFFECTS = {
    "AE-1": Effect(),
    "AE-2": Effect(sent=(PDUType.A_ASSOCIATE_RQ,)),
    "AE-3": Effect(issued=(AssociateAccepted,)),
    "AE-4": Effect(issued=(AssociateRejected,), closes=True),
    "AE-5": Effect(artim=True),
    "AE-6": Effect(issued=(AssociateIndication,), artim=False),
    "AE-7": Effect(sent=(PDUType.A_ASSOCIATE_AC,)),
    "AE-8": Effect(sent=(PDUType.A_ASSOCIATE_RJ,), artim=True),
    "DT-1": Effect(sent=(PDUType.P_DATA_TF,)),
    "DT-2": Effect(issued=(DataIndication,)),
    "AR-1": Effect(sent=(PDUType.A_RELEASE_RQ,)),
    "AR-2": Effect(issued=(ReleaseIndication,)),
    "AR-3": Effect(issued=(ReleaseConfirmation,), closes=True),
    "AR-4": Effect(sent=(PDUType.A_RELEASE_RP,), artim=True),
    "AR-5": Effect(artim=False),
    "AR-6": Effect(issued=(DataIndication,)),
    "AR-7": Effect(sent=(PDUType.P_DATA_TF,)),
    "AR-8": Effect(issued=(ReleaseIndication,)),
    "AR-9": Effect(sent=(PDUType.A_RELEASE_RP,)),
    "AR-10": Effect(issued=(ReleaseConfirmation,)),
    "AA-1": Effect(sent=(PDUType.A_ABORT,), artim=True),
    "AA-2": Effect(artim=False, closes=True),
    "AA-3": Effect(issued=(AbortIndication,), closes=True),
    "AA-4": Effect(issued=(ConnectionClosed,)),
    "AA-5": Effect(artim=False),
    "AA-6": Effect(),
    "AA-7": Effect(sent=(PDUType.A_ABORT,)),
    "AA-8": Effect(sent=(PDUType.A_ABORT,), issued=(AbortIndication,), artim=True),
}

# Before an association exists the standard has nobody to tell; we tell the log why it ended.
TOLD_BESIDES = {
    ("AA-1", State.STA2): (AbortIndication,),
    ("AA-2", State.STA2): (ConnectionClosed,),
}


def next_state(action: str, role: Role) -> State:
    """Read the next state in pynetdicom's table of actions."""
    states = THEIR_ACTIONS[action][2]
    if action == "AE-6":
        states = states[0]
    if action == "AR-8":
        states = states[0 if role is Role.REQUESTOR else 1]
    return State(int(states.removeprefix("Sta")))


def sent(association: Association) -> tuple[int, ...]:
    """Take the output as the types of its PDUs."""
    data, types = b"".join(association.take_output()), []
    while data:
        types.append(data[0])
        data = data[6 + int.from_bytes(data[2:6]) :]
    return tuple(types)


def cell_id(value: object) -> str:
    return f"Evt{value}" if isinstance(value, Evt) else getattr(value, "name", str(value))


def test_the_grid_is_the_table_of_the_standard():
    theirs = {
        (Evt(int(event[3:])), State(int(state[3:]))): action
        for (event, state), action in TRANSITION_TABLE.items()
    }
    assert theirs == TABLE
    assert len(CELLS) == 247


def test_the_states_are_in_the_grid_in_their_order():
    assert fsm.GRID.split()[:13] == [f"Sta{n}" for n in range(1, 14)]


def test_every_action_of_the_standard_is_there_with_its_row_as_docstring():
    assert set(TABLE.values()) == set(THEIR_ACTIONS)
    for action in THEIR_ACTIONS:
        assert getattr(StateMachine, action.lower().replace("-", "_")).__doc__


@pytest.mark.parametrize(("event", "state", "role"), CELLS_BY_ROLE, ids=cell_id)
def test_each_cell_of_table_9_10_acts_as_the_standard_says(event, state, role):
    association = association_in(state, role)
    timer_before = association.timer()
    action = TRANSITION_TABLE.get((f"Evt{event}", f"Sta{state}"))
    if action is None and event in OUR_SIDE:
        with pytest.raises(LocalProtocolError):
            DRIVERS[event](association)
    else:
        DRIVERS[event](association)
    effect = EFFECTS[action] if action else Effect()
    issued = effect.issued + TOLD_BESIDES.get((action, state), ())
    assert association.state is (next_state(action, role) if action else state)
    assert sent(association) == effect.sent
    assert tuple(map(type, association.take_events())) == issued
    assert association.should_close is effect.closes
    expected = {None: timer_before, True: NOW + ARTIM_SECONDS, False: None}[effect.artim]
    assert association.timer() == expected


@pytest.mark.parametrize("role", BOTH_ROLES)
def test_our_mistake_is_told_in_words(role):
    association = association_in(State.STA7, role)
    with pytest.raises(LocalProtocolError, match=r"A-RELEASE-REQUEST .* Sta7 \(awaiting A-REL"):
        association.release(NOW)
