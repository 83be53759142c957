"""Command sets (PS3.7 §6.3.1, §9.3, §10.3, Annex E), with pynetdicom's codec as oracle."""

from __future__ import annotations

import struct
from dataclasses import MISSING, fields, replace
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import dimse_messages
from pynetdicom.pdu_primitives import P_DATA

from dicomnode.dimse.command import (
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    CFindRQ,
    CMoveRSP,
    Command,
    CommandField,
    CStoreRQ,
    CStoreRSP,
    NActionRQ,
    NCreateRQ,
    NDeleteRSP,
    NEventReportRSP,
    NGetRQ,
    NGetRSP,
    Priority,
    UnrecognizedCommand,
    UnrecognizedRSP,
    answer,
    decode_command,
    encode_command,
)
from dicomnode.dimse.elements import ELEMENTS
from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from tests.dimse.strategies import MESSAGES, as_dataset, keyword, messages, messages_of

STORE = CStoreRQ(
    message_id=7,
    affected_sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    affected_sop_instance_uid="1.2.3.4.5",
    has_data_set=True,
)
ECHO = CEchoRQ(message_id=1, affected_sop_class_uid="1.2.840.10008.1.1")


def element(number: int, value: bytes, group: int = 0) -> bytes:
    return struct.pack("<HHI", group, number, len(value)) + value


def us(number: int, value: int) -> bytes:
    return element(number, struct.pack("<H", value))


def without(number: int, data: bytes) -> bytes:
    """``data`` without its element ``number``; the group length stays as it was."""
    kept, start = b"", 0
    while start < len(data):
        _, found, length = struct.unpack_from("<HHI", data, start)
        if found != number:
            kept += data[start : start + 8 + length]
        start += 8 + length
    return kept


def test_all_23_messages_of_the_standard_are_there() -> None:
    assert {message.command_field for message in MESSAGES} == set(CommandField)
    assert len(MESSAGES) == 23


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_fields_are_those_of_pynetdicom_s_message(message: type[Any]) -> None:
    theirs = dimse_messages._COMMAND_SET_KEYWORDS[message.command_field.name.replace("_", "-")]
    ours = {keyword(field.name) for field in fields(message)} | {"CommandField"}
    assert set(theirs) - {"CommandGroupLength"} <= ours


@given(messages())
def test_every_message_survives_the_round_trip(message: Command) -> None:
    assert decode_command(encode_command(message)) == message


@given(messages())
def test_pynetdicom_reads_what_we_write(message: Any) -> None:
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[1, b"\x03" + encode_command(message)]]
    theirs = dimse_messages.DIMSEMessage()
    assert theirs.decode_msg(primitive) is not message.has_data_set
    assert type(theirs).__name__ == message.command_field.name
    expected = as_dataset(message)
    expected.CommandGroupLength = len(encode_command(message)) - 12
    assert theirs.command_set == expected


@given(messages())
def test_we_read_what_pynetdicom_writes(message: Any) -> None:
    theirs = getattr(dimse_messages, message.command_field.name)()
    theirs.command_set = as_dataset(message)
    theirs.data_set = BytesIO(b"data" if message.has_data_set else b"")
    encoded = next(theirs.encode_msg(1, 0)).presentation_data_value_list[0][1][1:]
    assert decode_command(encoded) == message
    # The group length aside, which as_dataset leaves at zero, the bytes are the same.
    assert encode_command(message)[12:] == encoded[12:]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_a_protocol_error(data: bytes) -> None:
    try:
        command = decode_command(data)
    except RemoteProtocolError:
        return
    assert isinstance(command, Command)


