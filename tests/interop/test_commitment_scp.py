"""Orthanc and pynetdicom ask the node for storage commitment (PS3.4 Annex J)."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from tests import peers
from tests.faults.scu import Image, store
from tests.wire import CT_IMAGE_STORAGE, SECONDARY_CAPTURE

IMAGES = [Image(number) for number in range(1, 5)]
HELD, OF_ANOTHER_CLASS, DAMAGED, MISSING = (image.uid for image in IMAGES)
NOT_HELD, CLASS_CONFLICT, PROCESSING_FAILURE = 0x0112, 0x0119, 0x0110
EAGER = {"retry_seconds": 0.2, "max_retry_seconds": 0.2}

# Class and instance: one of each fate.
MIXED = [
    (CT_IMAGE_STORAGE, HELD),
    (SECONDARY_CAPTURE, OF_ANOTHER_CLASS),
    (CT_IMAGE_STORAGE, DAMAGED),
    (CT_IMAGE_STORAGE, MISSING),
]
OUTCOME = {
    OF_ANOTHER_CLASS: CLASS_CONFLICT,
    DAMAGED: PROCESSING_FAILURE,
    MISSING: NOT_HELD,
}


def fill(node: peers.NodeProcess) -> None:
    """Store all images but the last, and flip a bit in the file of one."""
    assert store(node.dicom_address, *IMAGES[:3]) == [0] * 3
    path = IMAGES[2].path(node.config.parent / "store")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


# -- pynetdicom ------------------------------------------------------------------------------------


class Scu:
    """pynetdicom as requester, which takes reports on any association."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reports: queue.Queue[tuple[int, Dataset]] = queue.Queue()
        self._handlers = [(evt.EVT_N_EVENT_REPORT, self._take)]

    def _take(self, event: evt.Event) -> tuple[int, None]:
        self.reports.put((event.event_type, event.event_information))
        return 0x0000, None

    def _entity(self) -> AE:
        entity = AE("SCU")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
        return entity

    @contextlib.contextmanager
    def listening(self, syntax: str = ImplicitVRLittleEndian) -> Iterator[None]:
        """Accept associations on which the node is SCP."""
        entity = self._entity()
        entity.add_supported_context(
            StorageCommitmentPushModel, syntax, scu_role=False, scp_role=True
        )
        server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=self._handlers
        )
        try:
            yield
        finally:
            server.shutdown()

    @contextlib.contextmanager
    def associated(
        self, node: peers.NodeProcess, syntax: str = ImplicitVRLittleEndian
    ) -> Iterator[Association]:
        entity = self._entity()
        entity.add_requested_context(StorageCommitmentPushModel, syntax)
        association = entity.associate(
            *node.dicom_address, ae_title="DICOMNODE", evt_handlers=self._handlers
        )
        assert association.is_established
        try:
            yield association
        finally:
            association.release()

    def take(self) -> tuple[int, list[str], dict[str, int]]:
        """Return event type, committed UIDs, and reasons of the others, of the next report."""
        event, report = self.reports.get(timeout=20)
        return (
            event,
            [item.ReferencedSOPInstanceUID for item in report.get("ReferencedSOPSequence", [])],
            {
                item.ReferencedSOPInstanceUID: item.FailureReason
                for item in report.get("FailedSOPSequence", [])
            },
        )


