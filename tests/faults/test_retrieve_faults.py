"""Requesters of retrieval that hang, die or lie, and identifiers that are wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import StartNode
from tests.faults.images import (
    CANCEL,
    IMAGES,
    OBJECTS,
    SOME_FAILED,
    STUDY,
    UNKNOWN_DESTINATION,
    failed_uids,
    retrieving_node,
)
from tests.faults.scu import Image, store
from tests.peers import eventually
from tests.query_wire import (
    ECHO,
    GET,
    QUERY_RETRIEVE_LEVEL,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STORE,
    STUDY_INSTANCE_UID,
    QueryWire,
    c_get_rq,
    c_store_rsp,
    identifier,
    nothing_more_comes,
    querying,
)
from tests.wire import P_DATA, pdu, pdv


def test_a_get_brings_everything_and_counts_it(start_node: StartNode) -> None:
    node = retrieving_node(start_node, [])
    with querying(node.dicom_address) as wire:
        answers = wire.get(STUDY)
        assert answers.status == 0x0000
        assert answers.counters == (None, OBJECTS, 0, 0)
        assert answers.stored == {each.uid: len(each.data_set) for each in IMAGES}


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancelled_get_counts_what_is_left(start_node: StartNode, after: int) -> None:
    node = retrieving_node(start_node, [])
    with querying(node.dicom_address) as wire:
        answers = wire.get(STUDY, cancel_after=after)
        remaining, completed, *_ = answers.counters
        assert answers.status == CANCEL or after == 3
        assert (remaining or 0) + (completed or 0) == OBJECTS or after == 0
        assert completed == len(answers.stored)
        assert wire.get(STUDY).status == 0x0000
        wire.release()


def get_and_read_nothing(wire: QueryWire, message_id: int = 1) -> None:
    wire.send(b"".join(wire.message(GET, c_get_rq(message_id), identifier(STUDY))))


def first_object(wire: QueryWire) -> tuple[int, dict[int, bytes]]:
    for context_id, command, _ in wire.messages():
        if command[0x0100] == b"\1\0":
            return context_id, command
    raise AssertionError("unreachable")


def never_answers(wire: QueryWire) -> None:
    get_and_read_nothing(wire)
    first_object(wire)


def aborts(wire: QueryWire) -> None:
    get_and_read_nothing(wire)
    first_object(wire)
    wire.abort()


def closes(wire: QueryWire) -> None:
    get_and_read_nothing(wire)
    wire.socket.close()


def answers_what_was_not_asked(wire: QueryWire) -> None:
    get_and_read_nothing(wire)
    context_id, command = first_object(wire)
    wrong = c_store_rsp({**command, 0x0110: b"\x39\x30"})
    wire.send(pdu(P_DATA, pdv(context_id, wrong, command=True)))


def answers_twice(wire: QueryWire) -> None:
    get_and_read_nothing(wire)
    context_id, command = first_object(wire)
    answer = pdu(P_DATA, pdv(context_id, c_store_rsp(command), command=True))
    wire.send(answer + answer)


def answers_without_being_asked(wire: QueryWire) -> None:
    command = {0x0002: b"1.2", 0x0110: b"\1\0", 0x1000: b"1.2.3"}
    wire.send(pdu(P_DATA, pdv(STORE, c_store_rsp(command), command=True)))


@pytest.mark.parametrize(
    "behaviour",
    [
        never_answers,
        aborts,
        closes,
        answers_what_was_not_asked,
        answers_twice,
        answers_without_being_asked,
    ],
)
def test_a_requester_that_breaks_the_rules_loses_only_its_association(
    start_node: StartNode, behaviour: Callable[[QueryWire], None]
) -> None:
    node = retrieving_node(start_node, [])
    with querying(node.dicom_address) as wire:
        behaviour(wire)
        eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")
    with querying(node.dicom_address) as wire:
        assert wire.get(STUDY).status == 0x0000


def test_a_requester_that_does_not_read_is_let_go_after_the_write_deadline(
    start_node: StartNode,
) -> None:
    node = start_node(timeouts={"write_seconds": 0.5}, storage={"durability": "relaxed"})
    # More than the system takes from the node without the peer having read any.
    store(node.dicom_address, Image(1, size_bytes=16 << 20))
    with querying(node.dicom_address, receive_buffer_bytes=4096) as wire:
        get_and_read_nothing(wire)
        eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")


def test_a_requester_that_stops_reading_can_cancel_and_read_on(start_node: StartNode) -> None:
    node = start_node(storage={"durability": "relaxed"})
    large = [Image(number, size_bytes=8 << 20) for number in (1, 2, 3)]
    store(node.dicom_address, *large)
    with querying(node.dicom_address, receive_buffer_bytes=4096) as wire:
        get_and_read_nothing(wire)
        eventually(nothing_more_comes(wire), "the object waits for the peer")
        wire.cancel(GET, 1)
        # What has begun comes to its end; C-CANCEL lands before the next object.
        context_id, command = first_object(wire)
        wire.send(pdu(P_DATA, pdv(context_id, c_store_rsp(command), command=True)))
        final = next(response for _, response, _ in wire.messages() if 0x0900 in response)
        assert int.from_bytes(final[0x0900], "little") == CANCEL
        assert wire.echo(ECHO) == 0


def test_an_object_whose_file_is_gone_fails_and_the_others_come(start_node: StartNode) -> None:
    node = retrieving_node(start_node, [])
    IMAGES[1].path(node.store_directory).unlink()
    cut = IMAGES[3].path(node.store_directory)
    cut.write_bytes(cut.read_bytes()[:-1000])
    with querying(node.dicom_address) as wire:
        answers = wire.get(STUDY)
    assert answers.status == SOME_FAILED
    assert answers.counters == (None, OBJECTS - 2, 2, 0)
    assert failed_uids(answers) == {IMAGES[1].uid, IMAGES[3].uid}


@pytest.mark.parametrize(
    "keys",
    [
        {QUERY_RETRIEVE_LEVEL: "STUDY"},
        {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: ""},
        {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: "1.2.*"},
        {QUERY_RETRIEVE_LEVEL: "SERIES", SERIES_INSTANCE_UID: "1.2"},
        {QUERY_RETRIEVE_LEVEL: "PATIENT", STUDY_INSTANCE_UID: "1.2"},
        {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: "1.2", SOP_INSTANCE_UID: "1.2.3"},
        {STUDY_INSTANCE_UID: "1.2"},
    ],
)
def test_a_wrong_identifier_is_explained(start_node: StartNode, keys: dict[int, str]) -> None:
    node = retrieving_node(start_node, [])
    with querying(node.dicom_address) as wire:
        for answers in (wire.get(keys), wire.move("ELSEWHERE", keys)):
            assert answers.status in (0xA900, UNKNOWN_DESTINATION)
            assert answers.comment
        assert wire.get(keys).status == 0xA900


def test_what_is_not_there_is_success_with_nothing_done(start_node: StartNode) -> None:
    node = retrieving_node(start_node, [])
    with querying(node.dicom_address) as wire:
        answers = wire.get({QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: "1.2.3"})
    assert answers.status == 0x0000
    assert answers.counters == (None, 0, 0, 0)


def test_a_get_of_a_hundred_thousand_uids_is_refused_with_the_limit(
    start_node: StartNode,
) -> None:
    node = retrieving_node(start_node, [])
    listed = "\\".join(f"1.2.3.{number}" for number in range(100_000))
    with querying(node.dicom_address) as wire:
        answers = wire.get({QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: listed})
        assert answers.status in (0xA700, 0xA701, 0xA702, 0xA900)
        assert answers.comment
        assert wire.get(STUDY).status == 0x0000
