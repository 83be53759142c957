"""Association limits, and that every slot comes back whatever way an association ends."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import RunningNode, StartNode
from tests.faults.scu import Image, associated
from tests.peers import NodeProcess, eventually, http_get
from tests.wire import (
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    CT_IMAGE_STORAGE,
    P_DATA,
    Wire,
    associate_rq,
    c_store_rq,
    pdu,
    pdv,
)

LOCAL_LIMIT_EXCEEDED = (ASSOCIATE_RJ, bytes([0, 2, 3, 2]))


def answer(node: RunningNode, calling: str = "RAW") -> tuple[int, bytes]:
    """Associate, release at once if accepted, and return the answer."""
    with Wire(node.dicom_address) as wire:
        pdu_type, body = wire.associate(calling=calling)
        if pdu_type == ASSOCIATE_AC:
            wire.release()
    return pdu_type, body


def is_accepted(node: RunningNode, calling: str = "RAW") -> bool:
    return answer(node, calling)[0] == ASSOCIATE_AC


def test_the_association_above_the_total_is_rejected_2_3_2(start_node: StartNode) -> None:
    node = start_node(limits={"max_associations": 2})
    with associated(node.dicom_address, "CT_1"), associated(node.dicom_address, "CT_2") as second:
        assert answer(node, "CT_3") == LOCAL_LIMIT_EXCEEDED
        assert second.echo() == 0
        rejected = "dicomnode_associations_rejected_total"
        assert node.metric(rejected, reason="Local limit exceeded") == 1
        second.release()
        eventually(lambda: is_accepted(node, "CT_3"), "a slot for CT_3")


def test_an_ae_has_its_own_limit(start_node: StartNode) -> None:
    node = start_node(entities=[{"title": "CT_1", "max_associations": 1}])
    with associated(node.dicom_address, "CT_1"):
        assert answer(node, "CT_1") == LOCAL_LIMIT_EXCEEDED
        assert is_accepted(node, "CT_2")
    eventually(lambda: is_accepted(node, "CT_1"), "a slot for CT_1")


def test_every_ae_has_the_limit_of_the_settings(start_node: StartNode) -> None:
    node = start_node(limits={"max_associations_per_ae": 1})
    with associated(node.dicom_address, "CT_1"):
        assert answer(node, "CT_1") == LOCAL_LIMIT_EXCEEDED
        assert is_accepted(node, "CT_2")


def test_an_address_has_its_own_limit(start_node: StartNode) -> None:
    node = start_node(limits={"max_associations_per_address": 1})
    with associated(node.dicom_address, "CT_1"):
        assert answer(node, "CT_2") == LOCAL_LIMIT_EXCEEDED
    eventually(lambda: is_accepted(node, "CT_2"), "a slot for the address")


def only_association(node: RunningNode) -> Wire:
    """Return an association as soon as the slot of the one before has been given back."""
    eventually(lambda: is_accepted(node), "the slot")
    eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")
    return associated(node.dicom_address)


def release(wire: Wire) -> None:
    wire.release()


def abort(wire: Wire) -> None:
    wire.abort()


def close(wire: Wire) -> None:
    wire.socket.close()


def reset(wire: Wire) -> None:
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()


def break_a_rule(wire: Wire) -> None:
    wire.send(associate_rq())
    wire.receive_pdu()


def close_in_a_pdu(wire: Wire) -> None:
    wire.send(pdu(P_DATA, bytes(100))[:50])
    wire.socket.close()


def close_in_a_data_set(wire: Wire) -> None:
    image = Image(1)
    wire.send(pdu(P_DATA, pdv(3, c_store_rq(1, CT_IMAGE_STORAGE, image.uid), command=True)))
    wire.send(pdu(P_DATA, pdv(3, image.data_set[:200], last=False)))
    wire.socket.close()


def abort_before_the_answer(wire: Wire) -> None:
    image = Image(2)
    for part in wire.message(3, c_store_rq(1, CT_IMAGE_STORAGE, image.uid), image.data_set):
        wire.send(part)
    wire.abort()


ENDINGS = (
    release,
    abort,
    close,
    reset,
    break_a_rule,
    close_in_a_pdu,
    close_in_a_data_set,
    abort_before_the_answer,
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_slot_is_given_back_after(
    start_node: StartNode, ending: Callable[[Wire], None]
) -> None:
    node = start_node(limits={"max_associations": 1})
    for _ in range(3):
        with only_association(node) as wire:
            assert answer(node) == LOCAL_LIMIT_EXCEEDED
            ending(wire)
    eventually(lambda: is_accepted(node), "the slot")


def test_rejected_and_unfinished_connections_take_no_slot(start_node: StartNode) -> None:
    node = start_node(limits={"max_associations": 1})
    idle = [Wire(node.dicom_address) for _ in range(5)]
    for wire in idle[1:3]:
        wire.send(associate_rq()[:40])
    for wire in idle[3:]:
        assert wire.associate(called="SOMEBODY")[0] == ASSOCIATE_RJ
    assert is_accepted(node)
    for wire in idle:
        wire.socket.close()


def from_address(node: RunningNode, address: str) -> Wire:
    """Connect from another address of the loopback network."""
    return Wire(node.dicom_address, source=address)


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_thousands_of_connections_of_one_address_leave_others_theirs(
    start_node: StartNode,
) -> None:
    node = start_node(limits={"max_associations": 4})
    refused = "dicomnode_connections_refused_total"
    reason = "too many from one address"
    share = 4 + 32
    with contextlib.ExitStack() as opened:
        early = opened.enter_context(associated(node.dicom_address, "CT_1"))
        flood = []
        for _ in range(2000):
            connection = opened.enter_context(socket.create_connection(node.dicom_address, 30))
            flood.append(connection)
        eventually(lambda: node.metric(refused, reason=reason) == 2000 - share + 1)
        # What was there before, and whoever comes from elsewhere, notices nothing.
        assert early.echo() == 0
        other = opened.enter_context(from_address(node, "127.0.0.2"))
        assert other.associate(calling="CT_2")[0] == ASSOCIATE_AC
        assert other.echo() == 0
        eventually(lambda: sum(map(is_open, flood)) == share - 1)
        other.release()
        early.release()
    eventually(lambda: is_accepted(node), "a connection for the address")


def explained(node: RunningNode) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(http_get(node.http_address, "/api/explain")[1])[
        "explanations"
    ]
    return found


def test_the_connections_of_one_address_can_be_set_and_a_refused_one_is_explained(
    start_node: StartNode,
) -> None:
    node = start_node(limits={"max_connections_per_address": 3})
    with contextlib.ExitStack() as opened:
        for _ in range(5):
            opened.enter_context(socket.create_connection(node.dicom_address, 30))
        refused = "dicomnode_connections_refused_total"
        eventually(lambda: node.metric(refused, reason="too many from one address") == 2)
        with from_address(node, "127.0.0.2") as other:
            assert other.associate()[0] == ASSOCIATE_AC
    (entry,) = (each for each in explained(node) if each["kind"] == "connection")
    assert entry["peer_address"] == "127.0.0.1" and entry["count"] == 2
    (reason,) = entry["reasons"]
    assert "limits.max_connections_per_address" in reason["words"]
    (place,) = entry["configuration"]
    assert place["key"] == "limits.max_connections_per_address" and place["value"] == "3"


def test_connections_above_the_total_are_closed_and_counted(start_node: StartNode) -> None:
    node = start_node(limits={"max_associations": 1})
    with contextlib.ExitStack() as opened:
        for number in range(2 * 1 + 64 + 5):
            opened.enter_context(from_address(node, f"127.0.1.{number + 1}"))
        refused = "dicomnode_connections_refused_total"
        eventually(lambda: node.metric(refused, reason="too many") == 5)
    eventually(lambda: is_accepted(node), "a connection")


def test_a_node_that_runs_out_of_descriptors_goes_on_when_there_are_some(
    node_process: NodeProcess,
) -> None:
    image = Image(3)
    pid = node_process.process.pid
    with contextlib.ExitStack() as opened:
        wire = opened.enter_context(associated(node_process.dicom_address, "CT_1"))
        assert wire.echo() == 0
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        few = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, before[1]))
        # Each is closed, or waits until there is a descriptor for it.
        for _ in range(50):
            connection = socket.create_connection(node_process.dicom_address, 10)
            opened.enter_context(connection)
        assert wire.echo() == 0
        # Success is not answered for what cannot be written.
        assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) != 0
        assert wire.echo() == 0
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
        wire.release()
    with associated(node_process.dicom_address, "CT_2") as late:
        assert late.echo() == 0
        late.release()
    assert image.is_stored_whole(node_process.config.parent / "store")
