"""Everything that a peer says on one association: PDUs, state machine, messages (PS3.8, PS3.7)."""

from __future__ import annotations

from collections.abc import Iterator

from dicomnode.ul.association import Role, State
from tests.fuzz.endpoint import RECORDED_ANSWER, Endpoint
from tests.fuzz.recordings import recordings

_ROLES = (Role.ACCEPTOR, Role.REQUESTOR)
#: Bytes come in portions of so many; 0 stands for all at once.
_PORTIONS = (0, 1, 7, 1000)


def seeds() -> Iterator[bytes]:
    """Yield what requestors of each service said, and what an acceptor answers."""
    for recording in recordings():
        yield b"\0" + b"".join(turn.pdu for turn in recording.turns)
    yield b"\1" + b"".join(RECORDED_ANSWER)


def one(data: bytes) -> None:
    """Take the bytes on one side: events or an abort, and only PDUs that are whole are sent."""
    chosen, said = data[:1] or b"\0", data[1:]
    endpoint = Endpoint(_ROLES[chosen[0] & 1])
    portion = _PORTIONS[chosen[0] >> 1 & 3] or len(said)
    for at in range(0, len(said), portion or 1):
        if endpoint.association.state is State.STA1:
            break
        endpoint.receive(said[at : at + portion])
    endpoint.close()
    endpoint.sent_pdus()
    assert endpoint.has_ended_once()