def ask(association: Association, wanted: list[tuple[str, str]]) -> str:
    """Ask for a commitment and return its Transaction UID."""
    request = Dataset()
    request.TransactionUID = generate_uid()
    request.ReferencedSOPSequence = []
    for sop_class, sop_instance in wanted:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        request.ReferencedSOPSequence.append(item)
    status, _ = association.send_n_action(
        request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    assert status.Status == 0x0000
    return str(request.TransactionUID)


@pytest.fixture
def scu() -> Scu:
    return Scu(peers.free_port())


@pytest.fixture
def archive(tmp_path: Path, scu: Scu) -> Iterator[peers.NodeProcess]:
    """Return a node that holds the images and knows the requester."""
    entity = {"title": "SCU", "host": "127.0.0.1", "port": scu.port}
    with peers.node_process(tmp_path / "node", entities=[entity], commitment=EAGER) as node:
        fill(node)
        yield node


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_pynetdicom_is_told_on_its_association(
    archive: peers.NodeProcess, scu: Scu, syntax: str
) -> None:
    with scu.associated(archive, syntax) as association:
        ask(association, MIXED)
        assert scu.take() == (2, [HELD], OUTCOME)
        ask(association, MIXED[:1])
        assert scu.take() == (1, [HELD], {})


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_pynetdicom_is_told_on_a_new_association_when_it_has_gone(
    archive: peers.NodeProcess, scu: Scu, syntax: str
) -> None:
    with scu.associated(archive) as association:
        ask(association, MIXED)
        association.abort()
    with scu.listening(syntax):
        assert scu.take() == (2, [HELD], OUTCOME)
        archive.wait_for_line("SCU has the report on 4 objects, on a new association")


def test_the_log_names_each_damaged_file(archive: peers.NodeProcess, scu: Scu) -> None:
    with scu.associated(archive) as association:
        ask(association, MIXED)
        scu.take()
    archive.wait_for_line(
        f"error a stored object is damaged: the file is not what was received.*{DAMAGED}"
    )
    archive.wait_for_line(
        r"warn  of 4 objects that SCU asks to commit, 1 held with another SOP class \(0119H\)"
    )


def test_pynetdicom_is_told_after_the_node_was_killed(archive: peers.NodeProcess, scu: Scu) -> None:
    with scu.associated(archive) as association:
        ask(association, MIXED)
        association.abort()
    archive.signal(signal.SIGKILL)
    archive.wait()
    entity = {"title": "SCU", "host": "127.0.0.1", "port": scu.port}
    with (
        scu.listening(),
        peers.node_process(archive.config.parent, entities=[entity], commitment=EAGER),
    ):
        assert scu.take() == (2, [HELD], OUTCOME)


# -- Orthanc ---------------------------------------------------------------------------------------


def call(orthanc: peers.Peer, method: str, path: str, value: object = None) -> Any:
    assert orthanc.http_address is not None
    body = json.dumps(value).encode() if value is not None else b""
    status, answer = peers.http_request(orthanc.http_address, method, path, body)
    assert status == 200, answer
    return json.loads(answer)


@pytest.mark.interop("Orthanc")
@pytest.mark.parametrize("wanted", [MIXED, MIXED[:1]])
def test_orthanc_is_told_what_it_asked(tmp_path: Path, wanted: list[tuple[str, str]]) -> None:
    with contextlib.ExitStack() as stack:
        orthanc = stack.enter_context(peers.orthanc(tmp_path / "orthanc"))
        host, port = orthanc.dicom_address
        entity = {"title": "ORTHANC", "host": host, "port": port}
        node = stack.enter_context(
            peers.node_process(tmp_path / "node", entities=[entity], commitment=EAGER)
        )
        fill(node)
        modality = {
            "AET": "DICOMNODE",
            "Host": node.dicom_address[0],
            "Port": node.dicom_address[1],
            "AllowStorageCommitment": True,
        }
        assert orthanc.http_address is not None
        peers.http_request(
            orthanc.http_address, "PUT", "/modalities/node", json.dumps(modality).encode()
        )
        instances = [{"SOPClassUID": sop_class, "SOPInstanceUID": uid} for sop_class, uid in wanted]
        transaction = call(
            orthanc, "POST", "/modalities/node/storage-commitment", {"DicomInstances": instances}
        )
        report: dict[str, Any] = {}

        def has_come() -> bool:
            report.update(call(orthanc, "GET", transaction["Path"]))
            return report["Status"] != "Pending"

        peers.eventually(has_come, "the report", timeout=20)
    expected = {uid: reason for uid, reason in OUTCOME.items() if len(wanted) > 1}
    assert report["Status"] == ("Failure" if expected else "Success")
    assert report["RemoteAET"] == "DICOMNODE"
    assert {each["SOPInstanceUID"] for each in report["Success"]} == {HELD}
    assert {
        each["SOPInstanceUID"]: each["FailureReason"] for each in report.get("Failures", [])
    } == expected
