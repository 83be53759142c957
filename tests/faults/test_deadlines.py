"""Every wait for a peer has an end."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from tests.conftest import StartNode
from tests.faults.scu import Image, associated
from tests.peers import eventually
from tests.wire import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    CT_IMAGE_STORAGE,
    P_DATA,
    Wire,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    pdu,
    pdv,
)


def test_a_connection_that_says_nothing_is_closed_when_artim_ends(start_node: StartNode) -> None:
    node = start_node(timeouts={"artim_seconds": 0.2})
    began = time.monotonic()
    with Wire(node.dicom_address) as wire:
        wire.receive_until_closed()
    assert 0.15 < time.monotonic() - began < 5


def test_half_an_association_request_is_closed_when_artim_ends(start_node: StartNode) -> None:
    node = start_node(timeouts={"artim_seconds": 0.2})
    with Wire(node.dicom_address) as wire:
        wire.send(associate_rq()[:100])
        wire.receive_until_closed()


def test_a_rejected_peer_that_does_not_close_is_closed_when_artim_ends(
    start_node: StartNode,
) -> None:
    node = start_node(timeouts={"artim_seconds": 0.2})
    with Wire(node.dicom_address) as wire:
        assert wire.associate(called="SOMEBODY")[0] == ASSOCIATE_RJ
        assert wire.receive_until_closed() == b""


def test_a_pdu_that_does_not_end_aborts_the_association(start_node: StartNode) -> None:
    node = start_node(timeouts={"pdu_seconds": 0.2})
    with associated(node.dicom_address) as wire:
        wire.send(pdu(P_DATA, pdv(1, c_echo_rq(), command=True))[:-1])
        assert wire.receive_pdu()[0] == ABORT
    eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")


def test_a_pdu_that_comes_byte_by_byte_is_held_to_the_same_deadline(
    start_node: StartNode,
) -> None:
    node = start_node(timeouts={"pdu_seconds": 0.3})
    slow = pdu(P_DATA, pdv(1, bytes(4096), command=True))
    with associated(node.dicom_address) as wire:
        wire.socket.settimeout(0.02)
        received = b""
        for at in range(200):
            try:
                wire.send(slow[at : at + 1])
                received += wire.socket.recv(10)
                break
            except TimeoutError:
                continue
    assert received[:1] == bytes([ABORT])


@pytest.mark.parametrize("what", ["command", "data set"])
def test_a_message_that_comes_byte_by_byte_in_whole_pdus_is_aborted(
    start_node: StartNode, what: str
) -> None:
    """Each PDU is whole, and the peer never silent for long."""
    node = start_node(timeouts={"pdu_seconds": 1.0})
    image = Image(1, size_bytes=4096)
    command = c_store_rq(1, CT_IMAGE_STORAGE, image.uid)
    with associated(node.dicom_address) as wire:
        slow, is_command = command, True
        if what == "data set":
            wire.send(pdu(P_DATA, pdv(3, command, command=True)))
            slow, is_command = image.data_set, False
        wire.socket.settimeout(0.1)
        received = b""
        for at in range(400):
            try:
                byte = slow[at : at + 1]
                wire.send(pdu(P_DATA, pdv(3, byte, command=is_command, last=False)))
                received += wire.socket.recv(10)
                break
            except TimeoutError:
                continue
        assert received[:1] == bytes([ABORT])
    eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")
    assert node.metric("dicomnode_associations_aborted_total", reason="timed out") == 1
    eventually(lambda: not node.files("incoming"), "nothing left")


def test_an_idle_association_is_aborted(start_node: StartNode) -> None:
    node = start_node(timeouts={"idle_seconds": 0.3})
    with associated(node.dicom_address) as wire:
        assert wire.echo() == 0
        assert wire.receive_pdu()[0] == ABORT
    eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")


def test_a_data_set_that_stops_half_way_is_aborted_and_leaves_nothing(
    start_node: StartNode,
) -> None:
    node = start_node(timeouts={"idle_seconds": 0.3})
    image = Image(1, size_bytes=300_000)
    with associated(node.dicom_address) as wire:
        wire.send(pdu(P_DATA, pdv(3, c_store_rq(1, CT_IMAGE_STORAGE, image.uid), command=True)))
        wire.send(pdu(P_DATA, pdv(3, image.data_set[:100_000], last=False)))
        assert wire.receive_pdu()[0] == ABORT
    eventually(lambda: not node.files("objects") and not node.files("incoming"), "nothing left")


def test_a_peer_that_does_not_read_is_let_go_after_the_write_deadline(
    start_node: StartNode,
) -> None:
    node = start_node(timeouts={"write_seconds": 0.3})
    with associated(node.dicom_address) as wire:
        requests = b"".join(
            pdu(P_DATA, pdv(1, c_echo_rq(number), command=True)) for number in range(1, 500)
        )
        wire.socket.settimeout(5)
        try:
            for _ in range(1000):
                wire.send(requests)
        except (ConnectionError, TimeoutError):
            pass
        eventually(lambda: node.metric("dicomnode_associations_active") == 0, "no association")


def test_a_peer_that_reads_slowly_but_steadily_is_not_let_go(start_node: StartNode) -> None:
    node = start_node(timeouts={"write_seconds": 0.5})
    wire = Wire(node.dicom_address, receive_buffer_bytes=4096)
    request = pdu(P_DATA, pdv(1, c_echo_rq(1), command=True))
    done = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError):
            while not done.is_set():
                wire.socket.sendall(request * 100)

    with wire:
        assert wire.associate()[0] == ASSOCIATE_AC
        asking = threading.Thread(target=ask)
        asking.start()
        # For several times as long as a peer that reads nothing may take.
        for _ in range(200):
            assert wire.receive_exactly(1024)
            done.wait(0.01)
        assert node.metric("dicomnode_associations_active") == 1
        done.set()
        wire.socket.shutdown(socket.SHUT_RDWR)
        asking.join()
