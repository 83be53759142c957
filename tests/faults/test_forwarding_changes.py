"""Forwarding while the registry, or what is wanted, changes; and what people are told of it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from dicomnode.cli import app
from dicomnode.index.catalog import Catalog
from dicomnode.outbox.items import Down
from dicomnode.outbox.queue import Queue
from tests import peers
from tests.conftest import RunningNode, StartNode
from tests.destination import Conversation, destination
from tests.faults.scu import Image, store
from tests.peers import eventually, free_port, http_get

OF_OTHER_STUDY = {"StudyInstanceUID": Image(1, study=2).study_uid}
SLOW = {"retry_seconds": 3600.0}


def whole(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take()


def forwarding(start_node: StartNode, *entities: dict[str, object], **rule: object) -> RunningNode:
    return start_node(
        entities=entities,
        forward=[{"name": "all", "to": [str(each["title"]) for each in entities]} | rule],
        forwarding=SLOW | {"alternate_after_seconds": 0.2},
    )


def nowhere(title: str = "D0") -> dict[str, object]:
    return {"title": title, "host": "127.0.0.1", "port": free_port()}


def register(node: RunningNode, *entities: dict[str, object]) -> None:
    """Give a running node another registry."""
    peers.write_registry(node.directory, entities)
    assert node.reload()


def explained(node: RunningNode) -> list[dict[str, Any]]:
    entries = json.loads(http_get(node.http_address, "/api/explain")[1])["explanations"]
    return [each for each in entries if each["kind"] == "forwarding"]


def command(node: RunningNode, *arguments: str) -> str:
    place = ["--config", str(node.config)]
    if arguments[0] != "outbox":
        place = ["--url", "http://{}:{}".format(*node.http_address)]
    done = CliRunner().invoke(app, [*arguments, *place])
    assert done.exit_code == 0, done.output
    return done.output


def is_down(node: RunningNode) -> bool:
    return bool(explained(node))


def test_a_new_address_in_the_registry_is_tried_at_once(start_node: StartNode) -> None:
    node = forwarding(start_node, nowhere())
    store(node.dicom_address, Image(1))
    eventually(lambda: is_down(node))
    with destination(whole) as target:
        register(node, target.entity("D0"))
        eventually(lambda: target.stored == [Image(1).uid])
        eventually(lambda: node.metric("dicomnode_outbox_depth") == 0)


def test_an_association_is_not_kept_when_the_registry_has_another_address(
    start_node: StartNode,
) -> None:
    with destination(whole) as first, destination(whole) as second:
        node = forwarding(start_node, first.entity("D0"))
        store(node.dicom_address, Image(1))
        eventually(lambda: first.stored == [Image(1).uid])
        register(node, second.entity("D0"))
        store(node.dicom_address, Image(2))
        eventually(lambda: second.stored == [Image(2).uid])
    assert first.stored == [Image(1).uid]


def test_a_registry_without_an_alternate_that_a_rule_names_is_not_taken(
    start_node: StartNode,
) -> None:
    first = nowhere("D0")
    node = forwarding(start_node, first, nowhere("D1"), to=["D0"], alternate={"D0": "D1"})
    peers.write_registry(node.directory, [first])
    assert not node.reload()


def test_people_are_told_of_a_destination_that_the_registry_no_longer_has(
    start_node: StartNode,
) -> None:
    node = forwarding(start_node, nowhere())
    store(node.dicom_address, Image(1))
    eventually(lambda: is_down(node))
    # Without the rule the registry need not have it, but what is queued stays queued.
    peers.write_config(node.directory, storage={"directory": str(node.store_directory)})
    assert node.reload()

    def words() -> list[str]:
        return [each["words"] for each in explained(node)[0]["reasons"]]

    eventually(lambda: words() == ["D0 is not in ae.toml"])
    (told, *_) = explained(node)
    assert told["calling_ae_title"] == "D0"
    assert 'Add an [[ae]] with title = "D0"' in told["advice"][0]
    shown = command(node, "explain")
    assert "D0: forwarding" in shown
    assert "dicomnode outbox retry tries at once" in shown


def test_people_are_told_why_and_until_when_a_destination_is_left_alone(
    start_node: StartNode,
) -> None:
    node = forwarding(start_node, nowhere())
    store(node.dicom_address, Image(1), Image(2))
    eventually(lambda: is_down(node))
    (told,) = explained(node)
    assert "connection refused" in told["reasons"][0]["words"]
    assert "See whether D0 runs and listens" in told["advice"][0]
    shown = " ".join(command(node, "status").split())
    assert "D0: 2 waiting, oldest " in shown
    assert "; down for " in shown and "connection refused" in shown
    (row,) = json.loads(command(node, "status", "--json"))["outbox"]
    assert (row["objects"]["ready"], row["objects"]["dead"]) == (2, 0)
    assert row["next_attempt"] > row["down_since"] + 1000


def test_a_retry_forgets_that_a_destination_was_down(start_node: StartNode) -> None:
    comes = threading.Event()

    def rejects_at_first(conversation: Conversation) -> None:
        whole(conversation) if comes.is_set() else conversation.reject()

    with destination(rejects_at_first) as target:
        node = forwarding(start_node, target.entity("D0"))
        store(node.dicom_address, Image(1))
        eventually(lambda: is_down(node))
        comes.set()
        command(node, "outbox", "retry")
        eventually(lambda: node.metric("dicomnode_outbox_depth") == 0)
        assert node.node._archive.outbox.queue.downs() == {}


def test_a_destination_is_not_left_alone_for_years_because_a_clock_was_wrong(
    start_node: StartNode, tmp_path: Path
) -> None:
    with destination(whole) as target:
        directory = tmp_path / "node"
        url = f"sqlite:///{directory / 'store' / 'index.sqlite'}"
        (directory / "store").mkdir(parents=True)
        with Catalog(url) as catalog:
            years_ahead = time.time() + 1e8
            Queue(catalog).set_down("D0", Down(years_ahead, 1, years_ahead + 30, "refused"))
        node = start_node(
            directory=directory,
            entities=[target.entity("D0")],
            forward=[{"name": "all", "to": ["D0"]}],
        )
        store(node.dicom_address, Image(1))
        eventually(lambda: target.stored == [Image(1).uid])


def test_a_destination_that_is_busy_lets_others_have_their_turn(start_node: StartNode) -> None:
    free = threading.Event()
    had: list[int] = []

    def slow(conversation: Conversation) -> None:
        conversation.accept()
        free.wait(30)
        while taken := conversation.take_object():
            conversation.answer(*taken)
            had.append(len(second.stored))

    with destination(slow) as first, destination(whole) as second:
        node = start_node(
            entities=[first.entity("D0"), second.entity("D1")],
            forward=[
                {"name": "both", "to": ["D0"]},
                {"name": "one study", "to": ["D0", "D1"], "attributes": OF_OTHER_STUDY},
            ],
            forwarding={"max_associations": 1},
        )
        store(node.dicom_address, Image(1))
        eventually(lambda: first.connections == 1)
        # D1 waits for the place that D0 has, and D0 has more than it takes at once.
        store(node.dicom_address, Image(1, study=2), *(Image(each) for each in range(2, 300)))
        eventually(lambda: node.metric("dicomnode_outbox_depth") == 301)
        free.set()
        eventually(lambda: node.metric("dicomnode_outbox_depth") == 0, timeout=30)
    assert (len(had), had[-1]) == (300, 1)
