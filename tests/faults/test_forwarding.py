"""Forwarding to destinations that refuse, hang, die, and come back."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import RunningNode, StartNode
from tests.destination import Behaviour, Conversation, Destination, destination
from tests.faults.scu import Image, store
from tests.peers import eventually

QUICK = {"retry_seconds": 0.05, "max_retry_seconds": 0.1}
IMAGES = [Image(number) for number in range(1, 6)]
UIDS = [image.uid for image in IMAGES]


def whole(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take()


@contextlib.contextmanager
def forwarding(
    start_node: StartNode,
    *behaviours: Behaviour,
    rule: dict[str, object] | None = None,
    settings: dict[str, object] | None = None,
) -> Iterator[tuple[RunningNode, list[Destination]]]:
    """Run destinations D0, D1, …, and a node that forwards everything to all of them."""
    with contextlib.ExitStack() as running:
        targets = [running.enter_context(destination(each)) for each in behaviours]
        titles = [f"D{number}" for number in range(len(targets))]
        node = start_node(
            entities=[target.entity(title) for target, title in zip(targets, titles, strict=True)],
            forward=[{"name": "all", "to": titles} | (rule or {})],
            forwarding=QUICK | (settings or {}),
            timeouts={"response_seconds": 1.0, "connect_seconds": 1.0},
        )
        yield node, targets


def waiting(node: RunningNode, title: str = "D0", **labels: str) -> float:
    return node.metric("dicomnode_outbox_depth", destination=title, **labels)


def empty(node: RunningNode, title: str = "D0") -> Callable[[], bool]:
    return lambda: waiting(node, title) == 0


def test_what_is_received_is_forwarded_on_one_association(start_node: StartNode) -> None:
    with forwarding(start_node, whole) as (node, (target,)):
        assert store(node.dicom_address, *IMAGES) == [0] * len(IMAGES)
        eventually(empty(node))
        assert target.stored == UIDS
        assert target.connections == 1
        assert node.metric("dicomnode_forwarded_total", destination="D0", result="sent") == 5


def test_what_comes_again_unchanged_is_not_forwarded_again(start_node: StartNode) -> None:
    with forwarding(start_node, whole) as (node, (target,)):
        store(node.dicom_address, IMAGES[0], IMAGES[0])
        eventually(empty(node))
        store(node.dicom_address, IMAGES[0], IMAGES[1])
        eventually(lambda: len(target.stored) == 2 and waiting(node) == 0)
        assert target.stored == UIDS[:2]


def failing_first(broken: Behaviour, times: int = 1) -> Behaviour:
    """Return a destination that is ``broken`` for some connections, and whole afterwards."""
    counted = itertools.count()

    def behave(conversation: Conversation) -> None:
        (broken if next(counted) < times else whole)(conversation)

    return behave


def rejects(conversation: Conversation) -> None:
    conversation.reject()


def aborts(conversation: Conversation) -> None:
    conversation.receive_pdu()
    conversation.abort()


def closes(conversation: Conversation) -> None:
    pass


def says_nothing(conversation: Conversation) -> None:
    conversation.receive_pdu()
    conversation.wait_for_end()


def leaves_the_object_unanswered(conversation: Conversation) -> None:
    conversation.accept()
    conversation.wait_for_end()


def dies_half_way(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take(2)
    conversation.receive_pdu()


def aborts_half_way(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take(2)
    conversation.abort()


def hangs_half_way(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take(2)
    conversation.wait_for_end()


def has_no_room(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take(3 * len(IMAGES), status=0xA701)


@pytest.mark.parametrize(
    "broken",
    [
        rejects,
        aborts,
        closes,
        says_nothing,
        leaves_the_object_unanswered,
        dies_half_way,
        aborts_half_way,
        hangs_half_way,
        has_no_room,
    ],
)
def test_everything_arrives_at_a_destination_that_recovers(
    start_node: StartNode, broken: Behaviour
) -> None:
    settings = {"max_refusals": 1}
    broken = failing_first(broken, times=2)
    with forwarding(start_node, broken, settings=settings) as (node, (target,)):
        assert store(node.dicom_address, *IMAGES) == [0] * len(IMAGES)
        eventually(empty(node), timeout=30)
        assert set(target.stored) >= set(UIDS)


def test_one_refused_object_does_not_stop_the_rest(start_node: StartNode) -> None:
    def picky(conversation: Conversation) -> None:
        conversation.accept()
        while taken := conversation.take_object():
            bad = taken[1][0x1000].rstrip(b"\0").decode() == UIDS[1]
            conversation.answer(*taken, status=0x0122 if bad else 0)

    with forwarding(start_node, picky, settings={"max_refusals": 3}) as (node, (target,)):
        store(node.dicom_address, *IMAGES)
        eventually(lambda: waiting(node, state="dead") == 1)
        assert waiting(node) == 1
        assert set(target.stored) == set(UIDS)
        assert target.stored.count(UIDS[1]) == 3
        assert node.metric("dicomnode_forwarded_total", result="set aside") == 1


def test_a_destination_that_is_dead_holds_up_no_other(start_node: StartNode) -> None:
    with forwarding(start_node, says_nothing, rejects, whole) as (node, (_, _, target)):
        store(node.dicom_address, *IMAGES)
        eventually(empty(node, "D2"))
        assert target.stored == UIDS
        assert waiting(node, "D0") == waiting(node, "D1") == len(IMAGES)


def test_an_alternate_is_used_when_a_destination_stays_down(start_node: StartNode) -> None:
    with forwarding(
        start_node,
        rejects,
        whole,
        rule={"to": ["D0"], "alternate": {"D0": "D1"}},
        settings={"alternate_after_seconds": 0.3},
    ) as (node, (_, target)):
        store(node.dicom_address, *IMAGES)
        eventually(lambda: len(target.stored) == len(IMAGES))
        assert sorted(target.stored) == sorted(UIDS)
        store(node.dicom_address, Image(9))
        eventually(lambda: Image(9).uid in target.stored)
        eventually(empty(node))


def test_what_waits_too_long_for_a_destination_is_set_aside(start_node: StartNode) -> None:
    with forwarding(start_node, rejects, settings={"give_up_seconds": 0.3}) as (node, _):
        store(node.dicom_address, *IMAGES)
        eventually(lambda: waiting(node, state="dead") == len(IMAGES))


def test_a_study_is_forwarded_when_it_is_complete(start_node: StartNode) -> None:
    rule = {"when": "study_stable", "stable_seconds": 1.0}
    with forwarding(start_node, whole, rule=rule) as (node, (target,)):
        store(node.dicom_address, *IMAGES)
        assert waiting(node, state="unsettled") == len(IMAGES)
        assert not target.stored
        eventually(empty(node))
        assert sorted(target.stored) == sorted(UIDS)


def test_priorities_come_before_the_order_of_arrival(start_node: StartNode) -> None:
    free = threading.Event()

    def waits(conversation: Conversation) -> None:
        conversation.accept()
        free.wait(10)
        conversation.take()

    with destination(waits) as target:
        node = start_node(
            entities=[target.entity("D0")],
            forward=[
                {
                    "name": "urgent",
                    "to": ["D0"],
                    "priority": "high",
                    "attributes": {"StudyInstanceUID": Image(1, 2).study_uid},
                },
                {"name": "rest", "to": ["D0"], "priority": "low"},
            ],
            forwarding=QUICK,
        )
        first = [Image(number) for number in range(1, 200)]
        store(node.dicom_address, *first)
        store(node.dicom_address, Image(1, 2))
        free.set()
        eventually(empty(node), timeout=20)
        assert target.stored.index(Image(1, 2).uid) < len(first) - 10
        assert len(target.stored) == 200


def test_a_poisonous_object_keeps_no_other_from_arriving(start_node: StartNode) -> None:
    def dies_of_it(conversation: Conversation) -> None:
        conversation.accept()
        while taken := conversation.take_object():
            if taken[1][0x1000].rstrip(b"\0").decode() == UIDS[0]:
                return
            conversation.answer(*taken)

    settings = {"retry_seconds": 600, "max_retry_seconds": 600}
    with forwarding(start_node, dies_of_it, settings=settings) as (node, (target,)):
        store(node.dicom_address, *IMAGES)
        eventually(lambda: set(target.stored) == set(UIDS[1:]), timeout=20)
        # Written down a moment after the destination has answered.
        eventually(lambda: waiting(node) == waiting(node, state="paused") == 1)
