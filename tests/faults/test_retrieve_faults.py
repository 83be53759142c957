"""Destinations and requesters of retrieval that refuse, hang, die or lie."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests import peers
from tests.conftest import RunningNode, StartNode
from tests.destination import Behaviour, Conversation, Destination, destination
from tests.faults.scu import ROOT, Image, store
from tests.interop.samples import STORAGE_CLASSES
from tests.peers import eventually
from tests.query_wire import (
    ECHO,
    GET,
    MOVE,
    QUERY_RETRIEVE_LEVEL,
    SERIES_INSTANCE_UID,
    SOP_INSTANCE_UID,
    STORE,
    STUDY_INSTANCE_UID,
    Answers,
    QueryWire,
    c_get_rq,
    c_move_rq,
    c_store_rsp,
    identifier,
    nothing_more_comes,
    querying,
)
from tests.wire import EXPLICIT_LE, P_DATA, Wire, data_set, pdu, pdv

OBJECTS = 6
CANCEL, FAILED, SOME_FAILED = 0xFE00, 0xA702, 0xB000
UNKNOWN_DESTINATION = 0xA801
IMAGES = [Image(number, size_bytes=40_000) for number in range(1, OBJECTS + 1)]
STUDY = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: IMAGES[0].study_uid}
QUICK = {"connect_seconds": 0.5, "response_seconds": 0.5}


def retrieving_node(start_node: StartNode, entities: Sequence[dict[str, object]]) -> RunningNode:
    """Return a node that holds the images and gives up peers quickly."""
    node = start_node(entities=entities, timeouts=QUICK, storage={"durability": "relaxed"})
    assert store(node.dicom_address, *IMAGES) == [0] * OBJECTS
    return node


@contextlib.contextmanager
def moving(
    start_node: StartNode, behaviour: Behaviour
) -> Iterator[tuple[RunningNode, Destination]]:
    """Run a destination, and a node that knows it."""
    with destination(behaviour) as target:
        yield retrieving_node(start_node, [target.entity()]), target


def move(node: RunningNode, title: str = "DESTINATION") -> Answers:
    """C-MOVE the study, and see that the association goes on afterwards."""
    with querying(node.dicom_address) as wire:
        answers = wire.move(title, STUDY)
        assert wire.echo(ECHO) == 0
        wire.release()
    return answers


def failed_uids(answers: Answers) -> set[str]:
    """Return the Failed SOP Instance UID List of the final response's identifier."""
    assert answers.final_identifier is not None
    # Implicit VR: tag, length, value; it is the only element.
    assert answers.final_identifier[:4] == b"\x08\x00\x58\x00"
    return set(answers.final_identifier[8:].rstrip(b"\0").decode().split("\\"))


