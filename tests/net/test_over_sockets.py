"""A node and peers at the edges of what PS3.8 lets them negotiate, over real sockets."""

from __future__ import annotations

import struct

import pytest

from tests import wire
from tests.conftest import RunningNode, StartNode
from tests.wire import CT_IMAGE_STORAGE, EXPLICIT_LE, IMPLICIT_LE, VERIFICATION, Wire

IMAGE_UID = "1.2.3.4.5"


def image(size_bytes: int) -> bytes:
    return wire.data_set(
        CT_IMAGE_STORAGE, IMAGE_UID, study_uid="1.2.3", series_uid="1.2.4", pixels=bytes(size_bytes)
    )


@pytest.mark.parametrize("maximum_pdu_bytes", [4096, 2 * 1024**2])
def test_the_maximum_length_promised_to_one_ae_is_what_holds_for_it(
    start_node: StartNode, maximum_pdu_bytes: int
) -> None:
    node = start_node(entities=[{"title": "RAW", "maximum_pdu_bytes": maximum_pdu_bytes}])
    with Wire(node.dicom_address) as peer:
        peer.associate()
        assert peer.peer_maximum_length == maximum_pdu_bytes
        assert peer.store(CT_IMAGE_STORAGE, IMAGE_UID, image(2 * maximum_pdu_bytes)) == 0
        too_long = wire.pdv(1, bytes(maximum_pdu_bytes - 5), command=True, last=False)
        peer.send(wire.pdu(wire.P_DATA, too_long)[:6])
        assert peer.receive_pdu() == (wire.ABORT, bytes([0, 0, 2, 6]))
    with Wire(node.dicom_address) as other:
        other.associate(calling="OTHER")
        assert other.peer_maximum_length == 131072


def test_a_pdu_larger_than_all_receive_buffers_is_aborted_by_its_first_bytes(
    start_node: StartNode,
) -> None:
    node = start_node(
        entities=[{"title": "RAW", "maximum_pdu_bytes": 8 * 1024**2}],
        limits={"receive_buffer_bytes": 1024**2},
    )
    with Wire(node.dicom_address) as peer:
        peer.associate()
        peer.send(struct.pack(">BBI", wire.P_DATA, 0, 8 * 1024**2) + bytes(100))
        assert peer.receive_pdu()[0] == wire.ABORT
    with Wire(node.dicom_address) as other:
        other.associate(calling="OTHER")
        assert other.echo() == 0


@pytest.mark.parametrize("maximum_length", [0, 8, 9, 0xFFFFFFFF])
def test_responses_keep_to_any_maximum_length(node: RunningNode, maximum_length: int) -> None:
    with Wire(node.dicom_address) as peer:
        peer.associate(maximum_length=maximum_length)
        peer.send(b"".join(peer.message(1, wire.c_echo_rq())))
        command, control = b"", 0
        while control != 3:
            pdu_type, body = peer.receive_pdu()
            assert pdu_type == wire.P_DATA
            assert not 0 < maximum_length < len(body)
            control = body[5]
            command += body[6:]
        assert wire.command_values(command)[0x0900] == b"\0\0"
        peer.send(wire.pdu(wire.RELEASE_RQ, bytes(4)))
        assert peer.receive_pdu()[0] == wire.RELEASE_RP


def test_a_maximum_length_without_room_for_data_is_aborted(node: RunningNode) -> None:
    with Wire(node.dicom_address) as peer:
        assert peer.associate(maximum_length=7)[0] == wire.ABORT


@pytest.mark.parametrize("calling", ["", " A\\B\t\x1b[31m", "\xff\xe4\x00 ", "0123456789ABCDEF"])
def test_any_calling_title_is_answered_with_the_same_bytes(node: RunningNode, calling: str) -> None:
    request = bytearray(wire.associate_rq())
    request[26:42] = calling.encode("latin-1").ljust(16)
    with Wire(node.dicom_address) as peer:
        peer.send(bytes(request))
        pdu_type, body = peer.receive_pdu()
        assert pdu_type == wire.ASSOCIATE_AC
        assert body[20:36].rstrip(b" \0") == bytes(request[26:42]).strip(b" \0")
        assert peer.echo() == 0


def test_all_128_presentation_contexts_can_be_used(node: RunningNode) -> None:
    contexts = [(2 * n + 1, VERIFICATION, (IMPLICIT_LE, EXPLICIT_LE)) for n in range(128)]
    with Wire(node.dicom_address) as peer:
        assert peer.associate(contexts=contexts)[0] == wire.ASSOCIATE_AC
        assert [peer.echo(context_id) for context_id in (1, 127, 255)] == [0, 0, 0]


def test_a_thousand_requests_in_one_breath_are_all_answered(node: RunningNode) -> None:
    with Wire(node.dicom_address) as peer:
        peer.associate()
        peer.send(
            b"".join(
                wire.pdu(wire.P_DATA, wire.pdv(1, wire.c_echo_rq(number), command=True))
                for number in range(1, 1001)
            )
        )
        answers = [peer.response() for _ in range(1000)]
        assert [int.from_bytes(answer[0x0120], "little") for answer in answers] == list(
            range(1, 1001)
        )
        assert peer.release() == wire.RELEASE_RP


def test_a_data_set_cut_into_single_bytes_is_stored_whole(node: RunningNode) -> None:
    data = image(20_000)
    with Wire(node.dicom_address) as peer:
        peer.associate()
        command = wire.c_store_rq(1, CT_IMAGE_STORAGE, IMAGE_UID)
        peer.send(wire.pdu(wire.P_DATA, wire.pdv(3, command, command=True)))
        bytes_ = [wire.pdv(3, data[n : n + 1], last=n == len(data) - 1) for n in range(len(data))]
        half = len(data) // 2
        peer.send(b"".join(wire.pdu(wire.P_DATA, value) for value in bytes_[:half]))
        for at in range(half, len(data), 1000):
            peer.send(wire.pdu(wire.P_DATA, b"".join(bytes_[at : at + 1000])))
        assert peer.response()[0x0900] == b"\0\0"
    (file,) = node.files()
    assert file.read_bytes().endswith(data)
