"""Fragments joined into commands and data set streams (PS3.7 §6.3, PS3.8 Annex E)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import dimse_messages

from dicomnode.dimse.command import (
    CEchoRQ,
    CFindRQ,
    CStoreRQ,
    UnrecognizedCommand,
    encode_command,
)
from dicomnode.dimse.message import CommandReceived, DataFragment, MessageReader
from dicomnode.errors import RemoteProtocolError
from tests.dimse.strategies import as_dataset, messages

ECHO = CEchoRQ(message_id=1, affected_sop_class_uid="1.2.840.10008.1.1")
STORE = CStoreRQ(
    message_id=7,
    affected_sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    affected_sop_instance_uid="1.2.3.4.5",
    has_data_set=True,
)


@dataclass(frozen=True, slots=True)
class Pdv:
    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


def command(data: bytes, *, on: int = 1, last: bool = True) -> Pdv:
    return Pdv(on, True, last, memoryview(data))


def data_set(data: bytes, *, on: int = 1, last: bool = False) -> Pdv:
    return Pdv(on, False, last, memoryview(data))


@pytest.fixture
def reader() -> MessageReader:
    return MessageReader({1, 3})


def refused(reader: MessageReader, pdv: Pdv) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        reader.feed(pdv)
    assert (caught.value.source, caught.value.reason) == (0, 0)
    return caught.value.rule


def test_a_command_without_a_data_set_is_one_message(reader: MessageReader) -> None:
    for _ in range(3):
        assert reader.feed(command(encode_command(ECHO))) == CommandReceived(1, ECHO)
        assert reader.is_between_messages


def test_a_data_set_is_handed_on_without_a_copy(reader: MessageReader) -> None:
    assert reader.feed(command(encode_command(STORE), on=3)) == CommandReceived(3, STORE)
    first, last = memoryview(b"first"), memoryview(b"last")
    event = reader.feed(Pdv(3, False, False, first))
    assert isinstance(event, DataFragment)
    assert event.data is first
    assert not reader.is_between_messages
    assert reader.feed(Pdv(3, False, True, last)) == DataFragment(3, last, True)
    assert reader.is_between_messages
    assert reader.feed(command(encode_command(ECHO), on=1)) == CommandReceived(1, ECHO)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_a_command_in_many_fragments_is_joined(reader: MessageReader, size: int) -> None:
    encoded = encode_command(STORE)
    for start in range(0, len(encoded), size):
        assert reader.feed(command(encoded[start : start + size], last=False)) is None
    assert reader.feed(command(b"")) == CommandReceived(1, STORE)
    reader.feed(data_set(b"", last=True))
    assert reader.feed(command(encode_command(ECHO))) == CommandReceived(1, ECHO)


def test_fragments_of_a_command_are_copied(reader: MessageReader) -> None:
    buffer = bytearray(encode_command(ECHO))
    reader.feed(Pdv(1, True, False, memoryview(buffer)[:20]))
    rest = bytes(buffer[20:])
    buffer[:] = bytes(len(buffer))
    assert reader.feed(command(rest)) == CommandReceived(1, ECHO)


def test_empty_fragments_are_let_pass(reader: MessageReader) -> None:
    assert reader.feed(command(b"", last=False)) is None
    assert reader.feed(command(encode_command(STORE))) == CommandReceived(1, STORE)
    assert reader.feed(data_set(b"")) is None
    assert reader.feed(data_set(b"", last=True)) == DataFragment(1, memoryview(b""), True)


def test_an_unrecognized_command_has_its_data_set_too(reader: MessageReader) -> None:
    data = bytearray(encode_command(STORE))
    at = data.index(b"\0\0\0\x01\x02\0\0\0") + 8
    data[at : at + 2] = b"\x66\x06"
    event = reader.feed(command(bytes(data)))
    assert isinstance(event, CommandReceived)
    assert isinstance(event.command, UnrecognizedCommand)
    assert reader.feed(data_set(b"x", last=True)) == DataFragment(1, memoryview(b"x"), True)


def test_a_context_that_is_not_accepted_is_refused(reader: MessageReader) -> None:
    assert "context 5, which is not accepted" in refused(
        reader, command(encode_command(ECHO), on=5)
    )


def test_data_before_a_command_is_refused(reader: MessageReader) -> None:
    assert "before its command is whole" in refused(reader, data_set(b"x"))


def test_data_inside_a_command_is_refused(reader: MessageReader) -> None:
    reader.feed(command(encode_command(STORE), last=False))
    assert "before its command is whole" in refused(reader, data_set(b"x"))


def test_data_after_a_command_that_announced_none_is_refused(reader: MessageReader) -> None:
    reader.feed(command(encode_command(ECHO)))
    assert "before its command is whole" in refused(reader, data_set(b"x"))


def test_data_after_the_last_fragment_is_refused(reader: MessageReader) -> None:
    reader.feed(command(encode_command(STORE)))
    reader.feed(data_set(b"x", last=True))
    assert "before its command is whole" in refused(reader, data_set(b"y", last=True))


def test_a_command_inside_a_data_set_is_refused(reader: MessageReader) -> None:
    reader.feed(command(encode_command(STORE)))
    assert "inside a data set" in refused(reader, command(encode_command(ECHO)))


@pytest.mark.parametrize("is_open", ["command", "data set"])
def test_a_message_interleaved_on_another_context_is_refused(
    reader: MessageReader, is_open: str
) -> None:
    reader.feed(command(encode_command(STORE), last=is_open == "data set"))
    rule = refused(reader, command(encode_command(ECHO), on=3))
    assert rule == "a fragment on context 3 inside a message on context 1"


def test_a_broken_command_is_refused(reader: MessageReader) -> None:
    assert "Command Field" in refused(reader, command(b""))


def test_a_command_of_the_largest_size_passes_and_one_byte_more_does_not() -> None:
    encoded = encode_command(ECHO)
    assert MessageReader({1}, max_command_bytes=len(encoded)).feed(command(encoded))
    small = MessageReader({1}, max_command_bytes=len(encoded) - 1)
    assert f"a command set of {len(encoded)} bytes" in refused(small, command(encoded))


def test_a_command_that_never_ends_is_refused_at_the_cap(reader: MessageReader) -> None:
    for _ in range(64):
        reader.feed(command(b"x" * 1024, last=False))
    assert "at most 65536" in refused(reader, command(b"x", last=False))


@given(messages(), st.binary(max_size=300), st.integers(20, 200))
def test_messages_fragmented_by_pynetdicom_are_joined(
    message: Any, payload: bytes, maximum_length: int
) -> None:
    payload = b"\0" + payload
    theirs = getattr(dimse_messages, message.command_field.name)()
    theirs.command_set = as_dataset(message)
    theirs.data_set = BytesIO(payload if message.has_data_set else b"")
    reader, received, events = MessageReader({1}), b"", []
    for primitive in theirs.encode_msg(1, maximum_length):
        for context_id, value in primitive.presentation_data_value_list:
            event = reader.feed(
                Pdv(context_id, bool(value[0] & 1), bool(value[0] & 2), memoryview(value)[1:])
            )
            if isinstance(event, DataFragment):
                received += event.data
            elif event is not None:
                events.append(event)
    assert events == [CommandReceived(1, message)]
    assert received == (payload if message.has_data_set else b"")
    assert reader.is_between_messages


_pieces = st.sampled_from(
    [
        b"",
        b"x" * 9,
        encode_command(ECHO),
        encode_command(STORE),
        encode_command(replace(STORE, has_data_set=False)),
        encode_command(CFindRQ(message_id=2, affected_sop_class_uid="1.2", has_data_set=True)),
    ]
)


@given(
    st.lists(
        st.builds(
            Pdv,
            st.sampled_from([1, 1, 1, 3, 5]),
            st.booleans(),
            st.booleans(),
            _pieces.map(memoryview),
        ),
        max_size=12,
    )
)
def test_any_fragments_are_messages_or_a_protocol_error(pdvs: list[Pdv]) -> None:
    reader = MessageReader({1, 3})
    data_is_due = False
    for pdv in pdvs:
        try:
            event = reader.feed(pdv)
        except RemoteProtocolError:
            return
        match event:
            case CommandReceived(command=received):
                assert not data_is_due
                data_is_due = received.has_data_set
            case DataFragment(is_last=is_last):
                assert data_is_due
                data_is_due = not is_last
            case None:
                pass
