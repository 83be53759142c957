"""Bytes that no DICOM peer should send: the answer of the standard, and a node that goes on."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from tests.conftest import RunningNode
from tests.faults.scu import Image, associated
from tests.peers import NodeProcess, eventually, metric
from tests.wire import (
    ABORT,
    CT_IMAGE_STORAGE,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    SECONDARY_CAPTURE,
    VERIFICATION,
    Wire,
    associate_rq,
    c_echo_rq,
    c_store_rq,
    command_set,
    pdu,
    pdv,
)

UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER_VALUE = 1, 2, 6

FIRST_BYTES = {
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a TLS ClientHello": bytes.fromhex("1603010200010001fc0303") + bytes(500),
    "an SSH banner": b"SSH-2.0-OpenSSH_9.2\r\n",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "an A-ASSOCIATE-RQ of 4 GB": struct.pack(">BBI", 1, 0, 0xFFFFFFFF),
    "an A-ASSOCIATE-RQ without its fixed fields": pdu(1, bytes(20)),
    "an A-ASSOCIATE-AC": pdu(2, bytes(100)),
    "an A-RELEASE-RQ": pdu(5, bytes(4)),
    "data before association": pdu(P_DATA, pdv(1, c_echo_rq(), command=True)),
    "a data header of 4 GB": struct.pack(">BBI", 4, 0, 0xFFFFFFFF),
}


@pytest.mark.parametrize("name", FIRST_BYTES)
def test_a_connection_is_ended_that_begins_with(node: RunningNode, name: str) -> None:
    with Wire(node.dicom_address) as wire:
        wire.send(FIRST_BYTES[name])
        pdu_type, body = wire.receive_pdu()
        assert pdu_type == ABORT
        assert body[2] in (0, 2), "an abort's source is the service-user or the service-provider"
    with associated(node.dicom_address) as wire:
        assert wire.echo() == 0


def test_the_log_names_http_and_tls(node_process: NodeProcess) -> None:
    for name in ("an HTTP request", "a TLS ClientHello"):
        with Wire(node_process.dicom_address) as wire:
            wire.send(FIRST_BYTES[name])
            assert wire.receive_pdu()[0] == ABORT
    node_process.wait_for_line("peer speaks HTTP")
    node_process.wait_for_line("peer speaks TLS")


NONSENSE = {
    "an unknown PDU type": (struct.pack(">BBI", 9, 0, 4) + bytes(4), {UNRECOGNIZED_PDU}),
    "a second A-ASSOCIATE-RQ": (associate_rq(), {UNEXPECTED_PDU}),
    "an A-ASSOCIATE-AC": (pdu(2, bytes(68)), {UNEXPECTED_PDU, INVALID_PARAMETER_VALUE}),
    "an A-RELEASE-RP": (pdu(6, bytes(4)), {UNEXPECTED_PDU}),
    "a length above the maximum": (
        struct.pack(">BBI", 4, 0, 131073),
        {INVALID_PARAMETER_VALUE},
    ),
    "a length of 4 GB": (struct.pack(">BBI", 4, 0, 0xFFFFFFFF), {INVALID_PARAMETER_VALUE}),
    "a release of 5 bytes": (pdu(RELEASE_RQ, bytes(5)), {INVALID_PARAMETER_VALUE}),
    "a PDV longer than its PDU": (
        pdu(P_DATA, struct.pack(">IBB", 100, 1, 3) + bytes(20)),
        {INVALID_PARAMETER_VALUE},
    ),
    "a PDV of length 1": (
        pdu(P_DATA, struct.pack(">IB", 1, 1)),
        {INVALID_PARAMETER_VALUE},
    ),
    "a PDV header cut short": (
        pdu(P_DATA, pdv(1, b"", command=True, last=False) + b"\0\0"),
        {INVALID_PARAMETER_VALUE},
    ),
    "no PDV at all": (pdu(P_DATA, b""), {INVALID_PARAMETER_VALUE}),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_an_association_is_aborted_by_the_provider_after(node: RunningNode, name: str) -> None:
    sent, reasons = NONSENSE[name]
    with associated(node.dicom_address) as wire:
        wire.send(sent)
        pdu_type, body = wire.receive_pdu()
        assert pdu_type == ABORT
        assert body[2] == 2, "the source is the service-provider"
        assert body[3] in reasons
    with associated(node.dicom_address) as wire:
        assert wire.echo() == 0


def store_command(uid: str = "1.2.3") -> bytes:
    return pdu(P_DATA, pdv(3, c_store_rq(1, CT_IMAGE_STORAGE, uid), command=True))


BROKEN_MESSAGES = {
    "a context that was not accepted": pdu(P_DATA, pdv(99, c_echo_rq(), command=True)),
    "a data set without a command": pdu(P_DATA, pdv(3, b"\x08\x00\x16\x00")),
    "a command inside a data set": store_command() + store_command(),
    "a data set on another context": store_command() + pdu(P_DATA, pdv(5, bytes(8))),
    "a command that is no command set": pdu(P_DATA, pdv(1, b"\xff" * 40, command=True)),
    "a command without Command Field": pdu(
        P_DATA, pdv(1, command_set({0x0002: VERIFICATION, 0x0110: 1, 0x0800: 0x0101}), command=True)
    ),
    "a command that does not end": b"".join(
        pdu(P_DATA, pdv(1, bytes(65536), command=True, last=False)) for _ in range(4)
    ),
}


@pytest.mark.parametrize("name", BROKEN_MESSAGES)
def test_an_association_is_aborted_after(node: RunningNode, name: str) -> None:
    with associated(node.dicom_address) as wire:
        wire.send(BROKEN_MESSAGES[name])
        assert wire.receive_pdu()[0] == ABORT
    with associated(node.dicom_address) as wire:
        assert wire.echo() == 0
    eventually(lambda: not node.files("incoming") and not node.files("objects"), "nothing left")


def test_an_unknown_command_is_answered_0211_and_the_association_goes_on(
    node: RunningNode,
) -> None:
    unknown = command_set({0x0002: VERIFICATION, 0x0100: 0x0777, 0x0110: 7, 0x0800: 0x0101})
    with associated(node.dicom_address) as wire:
        assert wire.request(1, unknown) == 0x0211
        assert wire.echo() == 0


def test_a_sop_class_that_is_not_its_contexts_is_answered_0122(node: RunningNode) -> None:
    image = Image(1)
    with associated(node.dicom_address) as wire:
        command = c_store_rq(1, SECONDARY_CAPTURE, image.uid)
        assert wire.request(3, command, image.data_set) == 0x0122
        assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
    assert len(node.files()) == 1


def test_a_message_id_in_use_is_answered_0210(node: RunningNode) -> None:
    images = [Image(number, size_bytes=100_000) for number in (1, 2)]
    with associated(node.dicom_address) as wire:
        sent = b"".join(
            part
            for image in images
            for part in wire.message(3, c_store_rq(9, CT_IMAGE_STORAGE, image.uid), image.data_set)
        )
        wire.send(sent)
        statuses = [int.from_bytes(wire.response()[0x0900], "little") for _ in images]
    # Whether the first is still outstanding when the second comes is for the disk to say.
    assert sorted(statuses) in ([0, 0], [0, 0x0210])


def noise() -> Iterator[bytes]:
    """Yield random bytes, some of them behind the start of a real PDU."""
    chance = random.Random(1)
    for _ in range(10):
        yield chance.randbytes(chance.randrange(1, 5000))
        request = bytearray(associate_rq())
        for _ in range(8):
            request[chance.randrange(6, len(request))] = chance.randrange(256)
        yield bytes(request)
        yield pdu(chance.randrange(1, 8), chance.randbytes(chance.randrange(200)))


def test_the_node_serves_on_after_any_noise(node_process: NodeProcess) -> None:
    for sent in noise():
        with Wire(node_process.dicom_address) as wire:
            wire.send(sent)
        with associated(node_process.dicom_address) as wire:
            wire.send(sent)
    with associated(node_process.dicom_address) as wire:
        assert wire.echo() == 0
        assert wire.release() == RELEASE_RP
    assert not any("Traceback" in line for line in node_process.lines)


def test_claimed_lengths_take_no_memory(node_process: NodeProcess) -> None:
    before = node_process.resident_bytes()
    claims = [Wire(node_process.dicom_address) for _ in range(50)]
    for wire in claims:
        wire.send(struct.pack(">BBI", 1, 0, (1 << 20) - 1) + b"\0\1")
    with associated(node_process.dicom_address) as wire:
        assert wire.echo() == 0
    grown = node_process.resident_bytes() - before
    for wire in claims:
        wire.socket.close()
    assert grown < 24 << 20, "50 claims of 1 MiB each"


def test_connect_and_close_is_normal_and_silent(node_process: NodeProcess) -> None:
    address, http = node_process.dicom_address, node_process.http_address
    with associated(address, "BEFORE") as wire:
        wire.release()
    node_process.wait_for_line("BEFORE.*released")
    seen = len(node_process.lines)
    for _ in range(5):
        Wire(address).socket.close()
    with associated(address, "AFTER") as wire:
        wire.release()
    node_process.wait_for_line("AFTER.*released")
    assert [line for line in node_process.lines[seen:] if "AFTER" not in line] == []
    assert metric(http, "dicomnode_associations_aborted_total") == 0
    assert metric(http, "dicomnode_associations_rejected_total") == 0


@pytest.mark.parametrize("claim", [100, (1 << 20) - 1], ids=["a short PDU", "a long PDU"])
def test_peers_that_begin_a_pdu_and_wait_hold_up_nobody(node: RunningNode, claim: int) -> None:
    # Fewer than the connections that one address may have.
    idle = [Wire(node.dicom_address) for _ in range(120)]
    for wire in idle:
        wire.send(struct.pack(">BBI", 1, 0, claim) + b"\0\1")
    image = Image(1, size_bytes=4_000_000)
    with associated(node.dicom_address) as wire:
        assert wire.echo() == 0
        assert wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) == 0
    for wire in idle:
        wire.socket.close()
