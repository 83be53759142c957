"""Peers that take what they can: each meets a limit, and the peer beside them notices nothing.

The troublemakers call from another address of the loopback network.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import RunningNode, StartNode
from tests.faults.scu import Image, associated
from tests.peers import eventually
from tests.wire import (
    ABORT,
    ASSOCIATE_AC,
    CT_IMAGE_STORAGE,
    P_DATA,
    Wire,
    c_echo_rq,
    c_store_rq,
    pdu,
    pdv,
)

TROUBLE = "127.0.0.2"
NEW = iter(range(1, 1_000_000))


def is_served(node: RunningNode, wire: Wire, size_bytes: int = 300_000) -> None:
    """Check that a peer is served on an association of before, and on a new one."""
    assert wire.echo() == 0
    with associated(node.dicom_address, "GOOD") as another:
        for each in (wire, another):
            image = Image(next(NEW), study=99, size_bytes=size_bytes)
            assert each.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
        another.release()


def trouble(node: RunningNode, **options: int) -> Wire:
    return Wire(node.dicom_address, source=TROUBLE, **options)  # type: ignore[arg-type]


def troubling(node: RunningNode, **options: int) -> Wire:
    """Return an association of a troublemaker."""
    wire = trouble(node, **options)
    assert wire.associate(calling="BAD")[0] == ASSOCIATE_AC
    return wire


@contextlib.contextmanager
def closing(wires: list[Wire]) -> Iterator[list[Wire]]:
    try:
        yield wires
    finally:
        for wire in wires:
            wire.socket.close()


def begin_store(wire: Wire, image: Image) -> None:
    wire.send(pdu(P_DATA, pdv(3, c_store_rq(1, CT_IMAGE_STORAGE, image.uid), command=True)))


def test_silent_connections_are_closed_after_the_deadline_and_counted(
    start_node: StartNode,
) -> None:
    node = start_node(timeouts={"artim_seconds": 0.3})
    with associated(node.dicom_address, "GOOD") as good:
        with closing([trouble(node) for _ in range(20)]) as silent:
            is_served(node, good)
            for wire in silent:
                wire.receive_until_closed()
        assert node.metric("dicomnode_associations_aborted_total", reason="timed out") == 20
        is_served(node, good)


def test_writers_of_one_byte_at_a_time(start_node: StartNode) -> None:
    node = start_node(timeouts={"pdu_seconds": 1.0})
    image = Image(1)
    with (
        associated(node.dicom_address, "GOOD") as good,
        closing([troubling(node) for _ in range(10)]) as slow,
    ):
        for wire in slow:
            begin_store(wire, image)
        part = pdu(P_DATA, pdv(3, image.data_set, last=False))
        for at in range(5):
            for wire in slow:
                wire.send(part[at : at + 1])
            is_served(node, good)
        for wire in slow:
            assert wire.receive_pdu()[0] == ABORT
        is_served(node, good)
    aborted = "dicomnode_associations_aborted_total"
    eventually(lambda: node.metric(aborted, reason="timed out") == 10, "ten that timed out")


def test_readers_that_read_nothing(start_node: StartNode) -> None:
    node = start_node(timeouts={"write_seconds": 1.0})
    requests = b"".join(pdu(P_DATA, pdv(1, c_echo_rq(n), command=True)) for n in range(1, 500))
    with (
        associated(node.dicom_address, "GOOD") as good,
        closing([troubling(node, receive_buffer_bytes=4096) for _ in range(4)]) as deaf,
    ):
        for wire in deaf:
            wire.socket.settimeout(0.2)
            with contextlib.suppress(OSError):
                for _ in range(200):
                    wire.send(requests)
            is_served(node, good)
        active = "dicomnode_associations_active"
        eventually(lambda: node.metric(active) == 1, "none but the good one")
        assert node.metric("dicomnode_associations_aborted_total", reason="timed out") == 4
        is_served(node, good)


def test_senders_that_fill_the_receive_buffers_and_wait(start_node: StartNode) -> None:
    """Eight begin a PDU and stop: there is room for four. They go before the good one would."""
    node = start_node(limits={"receive_buffer_bytes": 1024**2}, timeouts={"pdu_seconds": 8.0})
    image = Image(1, size_bytes=200_000)
    with (
        associated(node.dicom_address, "GOOD") as good,
        closing([troubling(node) for _ in range(8)]) as greedy,
    ):
        for wire in greedy:
            begin_store(wire, image)
            part = image.data_set[: wire.peer_maximum_length - 6]
            wire.send(pdu(P_DATA, pdv(3, part, last=False))[:-1])
        used = "dicomnode_receive_buffer_bytes"
        eventually(lambda: node.metric(used) >= 1024**2, "all buffers in use")
        is_served(node, good)
    assert node.metric("dicomnode_receive_buffer_limit_bytes") == 1024**2
    eventually(lambda: not node.files("incoming"), "nothing left")


@pytest.mark.timeout(120)
def test_senders_at_full_speed_with_few_receive_buffers(start_node: StartNode) -> None:
    node = start_node(limits={"receive_buffer_bytes": 1024**2})
    done, failures = threading.Event(), list[BaseException]()

    def flood(number: int) -> None:
        try:
            with troubling(node) as wire:
                while not done.is_set():
                    image = Image(next(NEW), study=number, size_bytes=2_000_000)
                    assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(4)]
    with associated(node.dicom_address, "GOOD") as good:
        for thread in threads:
            thread.start()
        for _ in range(10):
            is_served(node, good)
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert node.metric("dicomnode_associations_aborted_total", by="us") == 0


def test_a_disk_that_fills(start_node: StartNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects are refused with A700H; everything else goes on, and so do they with new room."""
    node = start_node()
    free = os.statvfs(node.store_directory)
    is_full = threading.Event()

    def statvfs(path: object) -> os.statvfs_result:
        return os.statvfs_result((*free[:3], 0, 0, *free[5:])) if is_full.is_set() else free

    image = Image(1)
    with associated(node.dicom_address, "GOOD") as good, troubling(node) as filling:
        monkeypatch.setattr(os, "statvfs", statvfs)
        is_full.set()
        refused = 0xA700

        def is_refused() -> bool:
            fresh = Image(next(NEW), study=5)
            return filling.store(CT_IMAGE_STORAGE, fresh.uid, fresh.data_set) == refused

        eventually(is_refused, "a full disk")
        assert good.echo() == 0
        assert node.metric("dicomnode_storage_free_bytes") == 0
        stored = "dicomnode_dimse_requests_total"
        assert node.metric(stored, service="C-STORE", status="A700") >= 1
        is_full.clear()
        eventually(
            lambda: good.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0, "room again"
        )
        is_served(node, good)
