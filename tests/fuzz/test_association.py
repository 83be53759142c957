"""Random and damaged byte streams into an association: events or an abort, never an exception."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicomnode.ul.association import Role, State
from dicomnode.ul.events import AbortIndication, ReleaseIndication
from dicomnode.ul.pdu import AAbort, AAssociateAC, AReleaseRP
from tests.fuzz.endpoint import (
    DATA_SET,
    ECHO,
    RECORDED,
    RECORDED_ANSWER,
    STORE,
    Endpoint,
)

_STREAMS = {Role.ACCEPTOR: RECORDED, Role.REQUESTOR: RECORDED_ANSWER}
_INTERESTING = [0, 1, 2, 0x7F, 0x80, 0xFF]
_LENGTHS = [
    *(struct.pack(">I", value) for value in (0, 1, 3, 4, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
    *(struct.pack(">H", value) for value in (0, 1, 0x7FFF, 0xFFFF)),
    struct.pack("<I", 0xFFFFFFFF),
]

roles = st.sampled_from([Role.ACCEPTOR, Role.ACCEPTOR, Role.REQUESTOR])


@st.composite
def damaged(draw: st.DrawFn, stream: bytes) -> bytes:
    """``stream`` with a few bytes changed, overwritten, inserted, removed or repeated."""
    data = bytearray(stream)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(start + draw(st.integers(1, 24)), len(data))
        match draw(st.sampled_from(["byte", "length", "insert", "remove", "repeat", "cut"])):
            case "byte" if start < len(data):
                data[start] = draw(st.sampled_from(_INTERESTING) | st.integers(0, 255))
            case "length":
                value = draw(st.sampled_from(_LENGTHS))
                data[start : start + len(value)] = value
            case "insert":
                data[start:start] = draw(st.binary(min_size=1, max_size=16))
            case "remove":
                del data[start:end]
            case "repeat":
                data[start:start] = data[start:end]
            case "cut" if draw(st.booleans()):
                del data[start:]
            case _:
                pass
    return bytes(data)


@st.composite
def damaged_recordings(draw: st.DrawFn, role: Role) -> list[bytes]:
    """The recorded PDUs, some of them damaged, left out, repeated or in another order."""
    pdus = list(_STREAMS[role])
    if draw(st.booleans()):
        pdus = draw(st.lists(st.sampled_from(pdus), min_size=1, max_size=8))
    at = draw(st.integers(0, len(pdus) - 1))
    pdus[at] = draw(damaged(pdus[at]))
    return pdus


@st.composite
def framed_noise(draw: st.DrawFn) -> bytes:
    """A PDU whose header is right and whose body is anything."""
    body = draw(st.binary(max_size=100))
    kind = draw(st.integers(0, 8))
    return struct.pack(">BxI", kind, len(body)) + body


@st.composite
def pdv_noise(draw: st.DrawFn) -> bytes:
    """A P-DATA-TF whose lengths are right and whose fragments are anything."""
    body = b""
    for _ in range(draw(st.integers(1, 4))):
        data = draw(st.binary(max_size=60))
        context_id = draw(st.sampled_from([1, 3, 3, 5]))
        body += struct.pack(">IBB", len(data) + 2, context_id, draw(st.integers(0, 3))) + data
    return struct.pack(">BxI", 4, len(body)) + body


def check(endpoint: Endpoint, chunks: list[bytes]) -> None:
    """Feed ``chunks`` and the end of the connection; assert what holds for any bytes."""
    for chunk in chunks:
        endpoint.receive(chunk)
    endpoint.sent_pdus()
    aborted = [event for event in endpoint.events if isinstance(event, AbortIndication)]
    if aborted and not aborted[0].by_peer:
        assert aborted[0].rule
        assert endpoint.is_over
    endpoint.close()
    assert endpoint.has_ended_once()
    endpoint.sent_pdus()


def test_the_recorded_association_is_valid() -> None:
    endpoint = Endpoint()
    endpoint.receive(b"".join(RECORDED[:1]))
    endpoint.receive(b"".join(RECORDED[1:]))
    assert endpoint.commands == [ECHO, STORE]
    assert endpoint.data_sets == [DATA_SET]
    assert isinstance(endpoint.events[-1], ReleaseIndication)
    sent = endpoint.sent_pdus()
    assert isinstance(sent[0], AAssociateAC)
    assert isinstance(sent[-1], AReleaseRP)
    assert endpoint.association.state is State.STA13
    endpoint.close()


def test_the_recorded_answer_is_valid() -> None:
    endpoint = Endpoint(Role.REQUESTOR)
    endpoint.receive(b"".join(RECORDED_ANSWER[:-1]))
    endpoint.association.release(1000.0)
    endpoint.receive(RECORDED_ANSWER[-1])
    assert [type(command).__name__ for command in endpoint.commands] == ["CEchoRSP", "CStoreRSP"]
    assert not endpoint.broken_rules
    endpoint.close()
    assert endpoint.has_ended_once()


@given(st.lists(st.integers(1, 3000), max_size=12))
@example([1] * 3000)
@settings(max_examples=50)
def test_however_the_stream_is_cut_the_messages_are_the_same(sizes: list[int]) -> None:
    endpoint = Endpoint()
    endpoint.receive(RECORDED[0])
    rest = b"".join(RECORDED[1:])
    for size in [*sizes, len(rest)]:
        endpoint.receive(rest[:size])
        rest = rest[size:]
    assert endpoint.commands == [ECHO, STORE]
    assert endpoint.data_sets == [DATA_SET]
    assert not endpoint.broken_rules


@given(roles, st.lists(st.binary(max_size=300), max_size=5))
@settings(max_examples=200)
def test_random_bytes_before_the_association(role: Role, chunks: list[bytes]) -> None:
    check(Endpoint(role), chunks)


@given(
    roles,
    st.integers(0, 5),
    st.lists(st.binary(max_size=100) | framed_noise() | pdv_noise(), min_size=1, max_size=5),
)
@settings(max_examples=300)
def test_random_pdus_within_the_association(role: Role, after: int, noise: list[bytes]) -> None:
    check(Endpoint(role), [*_STREAMS[role][:after], *noise])


@given(st.data(), roles, st.integers(0, 2000))
@settings(max_examples=400)
def test_a_damaged_recording(data: st.DataObject, role: Role, cut: int) -> None:
    pdus = data.draw(damaged_recordings(role))
    stream = b"".join(pdus)
    check(
        Endpoint(role), data.draw(st.sampled_from([pdus, [stream], [stream[:cut], stream[cut:]]]))
    )


@pytest.mark.parametrize("role", Role)
def test_a_recording_cut_off_anywhere_ends_with_the_connection(role: Role) -> None:
    first, rest = _STREAMS[role][0], b"".join(_STREAMS[role][1:])
    for end in range(len(first)):
        check(Endpoint(role), [first[:end]])
    for end in range(0, len(rest), 7):
        endpoint = Endpoint(role)
        check(endpoint, [first, rest[:end]])
        assert not endpoint.broken_rules


@pytest.mark.parametrize("role", Role)
def test_every_byte_of_the_association_pdu_may_be_wrong(role: Role) -> None:
    first, *rest = _STREAMS[role]
    for at in range(len(first)):
        for wrong in (0, 0xFF, first[at] ^ 1, first[at] ^ 0x80):
            endpoint = Endpoint(role)
            check(endpoint, [first[:at] + bytes([wrong]) + first[at + 1 :], *rest])


def test_after_a_broken_message_nothing_more_is_believed() -> None:
    endpoint = Endpoint()
    data_before_command = struct.pack(">BxIIBB", 4, 6, 2, 3, 2)
    endpoint.receive(RECORDED[0])
    endpoint.receive(data_before_command + b"".join(RECORDED[1:]))
    assert len(endpoint.broken_rules) == 1
    assert endpoint.commands == []
    abort = endpoint.sent_pdus()[-1]
    assert isinstance(abort, AAbort)
    assert abort.source == 0
