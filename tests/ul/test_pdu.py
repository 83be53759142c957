"""PDUs and items against pynetdicom's codec, against recordings, and against hostile bytes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from dicomnode.ul import items
from dicomnode.ul.pdu import (
    AAbort,
    AAssociateAC,
    AAssociateRJ,
    AAssociateRQ,
    PDataTF,
    PDUType,
    PresentationDataValue,
    Rejection,
    abort_pdu,
    decode_pdu,
    p_data_header,
)
from tests.ul import oracle
from tests.ul.recorded import PDUS
from tests.ul.strategies import pdus, requests, responses

REQUEST = AAssociateRQ(
    "CALLED",
    "CALLING",
    (items.PresentationContextRQ(1, "1.2.840.10008.1.1", ("1.2.840.10008.1.2",)),),
    (
        items.MaximumLength(16384),
        items.ImplementationClassUID("1.2.3"),
        items.AsynchronousOperationsWindow(3, 0),
        items.RoleSelection("1.2.840.10008.1.1", True, True),
        items.ImplementationVersionName("V"),
        items.ExtendedNegotiation("1.2.840.10008.1.1", b"\1\0"),
        items.CommonExtendedNegotiation("1.2.840.10008.1.1", "1.2.4", ("1.2.5", "1.2.6")),
        items.UserIdentityRQ(2, True, b"name", b"passcode"),
    ),
)


def whole(data: bytes):
    """Decode one whole PDU."""
    assert int.from_bytes(data[2:6]) == len(data) - 6
    return decode_pdu(data[0], memoryview(data)[6:])


def body_of(request: AAssociateRQ | AAssociateAC) -> bytes:
    return request.encode()[6:]


@given(pdus)
def test_what_is_encoded_decodes_to_the_same(pdu):
    assert whole(pdu.encode()) == pdu


@given(pdus)
def test_pynetdicom_reads_and_writes_the_same_bytes(pdu):
    theirs = oracle.decode(pdu.encode())
    assert oracle.translate(theirs) == pdu
    assert theirs.encode() == pdu.encode()


@pytest.mark.parametrize("name", PDUS)
def test_recorded_pdus_decode_as_pynetdicom_decodes_them(name):
    assert whole(PDUS[name]) == oracle.translate(oracle.decode(PDUS[name]))


@pytest.mark.parametrize("name", PDUS)
def test_recorded_pdus_encode_to_what_the_peer_sent_but_for_reserved_bytes(name):
    ours = whole(PDUS[name]).encode()
    differences = {pair for pair in zip(ours, PDUS[name], strict=True) if pair[0] != pair[1]}
    # DCMTK fills the reserved bytes of a presentation context with FFH (PS3.8 wants 00H).
    assert differences <= {(0x00, 0xFF)}


def test_user_identity_with_password_is_read_and_never_shown():
    identity = whole(PDUS["DCMTK_STORESCU_RQ"]).find(items.UserIdentityRQ)
    assert identity == items.UserIdentityRQ(2, True, b"radiologist", b"secret")
    assert "secret" not in repr(identity)
    assert "radiologist" not in repr(identity)


def test_titles_lose_the_spaces_and_nuls_around_them():
    body = bytearray(body_of(REQUEST))
    body[4:20] = b"  CALLED \0\0\0\0\0\0\0"
    assert decode_pdu(1, memoryview(body)).called_ae_title == "CALLED"


def test_titles_longer_than_sixteen_characters_are_our_own_mistake():
    with pytest.raises(LocalProtocolError, match="longer than 16"):
        dataclasses.replace(REQUEST, called_ae_title="X" * 17).encode()


def test_text_that_a_pdu_cannot_carry_is_our_own_mistake():
    with pytest.raises(LocalProtocolError, match="cannot carry"):
        dataclasses.replace(REQUEST, called_ae_title="放射線").encode()


def test_items_longer_than_their_length_field_are_our_own_mistake():
    with pytest.raises(LocalProtocolError, match="16-bit"):
        items.ExtendedNegotiation("1.2", bytes(0x10000)).encode()
    with pytest.raises(LocalProtocolError, match="16-bit"):
        items.UserIdentityRQ(4, False, bytes(0x10000)).encode()


def test_unknown_items_are_ignored_at_every_level():
    unknown = items.encode_item(0x99, b"whatever")
    context = items.encode_item(
        0x20,
        bytes((1, 0, 0, 0))
        + unknown
        + items.encode_item(0x30, b"1.2.840.10008.1.1")
        + unknown
        + items.encode_item(0x40, b"1.2.840.10008.1.2"),
    )
    user = items.encode_item(0x50, unknown + items.MaximumLength(16384).encode() + unknown)
    body = body_of(dataclasses.replace(REQUEST, presentation_contexts=()))[:68]
    body += unknown + items.encode_item(0x10, b"1.2.840.10008.3.1.1.1") + context + user + unknown
    expected = dataclasses.replace(REQUEST, user_information=(items.MaximumLength(16384),))
    assert decode_pdu(1, memoryview(body)) == expected


def test_missing_items_leave_their_fields_empty_for_negotiation_to_judge():
    request = decode_pdu(1, memoryview(body_of(REQUEST)[:68]))
    assert request.application_context_name == ""
    assert request.presentation_contexts == ()
    assert request.find(items.MaximumLength) is None
    bare = items.PresentationContextRQ.decode(memoryview(bytes((1, 0, 0, 0))))
    assert bare == items.PresentationContextRQ(1, "", ())


def test_a_refused_context_needs_no_transfer_syntax_in_the_answer():
    bare = items.PresentationContextAC.decode(memoryview(bytes((1, 0, 3, 0))))
    assert bare.result is items.ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    assert bare.transfer_syntax == ""


def test_a_context_result_that_does_not_exist_is_a_refusal():
    answer = items.PresentationContextAC.decode(memoryview(bytes((1, 0, 77, 0))))
    assert answer.result is items.ContextResult.NO_REASON


@pytest.mark.parametrize("context_id", [0, 2, 254])
def test_even_context_ids_make_the_request_invalid(context_id):
    contexts = (items.PresentationContextRQ(context_id, "1.2", ("1.2",)),)
    body = body_of(dataclasses.replace(REQUEST, presentation_contexts=contexts))
    with pytest.raises(RemoteProtocolError, match="not odd") as caught:
        decode_pdu(1, memoryview(body))
    assert (caught.value.source, caught.value.reason) == (2, 6)


def test_repeated_context_ids_make_the_request_invalid():
    contexts = REQUEST.presentation_contexts * 2
    body = body_of(dataclasses.replace(REQUEST, presentation_contexts=contexts))
    with pytest.raises(RemoteProtocolError, match="twice"):
        decode_pdu(1, memoryview(body))


def test_128_contexts_are_read_and_one_more_is_too_many():
    contexts = tuple(
        items.PresentationContextRQ(n, "1.2", ("1.2.840.10008.1.2",)) for n in range(1, 256, 2)
    )
    full = dataclasses.replace(REQUEST, presentation_contexts=contexts)
    assert whole(full.encode()) == full
    over = dataclasses.replace(full, presentation_contexts=(*contexts, contexts[0]))
    with pytest.raises(RemoteProtocolError, match="more than 128"):
        whole(over.encode())


def test_the_order_of_items_does_not_matter():
    body = body_of(REQUEST)
    head, variable = body[:68], body[68:]
    pieces = [
        items.encode_item(item_type, bytes(value))
        for item_type, value in items.split_items(memoryview(variable), "the request")
    ]
    assert decode_pdu(1, memoryview(head + b"".join(reversed(pieces)))) == REQUEST


def test_of_items_that_may_be_there_once_the_first_counts():
    again = items.encode_item(0x10, b"1.2.3") + items.encode_item(
        0x50, items.MaximumLength(1).encode()
    )
    assert decode_pdu(1, memoryview(body_of(REQUEST) + again)) == REQUEST


@pytest.mark.parametrize("pdu_type", [0, 8, 0x16, 0x47, 255])
def test_pdu_types_that_do_not_exist_are_unrecognized(pdu_type):
    with pytest.raises(RemoteProtocolError) as caught:
        decode_pdu(pdu_type, memoryview(bytes(4)))
    assert caught.value.reason == 1


@pytest.mark.parametrize("pdu_type", [3, 5, 6, 7])
@pytest.mark.parametrize("length", [0, 3, 5])
def test_pdus_of_fixed_length_have_no_other(pdu_type, length):
    with pytest.raises(RemoteProtocolError) as caught:
        decode_pdu(pdu_type, memoryview(bytes(length)))
    assert caught.value.reason == 6


def test_codes_that_the_standard_does_not_know_decode_as_they_are():
    assert AAssociateRJ.decode(memoryview(bytes((0, 9, 8, 7)))) == AAssociateRJ(9, 8, 7)
    assert AAssociateRJ(9, 8, 7).words == "Reason 7 of source 8"
    assert AAbort.decode(memoryview(bytes((0, 0, 1, 99)))) == AAbort(1, 99)
    assert AAbort(1, 99).words == "source 1, reason 99"
    assert AAbort(2, 99).words == "service-provider, reason 99"
    assert AAbort(2, 6).words == "service-provider, invalid PDU parameter value"
    assert AAbort(0, 6).words == "service-user"


@pytest.mark.parametrize("rejection", Rejection)
def test_every_rejection_is_a_triple_of_the_standard_in_its_words(rejection):
    allowed = {
        1: {1: "No reason given", 2: "Application context name not supported"}
        | {3: "Calling AE title not recognized", 7: "Called AE title not recognized"},
        2: {1: "No reason given", 2: "Protocol version not supported"},
        3: {1: "Temporary congestion", 2: "Local limit exceeded"},
    }
    assert rejection.result in (1, 2)
    assert allowed[rejection.source][rejection.reason] == rejection.words
    assert AAssociateRJ.of(rejection).words == rejection.words


def test_an_abort_of_the_service_user_carries_no_reason():
    assert abort_pdu(0, 6) == AAbort(0, 0)
    assert abort_pdu(2, 6) == AAbort(2, 6)


@pytest.mark.parametrize(("source", "reason"), [(1, 0), (3, 0), (2, 3), (2, 7)])
def test_an_abort_with_codes_that_do_not_exist_cannot_be_made(source, reason):
    with pytest.raises(LocalProtocolError):
        abort_pdu(source, reason)


def p_data(*parts: bytes) -> memoryview:
    return memoryview(b"".join(parts))


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (p_data(), "without a PDV"),
        (p_data(b"\0\0\0\2\1"), "left over"),
        (p_data(b"\0\0\0\1\1\0"), "claims 1 bytes"),
        (p_data(b"\0\0\0\0\1\0"), "claims 0 bytes"),
        (p_data(b"\0\0\0\7\1\0abcd"), "claims 7 bytes"),
        (p_data(b"\xff\xff\xff\xff\1\0abcd"), "claims 4294967295 bytes"),
        (p_data(b"\0\0\0\6\1\0abcd", b"\0\0\0"), "left over"),
        (p_data(b"\0\0\0\6\1\0abcd", b"\0\0\0\3\1\0"), "claims 3 bytes"),
    ],
)
def test_pdv_lengths_that_do_not_add_up_are_invalid(body, rule):
    with pytest.raises(RemoteProtocolError, match=rule) as caught:
        decode_pdu(4, body)
    assert caught.value.reason == 6


def test_the_message_control_header_is_read_by_its_two_bits_only():
    (value,) = PDataTF.decode(p_data(b"\0\0\0\2\1\xfe")).values
    assert (value.is_command, value.is_last) == (False, True)


def test_data_of_a_p_data_tf_are_views_not_copies():
    body = bytearray(b"\0\0\0\6\1\2abcd")
    (value,) = PDataTF.decode(memoryview(body)).values
    body[6:] = b"wxyz"
    assert bytes(value.data) == b"wxyz"


@pytest.mark.parametrize("is_command", [True, False])
@pytest.mark.parametrize("is_last", [True, False])
def test_the_header_before_one_fragment_is_that_of_a_pdu_with_one_value(is_command, is_last):
    value = PresentationDataValue(3, is_command, is_last, b"payload!")
    header = p_data_header(3, 8, is_command=is_command, is_last=is_last)
    assert header + b"payload!" == PDataTF((value,)).encode()


@pytest.mark.parametrize("name", PDUS)
def test_truncated_pdus_are_protocol_errors_or_shorter_pdus(name):
    data = PDUS[name]
    step = max(1, len(data) // 500)
    for end in range(6, len(data), step):
        try:
            decode_pdu(data[0], memoryview(data)[6:end])
        except RemoteProtocolError as error:
            assert error.source == 2


def test_a_request_truncated_inside_an_item_is_invalid_at_every_offset():
    body = body_of(REQUEST)
    boundaries = {68}
    offset = 68
    while offset < len(body):
        offset += 4 + int.from_bytes(body[offset + 2 : offset + 4])
        boundaries.add(offset)
    for end in set(range(len(body))) - boundaries:
        with pytest.raises(RemoteProtocolError):
            decode_pdu(1, memoryview(body)[:end])


@pytest.mark.parametrize("item", REQUEST.user_information, ids=lambda item: type(item).__name__)
def test_user_items_truncated_at_any_offset_never_raise_anything_else(item):
    value = item.encode()[4:]
    for end in range(len(value)):
        try:
            type(item).decode(memoryview(value)[:end])
        except RemoteProtocolError as error:
            assert error.reason == 6


@pytest.mark.parametrize(
    "item",
    [
        items.MaximumLength(1),
        items.AsynchronousOperationsWindow(1, 1),
        items.RoleSelection("1.2", True, False),
        items.UserIdentityRQ(1, False, b"x"),
        items.UserIdentityAC(b"x"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_user_items_with_trailing_bytes_are_invalid(item):
    with pytest.raises(RemoteProtocolError, match="instead of"):
        type(item).decode(memoryview(item.encode()[4:] + b"\0"))


@given(st.sampled_from(PDUType), st.binary(max_size=200))
def test_any_bytes_are_a_pdu_or_a_protocol_error(pdu_type, body):
    try:
        decode_pdu(pdu_type, memoryview(body))
    except RemoteProtocolError as error:
        assert (error.source, error.reason) == (2, 6)


@given(st.one_of(requests, responses), st.data())
def test_a_pdu_with_damaged_bytes_is_a_pdu_or_a_protocol_error(pdu, data):
    damaged = bytearray(pdu.encode()[6:])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_pdu(pdu.TYPE, memoryview(damaged))
    except RemoteProtocolError as error:
        assert (error.source, error.reason) == (2, 6)
