"""Forwarding while the destination is killed again and again, and after a restart."""

from __future__ import annotations

import random
import subprocess
import threading
from pathlib import Path

import pytest

from tests import proof
from tests.conftest import StartNode
from tests.faults.scu import Image, store
from tests.peers import eventually, free_port
from tests.programs import find_program

QUICK = {"retry_seconds": 0.05, "max_retry_seconds": 0.2}
OBJECTS = proof.count(1000, 10_000)


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