@given(messages(), st.data())
def test_a_damaged_command_is_a_command_or_a_protocol_error(message: Any, data: Any) -> None:
    damaged = bytearray(encode_command(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        command = decode_command(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    except RemoteProtocolError:
        return
    # What a peer sent can always be sent back to it.
    if not isinstance(command, UnrecognizedCommand):
        assert decode_command(encode_command(command)).service == command.service


@pytest.mark.parametrize("end", range(len(encode_command(STORE))))
def test_a_command_cut_off_anywhere_is_refused(end: int) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_command(encode_command(STORE)[:end])


@pytest.mark.parametrize("trailing", [b"\0", b"\0" * 7, b"\xff" * 8])
def test_trailing_bytes_are_refused(trailing: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_command(encode_command(STORE) + trailing)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_each_mandatory_element_is_named_when_it_is_missing(message: type[Any]) -> None:
    complete = encode_command(_simplest(message))
    mandatory = [field.name for field in fields(message) if field.default is MISSING]
    for name in [*mandatory, "has_data_set"]:
        with pytest.raises(RemoteProtocolError) as caught:
            decode_command(without(ELEMENTS[name].number, complete))
        assert caught.value.rule.endswith(f"without the mandatory {ELEMENTS[name]}")
        assert caught.value.source == 0
        title = message.command_field.name.replace("_", "-")
        assert caught.value.rule.startswith(title)


def _simplest(message: type[Any]) -> Any:
    given = {
        field.name: "1.2.3" if field.name.endswith("uid") else 1
        for field in fields(message)
        if field.default is MISSING
    }
    if "move_destination" in given:
        given["move_destination"] = "STORE"
    return message(**given)


def test_priority_may_be_missing() -> None:
    without_priority = without(0x0700, encode_command(replace(STORE, priority=Priority.HIGH)))
    assert decode_command(without_priority) == STORE


def test_a_command_without_a_command_field_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="Command Field"):
        decode_command(without(0x0100, encode_command(STORE)))


def test_an_element_of_another_group_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="0010,0010"):
        decode_command(element(0x0010, b"DOE", 0x0010) + encode_command(STORE))


def test_an_element_of_another_group_behind_the_command_is_passed_over() -> None:
    # Orthanc 1.10: a Pending C-GET-RSP after a sub-operation that failed.
    failed = element(0, b"\x0e\0\0\0", 8) + element(0x0058, b"1.2.3\0", 8)
    assert decode_command(encode_command(STORE) + failed) == STORE
    with pytest.raises(RemoteProtocolError, match="0008,0058"):
        decode_command(encode_command(STORE) + failed[:-1])


def test_a_number_of_the_wrong_length_is_named() -> None:
    long_id = without(0x0110, encode_command(STORE)) + element(0x0110, b"\1\0\0\0")
    with pytest.raises(RemoteProtocolError, match=r"C-STORE-RQ with Message ID \(0000,0110\)"):
        decode_command(long_id)


def test_a_tag_list_of_the_wrong_length_is_named() -> None:
    message = NGetRQ(message_id=1, requested_sop_class_uid="1.2", requested_sop_instance_uid="1.3")
    with pytest.raises(RemoteProtocolError, match="Attribute Identifier List"):
        decode_command(encode_command(message) + element(0x1005, b"\x10\0\x10"))


def test_a_length_beyond_the_command_is_refused_without_taking_memory() -> None:
    with pytest.raises(RemoteProtocolError, match="4294967295 bytes where 0 are left"):
        decode_command(struct.pack("<HHI", 0, 0x0100, 0xFFFFFFFF))


def test_a_wrong_group_length_order_and_unknown_elements_are_let_pass() -> None:
    body = encode_command(STORE)[12:]
    data = us(0x5180, 3) + body[34:] + body[:34] + element(0, b"\xff\xff\xff\xff")
    assert len(element(0x0002, b"1.2.840.10008.5.1.4.1.1.2\0")) == 34
    assert decode_command(data) == STORE


@pytest.mark.parametrize("padded", [b"1.2.3\0", b"1.2.3 ", b" 1.2.3", b"1.2.3", b"1.2.3\0\0\0"])
def test_uids_are_read_whatever_they_are_padded_with(padded: bytes) -> None:
    data = without(0x1000, encode_command(STORE)) + element(0x1000, padded)
    assert decode_command(data) == replace(STORE, affected_sop_instance_uid="1.2.3")


def test_a_memoryview_is_read_and_not_kept() -> None:
    buffer = bytearray(encode_command(STORE))
    command = decode_command(memoryview(buffer))
    buffer.clear()
    assert command == STORE


def test_bytes_that_are_no_ascii_are_echoed_as_they_came() -> None:
    data = without(0x1000, encode_command(STORE)) + element(0x1000, b"\xff\xfe")
    request = decode_command(data)
    assert isinstance(request, CStoreRQ)
    assert element(0x1000, b"\xff\xfe") in encode_command(answer(request, 0xA900))


@pytest.mark.parametrize("data_set_type", [0x0000, 0x0001, 0x0102, 0xFEFE])
def test_every_data_set_type_but_0101h_announces_a_data_set(data_set_type: int) -> None:
    data = without(0x0800, encode_command(ECHO)) + us(0x0800, data_set_type)
    assert decode_command(data).has_data_set
    assert not decode_command(encode_command(ECHO)).has_data_set


def test_an_echo_request_is_these_bytes() -> None:
    assert encode_command(ECHO) == bytes.fromhex(
        "00000000 04000000 38000000"
        "00000200 12000000 312e322e3834302e31303030382e312e3100"
        "00000001 02000000 3000"
        "00001001 02000000 0100"
        "00000008 02000000 0101"
    )


def test_an_error_comment_is_cut_to_64_printable_characters() -> None:
    response = CStoreRSP(message_id_being_responded_to=1, status=0xC000, error_comment="é\\\n" * 30)
    decoded = decode_command(encode_command(response))
    assert decoded == replace(response, error_comment="?" * 64)


def test_counters_beyond_us_are_clipped() -> None:
    response = CMoveRSP(
        message_id_being_responded_to=1, status=0xFF00, number_of_remaining_suboperations=70_000
    )
    decoded = decode_command(encode_command(response))
    assert decoded == replace(response, number_of_remaining_suboperations=0xFFFF)


@pytest.mark.parametrize(
    "command",
    [replace(ECHO, message_id=65536), replace(ECHO, affected_sop_class_uid="1.2.\N{SNOWMAN}")],
)
def test_our_own_value_that_does_not_fit_is_a_local_error(command: Command) -> None:
    with pytest.raises(LocalProtocolError, match="C-ECHO-RQ cannot be encoded"):
        encode_command(command)


class TestUnrecognized:
    data = us(0x0100, 0x0666) + us(0x0110, 9) + us(0x0800, 0x0101)

    def test_an_unknown_command_field_is_kept_for_the_answer(self) -> None:
        command = decode_command(self.data)
        assert command == UnrecognizedCommand(command_field=0x0666, message_id=9)
        assert command.service == "unrecognized"

    def test_it_is_answered_with_its_own_field_and_bit_15(self) -> None:
        request = UnrecognizedCommand(
            command_field=0x0666, message_id=9, affected_sop_class_uid="1.2.3"
        )
        response = answer(request, 0x0211, error_comment="unknown")
        assert response == UnrecognizedRSP(
            command_field=0x8666,
            message_id_being_responded_to=9,
            status=0x0211,
            affected_sop_class_uid="1.2.3",
            error_comment="unknown",
        )
        assert us(0x0100, 0x8666) in encode_command(response)
        assert us(0x0120, 9) in encode_command(response)

    def test_an_unknown_response_is_refused(self) -> None:
        with pytest.raises(RemoteProtocolError, match="Message ID"):
            decode_command(us(0x0100, 0x8666) + us(0x0120, 9) + us(0x0800, 0x0101))


class TestAnswer:
    def test_a_store_is_answered_for_its_class_and_instance(self) -> None:
        assert answer(STORE, 0xA700, error_comment="disk full") == CStoreRSP(
            message_id_being_responded_to=7,
            status=0xA700,
            affected_sop_class_uid=STORE.affected_sop_class_uid,
            affected_sop_instance_uid=STORE.affected_sop_instance_uid,
            error_comment="disk full",
        )

    def test_requested_uids_become_affected_ones(self) -> None:
        request = NGetRQ(
            message_id=3, requested_sop_class_uid="1.2", requested_sop_instance_uid="1.3"
        )
        assert answer(request, 0x0112, offending_element=(0x00100010,)) == NGetRSP(
            message_id_being_responded_to=3,
            status=0x0112,
            affected_sop_class_uid="1.2",
            affected_sop_instance_uid="1.3",
            offending_element=(0x00100010,),
        )

    def test_an_instance_that_the_request_leaves_open_stays_open(self) -> None:
        request = NCreateRQ(message_id=3, affected_sop_class_uid="1.2")
        response = answer(request, 0)
        assert b"\0\0\0\x10" not in encode_command(response)

    @pytest.mark.parametrize(
        "message", [m for m in MESSAGES if m.__name__.endswith("RQ") and m is not CCancelRQ]
    )
    def test_every_request_has_its_response(self, message: type[Any]) -> None:
        request = _simplest(message)
        response = answer(request, 0)
        assert type(response).__name__ == message.__name__.removesuffix("RQ") + "RSP"
        assert response.service == request.service
        assert decode_command(encode_command(response)) == response


@pytest.mark.parametrize(
    ("message", "service"),
    [
        (CStoreRQ, "C-STORE"),
        (CEchoRSP, "C-ECHO"),
        (CFindRQ, "C-FIND"),
        (CCancelRQ, "C-CANCEL"),
        (NEventReportRSP, "N-EVENT-REPORT"),
        (NActionRQ, "N-ACTION"),
        (NDeleteRSP, "N-DELETE"),
    ],
)
def test_services_have_the_standard_s_names(message: type[Any], service: str) -> None:
    assert _simplest(message).service == service


@given(messages_of(CStoreRQ))
def test_commands_are_values(message: CStoreRQ) -> None:
    assert hash(message) == hash(replace(message))
    with pytest.raises(AttributeError):
        message.message_id = 1  # type: ignore[misc]