def whole(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take()


def test_a_move_brings_everything_and_counts_it(start_node: StartNode) -> None:
    with moving(start_node, whole) as (node, target):
        answers = move(node)
        assert answers.status == 0x0000
        assert answers.counters == (None, OBJECTS, 0, 0)
        assert target.stored == [each.uid for each in IMAGES]
        assert target.connections == 1


def refuses(conversation: Conversation) -> None:
    conversation.reject()


def aborts_at_once(conversation: Conversation) -> None:
    conversation.receive_pdu()
    conversation.abort()


def closes_at_once(conversation: Conversation) -> None:
    pass


def says_nothing(conversation: Conversation) -> None:
    conversation.hang()


def answers_rubbish(conversation: Conversation) -> None:
    conversation.receive_pdu()
    conversation.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
    conversation.wait_for_end()


def does_not_answer_the_object(conversation: Conversation) -> None:
    conversation.accept()
    conversation.wait_for_end()


def does_not_read_the_object(conversation: Conversation) -> None:
    conversation.accept()
    conversation.hang()


@pytest.mark.parametrize(
    "behaviour",
    [
        refuses,
        aborts_at_once,
        closes_at_once,
        says_nothing,
        answers_rubbish,
        does_not_answer_the_object,
        does_not_read_the_object,
    ],
)
def test_a_destination_that_takes_nothing_fails_every_sub_operation(
    start_node: StartNode, behaviour: Behaviour
) -> None:
    with moving(start_node, behaviour) as (node, target):
        answers = move(node)
        assert answers.status == FAILED
        assert answers.counters == (None, 0, OBJECTS, 0)
        assert failed_uids(answers) == {each.uid for each in IMAGES}
        assert not target.stored
        assert node.metric("dicomnode_associations_active") == 0


def aborts_after_two(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take(2)
    conversation.abort()


def dies_in_the_third(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take(2)
    conversation.receive_pdu()


def hangs_after_two(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take(2)
    conversation.wait_for_end()


def hangs_at_release(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take(OBJECTS)
    conversation.wait_for_end()


@pytest.mark.parametrize("behaviour", [aborts_after_two, dies_in_the_third, hangs_after_two])
def test_a_destination_that_is_lost_fails_what_it_has_not_taken(
    start_node: StartNode, behaviour: Behaviour
) -> None:
    with moving(start_node, behaviour) as (node, target):
        answers = move(node)
        _, completed, failed, _ = answers.counters
        assert completed is not None and failed is not None
        assert completed + failed == OBJECTS
        assert answers.status == (SOME_FAILED if failed else 0x0000)
        assert completed == len(set(target.stored)) >= 2
        if failed:
            assert failed_uids(answers) == {each.uid for each in IMAGES} - set(target.stored)


def test_a_destination_that_hangs_at_release_has_taken_everything(start_node: StartNode) -> None:
    with moving(start_node, hangs_at_release) as (node, target):
        answers = move(node)
        assert answers.status == 0x0000
        assert len(target.stored) == OBJECTS


@pytest.mark.parametrize(
    ("status", "final", "counters"),
    [
        (0xB000, SOME_FAILED, (None, 0, 0, OBJECTS)),
        (0xA700, FAILED, (None, 0, OBJECTS, 0)),
        (0xC001, FAILED, (None, 0, OBJECTS, 0)),
        (0x0122, FAILED, (None, 0, OBJECTS, 0)),
    ],
)
def test_what_a_destination_answers_is_counted(
    start_node: StartNode, status: int, final: int, counters: tuple[int | None, ...]
) -> None:
    def answers_so(conversation: Conversation) -> None:
        conversation.accept()
        conversation.take(status=status)

    with moving(start_node, answers_so) as (node, _):
        answers = move(node)
    assert (answers.status, answers.counters) == (final, counters)


def answers_another_message(conversation: Conversation) -> None:
    conversation.accept()
    taken = conversation.take_object()
    assert taken is not None
    context_id, command = taken
    conversation.answer(context_id, {**command, 0x0110: b"\x39\x30"})
    conversation.wait_for_end()


def test_an_answer_to_another_message_fails_the_sub_operations(start_node: StartNode) -> None:
    with moving(start_node, answers_another_message) as (node, _):
        assert move(node).status == FAILED


def test_an_unknown_destination_is_named_with_what_to_change(start_node: StartNode) -> None:
    node = retrieving_node(start_node, [{"title": "NO_ADDRESS"}])
    for title in ("ELSEWHERE", "NO_ADDRESS"):
        answers = move(node, title)
        assert answers.status == UNKNOWN_DESTINATION
        assert "ae.toml" in answers.comment or title in answers.comment
        assert len(answers.comment) <= 64


@pytest.mark.parametrize("title", ["", " " * 16, "\x01\x02", "A" * 200, "..\\..", "ÄÖÜ"])
def test_a_destination_that_is_no_title_is_refused(start_node: StartNode, title: str) -> None:
    node = retrieving_node(start_node, [])
    with querying(node.dicom_address) as wire, contextlib.suppress(ConnectionError):
        answers = wire.move(title, STUDY)
        assert answers.status in (UNKNOWN_DESTINATION, 0x0106, 0x0115, 0xA900)
    assert move(node, "ELSEWHERE").status == UNKNOWN_DESTINATION


def test_more_kinds_than_an_association_has_contexts_for_go_over_several(
    start_node: StartNode,
) -> None:
    classes = sorted(STORAGE_CLASSES)[:100]
    study = f"{ROOT}.128"
    with destination(whole) as target:
        node = start_node(entities=[target.entity()], storage={"durability": "relaxed"})
        contexts = [(2 * n + 1, sop, (EXPLICIT_LE,)) for n, sop in enumerate(classes)]
        with Wire(node.dicom_address) as wire:
            wire.associate(contexts=contexts)
            for n, (context_id, sop, _) in enumerate(contexts):
                uid = f"{study}.1.{n}"
                data = data_set(sop, uid, study_uid=study, series_uid=f"{study}.1")
                assert wire.store(sop, uid, data, context_id=context_id) == 0
            wire.release()
        with querying(node.dicom_address) as wire:
            answers = wire.move(
                "DESTINATION", {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: study}
            )
        assert (answers.status, answers.counters) == (0x0000, (None, len(classes), 0, 0))
        assert set(target.stored) == {f"{study}.1.{n}" for n in range(len(classes))}
        assert target.connections > 1


def test_one_destination_that_hangs_keeps_no_other_waiting(start_node: StartNode) -> None:
    with destination(says_nothing) as deaf, destination(whole) as good:
        entities = [deaf.entity("DEAF"), good.entity("GOOD")]
        node = start_node(entities=entities, storage={"durability": "relaxed"})
        store(node.dicom_address, *IMAGES)
        waiting = querying(node.dicom_address)
        with waiting:
            waiting.send(b"".join(waiting.message(MOVE, c_move_rq(1, "DEAF"), identifier(STUDY))))
            eventually(lambda: deaf.connections == 1, "the node calls the deaf destination")
            assert move(node, "GOOD").status == 0x0000
            with Wire(node.dicom_address) as other:
                other.associate(calling="OTHER")
                assert other.echo() == 0
            waiting.cancel(MOVE, 1)
            # Cancelled while it waits, or as soon as it has given the destination up.
            waiting.abort()
        eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")


def test_a_requester_that_is_lost_ends_the_move(start_node: StartNode) -> None:
    lost = threading.Event()

    def waits_for_the_loss(conversation: Conversation) -> None:
        conversation.accept()
        conversation.take(1)
        lost.wait(5)
        conversation.take()

    with moving(start_node, waits_for_the_loss) as (node, target):
        with querying(node.dicom_address) as wire:
            wire.send(b"".join(wire.message(MOVE, c_move_rq(1, "DESTINATION"), identifier(STUDY))))
            eventually(lambda: len(target.stored) == 1, "the first object")
            wire.abort()
        eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")
        lost.set()
        assert len(target.stored) < OBJECTS
        assert move(node).status in (0x0000, SOME_FAILED)


def test_a_cancelled_move_counts_what_is_left(start_node: StartNode) -> None:
    with moving(start_node, whole) as (node, target):
        with querying(node.dicom_address) as wire:
            answers = wire.move("DESTINATION", STUDY, cancel_after=0)
            assert wire.echo(ECHO) == 0
        remaining, completed, failed, warning = answers.counters
        assert answers.status == CANCEL
        # It may land before the objects have been counted.
        assert (remaining or 0) + (completed or 0) in (0, OBJECTS)
        assert (failed or 0, warning or 0) == (0, 0)
        assert completed == len(target.stored)


def test_a_node_that_moves_to_itself_comes_to_an_end(start_node: StartNode) -> None:
    port = peers.free_port()
    itself = {"title": "DICOMNODE", "host": "127.0.0.1", "port": port}
    node = start_node(node={"port": port}, entities=[itself], storage={"durability": "relaxed"})
    store(node.dicom_address, *IMAGES)
    answers = move(node, "DICOMNODE")
    _, completed, failed, warning = answers.counters
    assert (completed or 0) + (failed or 0) + (warning or 0) == OBJECTS


# -- C-GET -------------------------------------------------------------------------------------


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
