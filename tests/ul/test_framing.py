"""Headers judged before memory is taken, and messages cut to the peer's maximum length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from dicomnode.ul.framing import MAXIMUM_ASSOCIATE_LENGTH, p_data, read_header
from dicomnode.ul.pdu import PDV_HEADER_LENGTH, decode_pdu

MAXIMUM = 16384


def header(pdu_type: int, length: int) -> memoryview:
    return memoryview(bytes((pdu_type, 0)) + length.to_bytes(4))


@pytest.mark.parametrize(
    ("pdu_type", "longest"),
    [(1, MAXIMUM_ASSOCIATE_LENGTH), (2, MAXIMUM_ASSOCIATE_LENGTH), (4, MAXIMUM)],
)
def test_a_pdu_may_be_as_long_as_its_limit_and_no_longer(pdu_type, longest):
    assert read_header(header(pdu_type, longest), 0, MAXIMUM) == (pdu_type, longest)
    for length in (longest + 1, 0xFFFFFFFF):
        with pytest.raises(RemoteProtocolError, match=f"{length} bytes exceeds") as caught:
            read_header(header(pdu_type, length), 0, MAXIMUM)
        assert (caught.value.source, caught.value.reason) == (2, 6)


def test_without_a_maximum_length_of_ours_a_p_data_tf_may_have_any_length():
    assert read_header(header(4, 0xFFFFFFFF), 0, 0) == (4, 0xFFFFFFFF)


@pytest.mark.parametrize("pdu_type", [3, 5, 6, 7])
def test_pdus_of_fixed_length_claim_exactly_four_bytes(pdu_type):
    assert read_header(header(pdu_type, 4), 0, MAXIMUM) == (pdu_type, 4)
    for length in (0, 3, 5, 0xFFFFFFFF):
        with pytest.raises(RemoteProtocolError, match="instead of 4") as caught:
            read_header(header(pdu_type, length), 0, MAXIMUM)
        assert caught.value.reason == 6


@pytest.mark.parametrize("pdu_type", [0, *range(8, 256)])
def test_types_that_do_not_exist_are_unrecognized_whatever_their_length(pdu_type):
    with pytest.raises(RemoteProtocolError) as caught:
        read_header(header(pdu_type, 0xFFFFFFFF), 0, MAXIMUM)
    assert (caught.value.source, caught.value.reason) == (2, 1)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"GET / HTTP/1.1\r\n", "peer speaks HTTP"),
        (b"POST /instances", "peer speaks HTTP"),
        (b"OPTIONS * HTTP/1.1", "peer speaks HTTP"),
        (b"HTTP/1.1 400 Bad Request", "peer speaks HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "peer speaks TLS on the plain port"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "expects TLS on this port"),
        (b"SSH-2.0-OpenSSH_9.2", "peer speaks SSH"),
        (b"\x00\x00\x00\x2f\xfeSMB", "PDU type 00H does not exist"),
    ],
)
def test_other_protocols_are_named_in_the_rule(data, rule):
    with pytest.raises(RemoteProtocolError, match=rule) as caught:
        read_header(memoryview(data), 0, MAXIMUM)
    assert caught.value.reason == 1


@given(st.binary(min_size=6, max_size=12), st.sampled_from([0, MAXIMUM]))
def test_any_six_bytes_are_a_header_or_a_protocol_error(data, maximum_length):
    try:
        pdu_type, length = read_header(memoryview(data), 0, maximum_length)
    except RemoteProtocolError as error:
        assert error.reason in (1, 6)
    else:
        assert pdu_type == data[0]
        assert length == int.from_bytes(data[2:6])


def cut(data, maximum_length=MAXIMUM, **kind):
    """Cut ``data``; return the PDUs as they are read again."""
    sent = memoryview(b"".join(p_data(3, data, maximum_length, **({"is_command": False} | kind))))
    pdus = []
    while sent:
        pdu_type, length = read_header(sent, 0, maximum_length)
        pdus.append(decode_pdu(pdu_type, sent[6 : 6 + length]))
        sent = sent[6 + length :]
    return pdus


def values(pdus):
    return [pdu.values for pdu in pdus]


def test_what_does_not_fit_one_pdu_is_cut_and_its_last_fragment_marked():
    pdus = cut(bytes(25_000))
    shapes = [(v.context_id, v.is_command, v.is_last, len(v.data)) for (v,) in values(pdus)]
    assert shapes == [
        (3, False, False, MAXIMUM - PDV_HEADER_LENGTH),
        (3, False, True, 25_000 - MAXIMUM + PDV_HEADER_LENGTH),
    ]


@pytest.mark.parametrize("is_command", [True, False])
@pytest.mark.parametrize("is_last", [True, False])
@pytest.mark.parametrize("data", [b"", b"command!"])
def test_what_fits_is_one_pdu(data, is_last, is_command):
    ((value,),) = values(cut(data, is_command=is_command, is_last=is_last))
    assert (value.is_command, value.is_last, bytes(value.data)) == (is_command, is_last, data)


def test_fragments_are_views_of_the_data_set():
    data_set = bytearray(b"abcd")
    _, fragment = p_data(1, memoryview(data_set), MAXIMUM, is_command=False)
    data_set[:] = b"wxyz"
    assert bytes(fragment) == b"wxyz"


@pytest.mark.parametrize("maximum_length", [8, 9, 17, 69, 70, 71])
def test_a_peer_that_takes_next_to_nothing_in_one_pdu_costs_no_more_than_its_bytes(maximum_length):
    data = bytes(n % 251 for n in range(100_000))
    buffers = p_data(3, data, maximum_length, is_command=False)
    assert len(buffers) < 4000
    assert b"".join(bytes(value.data) for (value,) in values(cut(data, maximum_length))) == data


@given(st.binary(max_size=300), st.integers(8, 64))
def test_fragments_fit_the_maximum_length_and_join_to_the_data_set(data_set, maximum_length):
    pdus = cut(data_set, maximum_length)
    assert all(len(pdu.encode()) - 6 <= maximum_length for pdu in pdus)
    found = [value for (value,) in values(pdus)]
    assert b"".join(bytes(value.data) for value in found) == data_set
    assert [value.is_last for value in found] == [False] * (len(found) - 1) + [True]
    assert all(len(value.data) % 2 == 0 for value in found if not value.is_last)


def test_a_peer_without_a_maximum_length_gets_pdus_of_bounded_length():
    longest = max(len(value.data) for (value,) in values(cut(bytes(1 << 20), 0)))
    assert longest + PDV_HEADER_LENGTH == 1 << 17


@pytest.mark.parametrize("maximum_length", range(1, 8))
def test_a_maximum_length_without_room_for_data_is_refused(maximum_length):
    with pytest.raises(LocalProtocolError, match="no room"):
        p_data(1, b"command!", maximum_length, is_command=True)
