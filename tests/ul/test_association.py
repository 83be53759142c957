"""The façade: two endpoints joined in memory, hostile bytes, deadlines, what is consumed when."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.errors import LocalProtocolError
from dicomnode.ul import items
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
from dicomnode.ul.pdu import (
    AAbort,
    AAssociateRJ,
    AReleaseRP,
    AReleaseRQ,
    PDataTF,
    PresentationDataValue,
    Rejection,
)
from tests.ul.endpoints import (
    ARTIM_SECONDS,
    BOTH_ROLES,
    DATA,
    MAXIMUM_LENGTH,
    REQUEST,
    RESPONSE,
    ROLES,
    VALUE,
    Joined,
    association_in,
    established,
    feed,
)
from tests.ul.strategies import pdus

STATES_AND_ROLES = [(state, role) for state in State for role in ROLES.get(state, BOTH_ROLES)]
SCRIPT = (
    REQUEST.encode(),
    DATA.encode(),
    PDataTF((VALUE, dataclasses.replace(VALUE, data=bytes(500)))).encode(),
    AReleaseRQ().encode(),
)


def output(association: Association) -> bytes:
    return b"".join(association.take_output())


def receive_all(association: Association, chunks) -> list:
    """Play a caller that keeps what was not consumed; the acceptor accepts what is asked."""
    events, kept = [], b""
    for chunk in chunks:
        kept += chunk
        kept = kept[association.receive(memoryview(kept), 0.0) :]
        for event in association.take_events():
            if isinstance(event, AssociateIndication):
                association.accept(RESPONSE, 0.0)
            if isinstance(event, DataIndication):
                event = dataclasses.replace(event, data=bytes(event.data))
            events.append(event)
    return events


# Two endpoints joined in memory


def test_an_association_is_made_used_and_released():
    both = Joined.connected()
    assert both.to_acceptor() == [AssociateIndication(REQUEST)]
    both.acceptor.accept(RESPONSE, 0.0)
    assert both.to_requestor() == [AssociateAccepted(RESPONSE)]
    both.requestor.send_data(1, b"command!", is_command=True)
    assert both.to_acceptor() == [DataIndication(1, True, True, memoryview(b"command!"))]
    both.acceptor.send_data(1, b"command!", is_command=True)
    assert both.to_requestor() == [DataIndication(1, True, True, memoryview(b"command!"))]
    both.requestor.release(0.0)
    assert both.to_acceptor() == [ReleaseIndication()]
    both.acceptor.respond_release(0.0)
    assert both.to_requestor() == [ReleaseConfirmation()]
    assert both.requestor.should_close
    both.requestor.connection_lost(0.0)
    both.acceptor.connection_lost(0.0)
    assert both.requestor.state is both.acceptor.state is State.STA1
    assert both.requestor.take_events() == both.acceptor.take_events() == []


def test_an_association_is_rejected():
    both = Joined.connected()
    both.to_acceptor()
    both.acceptor.reject(Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED, 0.0)
    assert both.to_requestor() == [AssociateRejected(AAssociateRJ(1, 1, 7))]
    assert both.requestor.should_close
    assert not both.acceptor.should_close
    both.acceptor.connection_lost(0.0)
    assert both.acceptor.take_events() == []


@pytest.mark.parametrize("aborting", ["requestor", "acceptor"])
def test_an_association_is_aborted_by_either_side(aborting):
    both = Joined.established()
    getattr(both, aborting).abort(0, 0, 0.0)
    carry = both.to_acceptor if aborting == "requestor" else both.to_requestor
    assert carry() == [AbortIndication(0, 0, True, "A-ABORT received from service-user")]
    other = both.acceptor if aborting == "requestor" else both.requestor
    assert other.should_close


def test_data_still_arrives_while_we_await_the_answer_to_our_release():
    both = Joined.established()
    both.requestor.release(0.0)
    both.to_acceptor()
    both.acceptor.send_data(1, b"command!", is_command=True)
    assert both.to_requestor() == [DataIndication(1, True, True, memoryview(b"command!"))]
    both.acceptor.respond_release(0.0)
    assert both.to_requestor() == [ReleaseConfirmation()]


def test_a_release_collision_is_answered_by_the_requestor_first():
    both = Joined.established()
    both.requestor.release(0.0)
    both.acceptor.release(0.0)
    from_acceptor = output(both.acceptor)
    assert both.to_acceptor() == [ReleaseIndication(collision=True)]
    assert feed(both.requestor, from_acceptor) == [ReleaseIndication(collision=True)]
    assert (both.requestor.state, both.acceptor.state) == (State.STA9, State.STA10)
    with pytest.raises(LocalProtocolError):
        both.acceptor.respond_release(0.0)
    both.requestor.respond_release(0.0)
    assert both.to_acceptor() == [ReleaseConfirmation()]
    assert both.acceptor.state is State.STA12
    both.acceptor.respond_release(0.0)
    assert both.to_requestor() == [ReleaseConfirmation()]
    assert both.requestor.should_close
    assert both.acceptor.state is State.STA13
    both.acceptor.connection_lost(0.0)
    assert both.acceptor.state is State.STA1


def test_a_message_crosses_in_fragments_and_comes_out_whole():
    both = Joined.established()
    data_set = bytes(range(256)) * 400
    both.requestor.send_data(1, b"command!", is_command=True)
    half = 3 * both.requestor.fragment_bytes
    both.requestor.send_data(1, data_set[:half], is_command=False, is_last=False)
    both.requestor.send_data(1, data_set[half:], is_command=False)
    events = both.to_acceptor()
    assert b"".join(e.data for e in events if not e.is_command) == data_set
    assert [e.is_last for e in events] == [True, *[False] * (len(events) - 2), True]


# What the caller sees of bytes and time


def test_events_do_not_depend_on_how_the_bytes_are_cut():
    stream = b"".join(SCRIPT)
    whole = receive_all(
        association_in(State.STA2, Role.ACCEPTOR), [SCRIPT[0], b"".join(SCRIPT[1:])]
    )
    singly = receive_all(
        association_in(State.STA2, Role.ACCEPTOR), [bytes((byte,)) for byte in stream]
    )
    assert [type(event) for event in whole] == [
        AssociateIndication,
        DataIndication,
        DataIndication,
        DataIndication,
        ReleaseIndication,
    ]
    assert singly == whole


def test_nothing_happens_on_a_pdu_cut_at_any_offset():
    for pdu in SCRIPT:
        for cut in range(len(pdu)):
            association = (
                association_in(State.STA2, Role.ACCEPTOR)
                if pdu is SCRIPT[0]
                else established(Role.ACCEPTOR)
            )
            assert association.receive(memoryview(pdu)[:cut], 0.0) == 0
            assert association.take_events() == association.take_output() == []
            assert association.bytes_wanted == (len(pdu) if cut >= 6 else 6)


def test_bytes_behind_the_last_whole_pdu_are_left():
    association = established(Role.ACCEPTOR)
    pdu = DATA.encode()
    assert association.receive(memoryview(pdu + pdu + pdu[:10]), 0.0) == 2 * len(pdu)
    assert len(association.take_events()) == 2
    assert association.bytes_wanted == len(pdu)
    assert association.receive(memoryview(pdu), 0.0) == len(pdu)
    assert association.bytes_wanted == 6


def test_data_are_views_into_the_received_buffer():
    association = established(Role.ACCEPTOR)
    buffer = bytearray(DATA.encode())
    association.receive(memoryview(buffer), 0.0)
    (event,) = association.take_events()
    buffer[-8:] = b"replaced"
    assert bytes(event.data) == b"replaced"


def test_sent_data_are_not_copied():
    association = established(Role.REQUESTOR)
    data = bytearray(b"data set")
    association.send_data(1, memoryview(data), is_command=False)
    _, sent = association.take_output()
    data[:] = b"replaced"
    assert bytes(sent) == b"replaced"
    assert association.take_output() == []


@pytest.mark.parametrize("role", BOTH_ROLES)
def test_the_peers_maximum_length_is_learned_and_kept(role):
    association = established(role)
    assert association.peer_maximum_length == MAXIMUM_LENGTH
    association.send_data(1, bytes(MAXIMUM_LENGTH - 6), is_command=False)
    assert len(association.take_output()) == 2
    association.send_data(1, bytes(MAXIMUM_LENGTH - 5), is_command=False)
    assert len(association.take_output()) == 4


def test_a_peer_that_names_no_maximum_length_has_none():
    association = association_in(State.STA2, Role.ACCEPTOR)
    feed(association, dataclasses.replace(REQUEST, user_information=()))
    association.accept(RESPONSE, 0.0)
    assert association.peer_maximum_length == 0
    association.send_data(1, bytes(100_000), is_command=False)
    assert [len(buffer) for buffer in association.take_output()[1:]] == [12, 100_000]


def test_an_acceptor_does_not_request():
    with pytest.raises(LocalProtocolError, match="acceptor"):
        Association(Role.ACCEPTOR, maximum_length=0).request(REQUEST, 0.0)


def test_a_request_that_cannot_be_encoded_fails_before_anything_is_dialled():
    association = Association(Role.REQUESTOR, maximum_length=0)
    with pytest.raises(LocalProtocolError, match="longer than 16"):
        association.request(dataclasses.replace(REQUEST, calling_ae_title="X" * 17), 0.0)
    assert association.state is State.STA1


def test_artim_closes_a_connection_on_which_nobody_asks_for_an_association():
    association = association_in(State.STA2, Role.ACCEPTOR)
    assert association.timer() == ARTIM_SECONDS
    association.handle_timer(ARTIM_SECONDS - 0.001)
    assert association.state is State.STA2
    association.handle_timer(ARTIM_SECONDS)
    assert association.should_close
    assert association.take_output() == []
    assert association.take_events() == [ConnectionClosed("no A-ASSOCIATE-RQ within 30 s (ARTIM)")]


def test_artim_closes_a_connection_that_the_peer_leaves_open_after_the_end():
    association = established(Role.ACCEPTOR)
    association.abort(2, 0, 100.0)
    assert association.timer() == 100.0 + ARTIM_SECONDS
    assert not association.should_close
    association.handle_timer(100.0 + ARTIM_SECONDS)
    assert association.should_close
    assert association.timer() is None
    assert association.take_events() == []


def test_connect_and_close_is_silent():
    association = association_in(State.STA2, Role.ACCEPTOR)
    association.connection_lost(1.0)
    assert association.take_events() == association.take_output() == []
    assert association.timer() is None


@pytest.mark.parametrize("role", BOTH_ROLES)
def test_a_connection_lost_in_an_association_is_told(role):
    association = established(role)
    association.connection_lost(1.0)
    assert association.take_events() == [
        ConnectionClosed("connection lost in Sta6 (association established)")
    ]


# Hostile and mistaken peers


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "peer speaks HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "peer speaks TLS on the plain port"),
        (b"\x01\x00\xff\xff\xff\xff", "exceeds our limit of 1048576"),
        (b"\x04\x00\x00\x00\x00\x0a", r"P-DATA-TF received in Sta2 \(awaiting A-ASSOCIATE-RQ\)"),
        (b"\x02\x00\x00\x00\x00\x4a", "A-ASSOCIATE-AC received in Sta2"),
        (b"\x05\x00\x00\x00\x00\x04", "A-RELEASE-RQ received in Sta2"),
        (b"\x07\x00\x00\x00\x00\x05", "A-ABORT claims a length of 5"),
    ],
)
def test_a_stranger_is_aborted_from_the_header_alone(data, rule):
    """AA-1 in Sta2: A-ABORT with service-user source, ARTIM, and a sentence for the log."""
    association = association_in(State.STA2, Role.ACCEPTOR)
    assert association.receive(memoryview(data), 5.0) == len(data)
    assert output(association) == AAbort(0, 0).encode()
    (event,) = association.take_events()
    assert isinstance(event, AbortIndication)
    assert not event.by_peer
    assert re.search(rule, event.rule)
    assert association.timer() == 5.0 + ARTIM_SECONDS


@pytest.mark.parametrize(
    ("data", "reason", "rule"),
    [
        (b"\x08\x00\x00\x00\x00\x04", 1, "PDU type 08H does not exist"),
        (b"\x01\x00\x00\x10\x00\x00", 2, "A-ASSOCIATE-RQ received in Sta6"),
        (b"\x03\x00\x00\x00\x00\x04", 2, "A-ASSOCIATE-RJ received in Sta6"),
        (b"\x06\x00\x00\x00\x00\x04", 2, "A-RELEASE-RP received in Sta6"),
        (b"\x04\x00\x00\x00\x40\x01", 6, "P-DATA-TF of 16385 bytes exceeds the maximum length"),
        (b"\x04\x00\xff\xff\xff\xff", 6, "P-DATA-TF of 4294967295 bytes"),
        (b"\x05\x00\x00\x00\x00\x00", 6, "A-RELEASE-RQ claims a length of 0"),
        (b"\x04\x00\x00\x00\x00\x00", 6, "P-DATA-TF without a PDV"),
        (b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x09\x01\x00", 6, "a PDV claims 9 bytes"),
    ],
)
def test_a_peer_that_breaks_a_rule_is_aborted_by_the_provider(data, reason, rule):
    """AA-8: A-ABORT with service-provider source and the reason of Table 9-26."""
    association = established(Role.ACCEPTOR)
    assert association.receive(memoryview(data), 5.0) == len(data)
    assert output(association) == AAbort(2, reason).encode()
    (event,) = association.take_events()
    assert (event.source, event.reason, event.by_peer) == (2, reason, False)
    assert re.search(rule, event.rule)
    assert association.state is State.STA13


def test_a_bad_pdv_keeps_the_good_ones_of_its_pdu_from_the_user():
    association = established(Role.ACCEPTOR)
    body = VALUE.encode() + b"\xff\xff\xff\xff\x01\x00"
    events = feed(association, b"\x04\x00" + len(body).to_bytes(4) + body)
    assert [type(event) for event in events] == [AbortIndication]


def test_pdus_before_the_mistake_still_count():
    association = established(Role.ACCEPTOR)
    events = feed(association, DATA.encode() + b"\x99" * 50 + DATA.encode())
    assert [type(event) for event in events] == [DataIndication, AbortIndication]


def test_after_a_mistake_everything_is_consumed_unread():
    association = established(Role.ACCEPTOR)
    feed(association, b"\x99" * 6)
    association.take_output()
    for data in (DATA.encode(), b"\x99" * 100, REQUEST.encode(), b"\x01"):
        assert feed(association, data) == []
    assert association.take_output() == []
    assert association.bytes_wanted == 6


def test_after_our_own_abort_what_was_under_way_is_ignored_and_the_peers_abort_closes():
    association = established(Role.ACCEPTOR)
    association.abort(0, 0, 0.0)
    association.take_output()
    assert feed(association, DATA.encode() + AReleaseRQ().encode()) == []
    assert association.take_output() == []
    assert feed(association, AAbort(0, 0)) == []
    assert association.should_close


def test_a_request_after_the_release_is_answered_by_abort():
    association = association_in(State.STA13, Role.ACCEPTOR)
    assert feed(association, REQUEST) == []
    assert output(association) == AAbort(2, 2).encode()


def test_bytes_after_the_end_are_consumed():
    association = established(Role.REQUESTOR)
    association.release(0.0)
    events = feed(association, AReleaseRP().encode() + b"whatever")
    assert events == [ReleaseConfirmation()]
    assert feed(association, b"more") == []


def test_a_peer_cannot_make_us_want_more_than_the_cap():
    for pdu_type in range(256):
        for role, state in ((Role.ACCEPTOR, State.STA2), (Role.ACCEPTOR, State.STA6)):
            association = association_in(state, role)
            association.receive(memoryview(bytes((pdu_type, 0, 0, 15, 255, 255))), 0.0)
            assert association.bytes_wanted <= 6 + (1 << 20)


def test_an_abort_before_the_association_closes_and_is_told():
    association = association_in(State.STA2, Role.ACCEPTOR)
    (event,) = feed(association, AAbort(2, 1))
    assert event == ConnectionClosed(
        "A-ABORT received from service-provider, unrecognized PDU before A-ASSOCIATE-RQ"
    )
    assert association.should_close


def test_an_abort_with_codes_that_do_not_exist_is_an_abort():
    (event,) = feed(established(Role.ACCEPTOR), b"\x07\0\0\0\0\4\0\0\x09\x63")
    assert event == AbortIndication(9, 99, True, "A-ABORT received from source 9, reason 99")


def test_even_context_ids_end_the_connection_before_negotiation():
    contexts = (items.PresentationContextRQ(2, "1.2", ("1.2",)),)
    association = association_in(State.STA2, Role.ACCEPTOR)
    (event,) = feed(association, dataclasses.replace(REQUEST, presentation_contexts=contexts))
    assert event == AbortIndication(0, 0, False, "presentation context ID 2 is not odd")


pieces = st.one_of(pdus.map(lambda pdu: pdu.encode()), st.binary(max_size=40))


@given(st.sampled_from(STATES_AND_ROLES), st.lists(pieces, max_size=4), st.data())
def test_any_bytes_in_any_state_give_events_and_never_an_exception(cell, chunks, data):
    association = association_in(*cell)
    stream = b"".join(chunks)
    cut = data.draw(st.integers(0, len(stream)))
    kept = b""
    for chunk in (stream[:cut], stream[cut:]):
        kept += chunk
        consumed = association.receive(memoryview(kept), 0.0)
        assert 0 <= consumed <= len(kept)
        kept = kept[consumed:]
        assert len(kept) < association.bytes_wanted <= 6 + (1 << 20)
    association.take_events()
    association.take_output()
    association.handle_timer(1e9)
    association.connection_lost(1e9)
    assert association.state is State.STA1
    assert association.timer() is None


def test_framing_enforces_the_maximum_length_that_the_answer_advertised():
    association = Association(Role.ACCEPTOR, maximum_length=MAXIMUM_LENGTH)
    association.connection_made(0.0)
    feed(association, REQUEST)
    advertised = items.MaximumLength(2 * MAXIMUM_LENGTH)
    association.accept(dataclasses.replace(RESPONSE, user_information=(advertised,)), 0.0)
    longest = PDataTF((dataclasses.replace(VALUE, data=bytes(2 * MAXIMUM_LENGTH - 6)),))
    assert [type(event) for event in feed(association, longest)] == [DataIndication]
    too_long = PDataTF((dataclasses.replace(VALUE, data=bytes(2 * MAXIMUM_LENGTH - 5)),))
    assert [type(event) for event in feed(association, too_long)] == [AbortIndication]


def test_no_more_pdus_are_taken_at_once_than_asked_for():
    association = established(Role.ACCEPTOR)
    data = memoryview(DATA.encode() * 5 + DATA.encode()[:9])
    taken = association.receive(data, 0.0, 3)
    assert taken == 3 * len(DATA.encode()) and len(association.take_events()) == 3
    assert association.bytes_wanted <= len(data) - taken
    taken += association.receive(data[taken:], 0.0, 3)
    assert len(association.take_events()) == 2
    assert association.bytes_wanted > len(data) - taken


def test_values_that_continue_each_other_arrive_as_one():
    association = established(Role.ACCEPTOR)
    part, last = (PresentationDataValue(1, False, is_last, b"x") for is_last in (False, True))
    nothing = PresentationDataValue(1, False, False, b"")
    other = PresentationDataValue(3, True, False, b"y")
    values = (nothing, part, nothing, part, last, part, other, other, nothing, last, last)
    events = feed(association, PDataTF(values))
    assert [(e.context_id, e.is_command, e.is_last, bytes(e.data)) for e in events] == [
        (1, False, True, b"xxx"),
        (1, False, False, b"x"),
        (3, True, False, b"yy"),
        (1, False, True, b"x"),
        (1, False, True, b"x"),
    ]


@pytest.mark.parametrize("item", [b"\x77\0\0\0", b"\x50\0\0\0"])
def test_a_request_of_countless_empty_items_is_refused(item):
    association = Association(Role.ACCEPTOR, maximum_length=MAXIMUM_LENGTH)
    association.connection_made(0.0)
    body = REQUEST.encode()[6:] + item * 200_000
    pdu = b"\1\0" + len(body).to_bytes(4, "big") + body
    (event,) = feed(association, pdu)
    assert isinstance(event, AbortIndication) and "more items" in event.rule
