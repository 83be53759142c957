"""Destinations of retrieval that refuse, hang, die or lie."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest

from tests import peers
from tests.conftest import RunningNode, StartNode
from tests.destination import Behaviour, Conversation, Destination, destination
from tests.faults.images import (
    CANCEL,
    FAILED,
    IMAGES,
    OBJECTS,
    SOME_FAILED,
    STUDY,
    UNKNOWN_DESTINATION,
    failed_uids,
    retrieving_node,
)
from tests.faults.scu import ROOT, store
from tests.interop.samples import STORAGE_CLASSES
from tests.peers import eventually
from tests.query_wire import (
    ECHO,
    MOVE,
    QUERY_RETRIEVE_LEVEL,
    STUDY_INSTANCE_UID,
    Answers,
    c_move_rq,
    identifier,
    querying,
)
from tests.wire import EXPLICIT_LE, Wire, data_set


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
