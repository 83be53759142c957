"""Storage commitment as SCP: what is refused, what is checked, and what the report says."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dicomnode.services import commitment as service
from dicomnode.services import commitment_intake
from dicomnode.services.commitment_messages import decode_request
from dicomnode.storage.disk import OpenFile
from tests import peers
from tests.commitment_wire import (
    CONTEXTS,
    N_ACTION_RSP,
    PUSH_MODEL_INSTANCE,
    Referenced,
    Requester,
    action_information,
    n_action_rq,
    requesting,
    uid,
)
from tests.conftest import RunningNode, StartNode
from tests.faults.scu import Image, store
from tests.peers import eventually
from tests.wire import CT_IMAGE_STORAGE, SECONDARY_CAPTURE

IMAGES = [Image(number) for number in range(1, 4)]
MISSING = "1.2.826.0.1.3680043.10.1666.404"
TRANSACTION = "1.2.826.0.1.3680043.10.1666.8.1"

NOT_HELD, CLASS_CONFLICT, PROCESSING_FAILURE = 0x0112, 0x0119, 0x0110


def references(*images: Image) -> list[Referenced]:
    return [(CT_IMAGE_STORAGE, image.uid) for image in images]


def uids(*images: Image) -> list[str]:
    return [image.uid for image in images]


@pytest.fixture
def archive(start_node: StartNode) -> RunningNode:
    """Return a node that holds the images."""
    node = start_node()
    assert store(node.dicom_address, *IMAGES) == [0] * len(IMAGES)
    return node


def commit(node: RunningNode, *wanted: Referenced) -> tuple[int, str, list[str], dict[str, int]]:
    """Ask for a commitment and return what the report says of it."""
    with requesting(node.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, wanted) == 0x0000
        report = wire.take_report()
        wire.release()
    return report.outcome


def explained(node: RunningNode) -> list[dict[str, Any]]:
    found = json.loads(peers.http_get(node.http_address, "/api/explain")[1])["explanations"]
    return [each for each in found if each["kind"] == "commitment"]


# -- requests ------------------------------------------------------------------------------------


def request_status(node: RunningNode, command: bytes, data: bytes | None) -> int:
    with requesting(node.dicom_address) as wire:
        status = wire.request(1, command, data)
        wire.release()
    return status


WHOLE = action_information(TRANSACTION, references(*IMAGES))


def test_an_instance_other_than_the_well_known_one_is_unknown(node: RunningNode) -> None:
    assert request_status(node, n_action_rq(instance="1.2.3"), WHOLE) == 0x0112


def test_an_action_other_than_the_request_is_unknown(node: RunningNode) -> None:
    assert request_status(node, n_action_rq(action=2), WHOLE) == 0x0123


def test_a_request_without_a_data_set_lacks_its_attributes(node: RunningNode) -> None:
    assert request_status(node, n_action_rq(data=0), None) == 0x0120


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (uid(0x00081195, TRANSACTION), 0x0120),
        (action_information(TRANSACTION, []), 0x0121),
        (action_information("no UID", references(*IMAGES)), 0x0106),
        (action_information(TRANSACTION, [(CT_IMAGE_STORAGE, "../../etc")]), 0x0106),
        (b"\xff" * 32, 0x0115),
    ],
)
def test_what_is_wrong_with_a_request_is_its_answer(
    node: RunningNode, data: bytes, status: int
) -> None:
    assert request_status(node, n_action_rq(), data) == status
    assert node.metric("dicomnode_commitments") == 0


def test_a_request_that_is_too_long_is_refused_and_the_association_goes_on(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment_intake, "MAX_MESSAGE_BYTES", 4096)
    long = [(CT_IMAGE_STORAGE, f"1.2.3.{number}") for number in range(200)]
    with requesting(archive.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, long) == 0x0213
        assert wire.commit(2, TRANSACTION, references(*IMAGES)) == 0x0000
        assert wire.take_report().outcome[2] == uids(*IMAGES)
        wire.release()


def test_requests_are_refused_while_too_many_wait(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_MAX_UNFINISHED", 0)
    assert request_status(archive, n_action_rq(), WHOLE) == 0x0213


def test_one_request_is_kept_before_the_next_one_is_read(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    commitment = archive.node._commitment
    done: list[str] = []
    keep = commitment._commitments.add

    def decode(data: bytes, transfer_syntax_uid: str) -> Any:
        eventually(lambda: done or len(commitment._intake._tasks) == 2)
        done.append("read")
        return decode_request(data, transfer_syntax_uid)

    def add(*request: Any) -> bool:
        done.append("kept")
        return keep(*request)

    monkeypatch.setattr(service, "decode_request", decode)
    monkeypatch.setattr(commitment._commitments, "add", add)
    with requesting(archive.dicom_address) as one, requesting(archive.dicom_address) as other:
        one.ask(1, f"{TRANSACTION}.1", references(*IMAGES))
        other.ask(1, f"{TRANSACTION}.2", references(*IMAGES))
        assert one.receive().status == other.receive().status == 0x0000
    assert done == ["read", "kept"] * 2


def test_the_status_of_the_node_waits_for_no_request_that_is_being_read(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, shown = threading.Event(), threading.Event()

    def decode(data: bytes, transfer_syntax_uid: str) -> Any:
        reading.set()
        assert shown.wait(30)
        return decode_request(data, transfer_syntax_uid)

    monkeypatch.setattr(service, "decode_request", decode)
    with requesting(archive.dicom_address) as wire:
        wire.ask(1, TRANSACTION, references(*IMAGES))
        assert reading.wait(10)
        assert peers.http_get(archive.http_address, "/api/status")[0] == 200
        shown.set()
        assert wire.receive().status == 0x0000


def test_a_transaction_uid_is_taken_once_of_a_requester(archive: RunningNode) -> None:
    commit(archive, *references(*IMAGES))
    with requesting(archive.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, references(*IMAGES)) == 0x0131
        wire.release()
    with requesting(archive.dicom_address, calling="OTHER") as wire:
        assert wire.commit(1, TRANSACTION, references(*IMAGES)) == 0x0000
        wire.take_report()
        wire.release()


def test_of_the_same_request_on_many_associations_at_once_one_is_taken(
    archive: RunningNode,
) -> None:
    wires = [Requester(archive.dicom_address) for _ in range(6)]
    for wire in wires:
        wire.associate(calling="SCU", contexts=CONTEXTS)
    for wire in wires:
        wire.ask(1, TRANSACTION, references(*IMAGES))
    assert sorted(wire.receive().status for wire in wires) == [0x0000] + [0x0131] * 5
    for wire in wires:
        wire.abort()


# -- checks --------------------------------------------------------------------------------------


def test_what_is_held_as_it_was_received_is_committed(archive: RunningNode) -> None:
    assert commit(archive, *references(*IMAGES)) == (1, TRANSACTION, uids(*IMAGES), {})
    eventually(lambda: archive.metric("dicomnode_commitments", state="delivered") == 1)
    eventually(
        lambda: archive.metric("dicomnode_commitment_reports_total", result="delivered") == 1
    )
    assert archive.metric("dicomnode_commitment_instances_total", result="committed") == 3
    assert explained(archive) == []


def test_what_is_not_held_is_no_such_object_instance(archive: RunningNode) -> None:
    outcome = commit(archive, *references(*IMAGES), (CT_IMAGE_STORAGE, MISSING))
    assert outcome == (2, TRANSACTION, uids(*IMAGES), {MISSING: NOT_HELD})
    (explanation,) = explained(archive)
    assert explanation["calling_ae_title"] == "SCU"
    assert explanation["answer"] == "1 of 4 not committed"
    assert explanation["advice"]


def test_another_sop_class_than_the_one_held_is_a_conflict(archive: RunningNode) -> None:
    first, *rest = IMAGES
    outcome = commit(archive, (SECONDARY_CAPTURE, first.uid), *references(*rest))
    assert outcome == (2, TRANSACTION, uids(*rest), {first.uid: CLASS_CONFLICT})


def flip_a_bit(archive: RunningNode, image: Image) -> None:
    path = image.path(archive.store_directory)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def cut_short(archive: RunningNode, image: Image) -> None:
    os.truncate(image.path(archive.store_directory), 500)


def empty(archive: RunningNode, image: Image) -> None:
    os.truncate(image.path(archive.store_directory), 0)


def lengthen(archive: RunningNode, image: Image) -> None:
    with image.path(archive.store_directory).open("ab") as file:
        file.write(b"\0")


def remove(archive: RunningNode, image: Image) -> None:
    image.path(archive.store_directory).unlink()


def make_a_directory_of_it(archive: RunningNode, image: Image) -> None:
    remove(archive, image)
    image.path(archive.store_directory).mkdir()


@pytest.mark.parametrize(
    "spoil", [flip_a_bit, cut_short, empty, lengthen, remove, make_a_directory_of_it]
)
def test_what_the_disk_has_spoiled_is_a_processing_failure(
    archive: RunningNode, spoil: Callable[[RunningNode, Image], None]
) -> None:
    first, *rest = IMAGES
    spoil(archive, first)
    outcome = commit(archive, *references(*IMAGES))
    assert outcome == (2, TRANSACTION, uids(*rest), {first.uid: PROCESSING_FAILURE})
    assert archive.metric("dicomnode_commitment_instances_total", result="damaged") == 1
    assert archive.metric("dicomnode_scrub_found_total", by="commitment") == 1


def test_what_the_disk_cannot_read_is_a_processing_failure(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: OpenFile, size: int, position: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(OpenFile, "read", failing)
    outcome = commit(archive, *references(*IMAGES))
    assert outcome[3] == dict.fromkeys(uids(*IMAGES), PROCESSING_FAILURE)


def test_an_object_that_is_named_often_is_read_once(
    archive: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = archive.node._archive.files.open_object

    def counting(rel: str) -> int:
        opened.append(rel)
        return real(rel)

    monkeypatch.setattr(archive.node._archive.files, "open_object", counting)
    first = IMAGES[0]
    outcome = commit(archive, *references(first) * 50)
    assert outcome == (1, TRANSACTION, uids(first) * 50, {})
    assert len(opened) == 1


def test_what_was_replaced_is_committed_as_what_it_is_now(start_node: StartNode) -> None:
    node = start_node(storage={"on_conflict": "replace"})
    assert store(node.dicom_address, Image(1), Image(1, shade=7)) == [0, 0]
    assert commit(node, *references(Image(1)))[:3] == (1, TRANSACTION, uids(Image(1)))


# -- reports on the requester's association --------------------------------------------------------


def test_the_report_follows_the_response_and_says_where_to_retrieve(archive: RunningNode) -> None:
    with requesting(archive.dicom_address) as wire:
        wire.ask(1, TRANSACTION, references(*IMAGES))
        assert wire.receive().field == N_ACTION_RSP
        report = wire.take_report()
        wire.release()
    assert report.command[0x1000].rstrip(b"\0").decode() == PUSH_MODEL_INSTANCE
    assert report.data_set.RetrieveAETitle == "DICOMNODE"


def test_one_report_is_outstanding_at_a_time_on_an_association(archive: RunningNode) -> None:
    with requesting(archive.dicom_address) as wire:
        for number in range(1, 6):
            wire.ask(number, f"{TRANSACTION}.{number}", references(*IMAGES))
        answered, reported = 0, []
        while answered < 5 or len(reported) < 5:
            message = wire.receive()
            if message.field == N_ACTION_RSP:
                answered += 1
                continue
            # Nothing but responses may come before this one is answered (PS3.7 §D.3.3.3).
            reported.append(message.outcome[1])
            wire.answer(message)
        wire.release()
    assert sorted(reported) == [f"{TRANSACTION}.{number}" for number in range(1, 6)]


@pytest.mark.parametrize("status", [0x0107, 0x0116])
def test_a_warning_in_answer_to_the_report_is_as_good_as_success(
    archive: RunningNode, status: int
) -> None:
    with requesting(archive.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, references(*IMAGES)) == 0
        wire.take_report(status)
        wire.release()
    eventually(lambda: archive.metric("dicomnode_commitments", state="delivered") == 1)
