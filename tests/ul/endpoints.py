"""Associations in memory: how to bring one into any state, and two joined without a network."""

from __future__ import annotations

import dataclasses

from dicomnode.ul import items
from dicomnode.ul.association import Association, Role, State
from dicomnode.ul.events import Event
from dicomnode.ul.pdu import (
    AAssociateAC,
    AAssociateRQ,
    AReleaseRP,
    AReleaseRQ,
    PDataTF,
    PresentationDataValue,
)

VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
ARTIM_SECONDS = 30.0
MAXIMUM_LENGTH = 16384

REQUEST = AAssociateRQ(
    "CALLED",
    "CALLING",
    (items.PresentationContextRQ(1, VERIFICATION, (IMPLICIT,)),),
    (items.MaximumLength(MAXIMUM_LENGTH), items.ImplementationClassUID("1.2.3")),
)
RESPONSE = AAssociateAC(
    "CALLED",
    "CALLING",
    (items.PresentationContextAC(1, items.ContextResult.ACCEPTANCE, IMPLICIT),),
    (items.MaximumLength(MAXIMUM_LENGTH), items.ImplementationClassUID("1.2.4")),
)
VALUE = PresentationDataValue(1, True, True, b"command!")
DATA = PDataTF((VALUE,))

# The roles in which a state occurs.
ROLES = {
    State.STA2: (Role.ACCEPTOR,),
    State.STA3: (Role.ACCEPTOR,),
    State.STA4: (Role.REQUESTOR,),
    State.STA5: (Role.REQUESTOR,),
    State.STA9: (Role.REQUESTOR,),
    State.STA10: (Role.ACCEPTOR,),
    State.STA11: (Role.REQUESTOR,),
    State.STA12: (Role.ACCEPTOR,),
}
BOTH_ROLES = (Role.REQUESTOR, Role.ACCEPTOR)


def feed(association: Association, pdu, now: float = 0.0) -> list[Event]:
    """Let the association receive one PDU and take its events."""
    data = pdu if isinstance(pdu, bytes) else pdu.encode()
    assert association.receive(memoryview(data), now) == len(data)
    return association.take_events()


def established(role: Role, **options) -> Association:
    """Make an association in Sta6."""
    options = {"maximum_length": MAXIMUM_LENGTH, "artim_seconds": ARTIM_SECONDS} | options
    association = Association(role, **options)
    if role is Role.REQUESTOR:
        association.request(REQUEST, 0.0)
        association.connection_made(0.0)
        feed(association, RESPONSE)
    else:
        association.connection_made(0.0)
        feed(association, REQUEST)
        association.accept(RESPONSE, 0.0)
    association.take_output()
    return association


def association_in(state: State, role: Role) -> Association:
    """Bring an association into ``state`` by what can happen to one, at time 0."""
    association = Association(role, maximum_length=MAXIMUM_LENGTH, artim_seconds=ARTIM_SECONDS)
    if state >= State.STA6:
        association = established(role)
    match state:
        case State.STA2:
            association.connection_made(0.0)
        case State.STA3:
            association.connection_made(0.0)
            feed(association, REQUEST)
        case State.STA4:
            association.request(REQUEST, 0.0)
        case State.STA5:
            association.request(REQUEST, 0.0)
            association.connection_made(0.0)
        case State.STA7:
            association.release(0.0)
        case State.STA8:
            feed(association, AReleaseRQ())
        case State.STA9 | State.STA10:
            association.release(0.0)
            feed(association, AReleaseRQ())
        case State.STA11:
            association.release(0.0)
            feed(association, AReleaseRQ())
            association.respond_release(0.0)
        case State.STA12:
            association.release(0.0)
            feed(association, AReleaseRQ())
            feed(association, AReleaseRP())
        case State.STA13:
            feed(association, AReleaseRQ())
            association.respond_release(0.0)
    association.take_output()
    association.take_events()
    assert association.state is state
    return association


@dataclasses.dataclass
class Joined:
    """A requestor and an acceptor whose bytes reach each other when told to."""

    requestor: Association
    acceptor: Association

    @classmethod
    def connected(cls) -> Joined:
        """Join two new associations; the request is on its way."""
        requestor = Association(Role.REQUESTOR, maximum_length=MAXIMUM_LENGTH)
        acceptor = Association(Role.ACCEPTOR, maximum_length=MAXIMUM_LENGTH)
        requestor.request(REQUEST, 0.0)
        requestor.connection_made(0.0)
        acceptor.connection_made(0.0)
        return cls(requestor, acceptor)

    @classmethod
    def established(cls) -> Joined:
        """Join two associations that have accepted each other."""
        both = cls.connected()
        both.to_acceptor()
        both.acceptor.accept(RESPONSE, 0.0)
        both.to_requestor()
        return both

    def to_acceptor(self) -> list[Event]:
        """Carry the requestor's output across and take what the acceptor makes of it."""
        return transfer(self.requestor, self.acceptor)

    def to_requestor(self) -> list[Event]:
        """Carry the acceptor's output across and take what the requestor makes of it."""
        return transfer(self.acceptor, self.requestor)


def transfer(sender: Association, receiver: Association) -> list[Event]:
    """Carry output from one to the other."""
    data = b"".join(sender.take_output())
    assert receiver.receive(memoryview(data), 0.0) == len(data)
    return receiver.take_events()
