"""Forwarding while the node, or the destination, is killed again and again."""

from __future__ import annotations

import random
import subprocess
import threading
from pathlib import Path

import pytest

from tests import proof
from tests.conftest import StartNode, StartNodeProcess
from tests.destination import Conversation, destination
from tests.faults.scu import Image, store
from tests.faults.senders import store_until_killed
from tests.peers import eventually, free_port, metric
from tests.programs import find_program

QUICK = {"retry_seconds": 0.05, "max_retry_seconds": 0.2}
CYCLES = proof.count(6, 100)
OBJECTS = proof.count(1000, 10_000)


def whole(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take()


@pytest.mark.proof
@pytest.mark.timeout(60 + 20 * CYCLES)
def test_every_acknowledged_object_is_forwarded_though_the_node_is_killed(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    chance = random.Random(11)
    directory = tmp_path / "node"
    acknowledged: list[Image] = []
    again: list[Image] = []
    with destination(whole) as target:
        settings = {
            "entities": [target.entity("D0")],
            "forward": [{"name": "all", "to": ["D0"]}],
            "forwarding": QUICK,
        }
        for cycle in range(CYCLES):
            node = start_node_process(directory, **settings)
            for sender in store_until_killed(node, cycle, chance):
                acknowledged += sender.acknowledged
                again.append(sender.image(len(sender.acknowledged) + 1))
        # What was on its way comes again, stored or not, and is forwarded too.
        node = start_node_process(directory, **settings)
        assert store(node.dicom_address, *again) == [0] * len(again)
        eventually(lambda: metric(node.http_address, "dicomnode_outbox_depth") == 0, timeout=60)
        missing = {image.uid for image in (*acknowledged, *again)} - set(target.stored)
        assert not missing


def test_pauses_survive_a_restart(start_node: StartNode, tmp_path: Path) -> None:
    entity = {"title": "D0", "host": "127.0.0.1", "port": free_port()}
    settings = {
        "directory": tmp_path / "node",
        "entities": [entity],
        "forward": [{"name": "all", "to": ["D0"]}],
        "forwarding": {"retry_seconds": 3600},
    }
    node = start_node(**settings)
    store(node.dicom_address, Image(1))
    failed = "dicomnode_outgoing_associations_total"
    eventually(lambda: node.metric(failed, result="failed") == 1)
    node.stop()
    again = start_node(**settings)
    store(again.dicom_address, Image(2))
    assert again.metric("dicomnode_outbox_depth", destination="D0") == 2
    assert again.metric(failed, result="failed") == 0


@pytest.mark.interop("storescp")
@pytest.mark.proof
@pytest.mark.timeout(180 + OBJECTS / 20)
def test_everything_arrives_at_a_storescp_that_is_killed_every_so_often(
    start_node: StartNode, tmp_path: Path
) -> None:
    count, port = OBJECTS, free_port()
    received = tmp_path / "received"
    received.mkdir()
    command = [
        find_program("storescp") or "storescp",
        *("--accept-all", "-od", str(received)),
        str(port),
    ]
    node = start_node(
        entities=[{"title": "STORESCP", "host": "127.0.0.1", "port": port}],
        forward=[{"name": "all", "to": ["STORESCP"]}],
        forwarding=QUICK,
    )
    images = [Image(number, number % 7) for number in range(count)]
    sender = threading.Thread(target=store, args=(node.dicom_address, *images), daemon=True)
    sender.start()
    chance = random.Random(5)
    kills = 0

    def arrived() -> int:
        return sum(1 for _ in received.iterdir())

    while node.metric("dicomnode_outbox_depth") or sender.is_alive():
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as storescp:
            enough = arrived() + chance.randrange(20, 200)
            while arrived() < min(enough, count) and storescp.poll() is None:
                if not sender.is_alive() and node.metric("dicomnode_outbox_depth") == 0:
                    break
            storescp.kill()
            kills += 1
    assert kills > 3
    assert arrived() == count
