"""Deletion while the node is killed again and again: nothing comes back, nothing else goes."""

from __future__ import annotations

import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dicomnode.cli.asking import call
from dicomnode.errors import DicomnodeError
from dicomnode.settings import load_settings
from tests.conftest import StartNodeProcess
from tests.faults.scu import Image, files_below, indexed_paths, store
from tests.peers import NodeProcess, eventually

KILLS = 4


def ask(node: NodeProcess, method: str, path: str, body: object = None) -> Any:
    return call(load_settings(node.config), method, path, body)


def kill(node: NodeProcess) -> None:
    node.signal(signal.SIGKILL)
    node.wait()


@pytest.mark.timeout(180)
def test_a_deletion_is_carried_out_though_the_node_is_killed(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    chance, directory = random.Random(7), tmp_path / "node"
    where = directory / "store"
    going = [Image(number, 1, size_bytes=(500, 90_000)[number % 4 == 0]) for number in range(400)]
    staying = [Image(number, 2) for number in range(20)]
    node = start_node_process(directory)
    assert set(store(node.dicom_address, *going, *staying)) == {0}
    study = {"level": "study", "values": [going[0].study_uid]}
    plan = ask(node, "POST", "/api/delete", study)
    assert (plan["objects"], plan["pending"]) == (400, 0)
    said = {"mark": plan["mark"], "reason": "sent twice", "asked_by": "jane", "dry_run": False}
    order = ask(node, "POST", "/api/delete", study | said)
    left = []
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.0, 0.05))
        kill(node)
        rows = indexed_paths(where)
        assert {where / path for path in rows.values()} <= set(files_below(where, "objects"))
        left.append(len(rows))
        node = start_node_process(directory)
    eventually(lambda: ended(node, order["id"]), "the deletion", timeout=30)
    done = ask(node, "GET", f"/api/deletions/{order['id']}")
    assert (done["deleted"], done["kept"]) == (400, 0)
    assert left[0] > 20, "the first kill came too late to break anything off"
    assert set(indexed_paths(where)) == {image.uid for image in staying}
    assert {image.path(where) for image in staying} == set(files_below(where, "objects"))
    assert all(image.is_stored_whole(where) for image in staying)
    assert files_below(where, "quarantine") == []
    assert recorded(where) == sorted(image.uid for image in going)
    # Stored anew, it is there to stay.
    assert store(node.dicom_address, going[0]) == [0]
    kill(node)
    start_node_process(directory)
    assert going[0].is_stored_whole(where)


def recorded(where: Path) -> list[str]:
    """Return the SOP Instance UIDs that the custody log says were deleted."""
    with closing(sqlite3.connect(where / "index.sqlite")) as index:
        rows = index.execute("SELECT sop_instance_uid FROM custody WHERE event = 'deleted'")
        return sorted(row[0] for row in rows)


def ended(node: NodeProcess, number: int) -> bool:
    try:
        return bool(ask(node, "GET", f"/api/deletions/{number}")["ended_at"])
    except DicomnodeError:
        return False
