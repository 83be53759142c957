"""A node's audit trail: what peers do, as an auditor reads it."""

from __future__ import annotations

import json
import signal
import urllib.request
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from tests import peers
from tests.audit.reading import Read, check_schema, read_file, read_syslog
from tests.audit.receivers import receiver
from tests.conftest import RunningNode, StartNode, StartNodeProcess

FIND = StudyRootQueryRetrieveInformationModelFind
GET = StudyRootQueryRetrieveInformationModelGet
MOVE = StudyRootQueryRetrieveInformationModelMove
CT: Dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
STUDY = str(CT.StudyInstanceUID)
PATIENT = (str(CT.PatientID), str(CT.PatientName))


@contextmanager
def associated(
    address: peers.Address, title: str = "CT_1", called: str = "DICOMNODE"
) -> Iterator[Association]:
    entity = AE(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    for uid in (CTImageStorage, FIND, GET, MOVE):
        entity.add_requested_context(uid)
    association = entity.associate(
        *address,
        ae_title=called,
        ext_neg=[build_role(CTImageStorage, scu_role=True, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, lambda event: 0x0000)],
    )
    yield association
    if association.is_established:
        association.release()


def images(count: int) -> list[Dataset]:
    made = []
    for number in range(1, count + 1):
        image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number}"
        made.append(image)
    return made


def store(address: peers.Address, count: int) -> None:
    with associated(address) as association:
        for image in images(count):
            assert association.send_c_store(image).Status == 0x0000


def study_keys() -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = STUDY
    return keys


def audited(node: RunningNode) -> list[Read]:
    """Stop ``node``; return what it wrote."""
    node.stop()
    return read_file(node.directory / "audit.xml")


@pytest.fixture
def in_file(start_node: StartNode, tmp_path: Path) -> Any:
    """Start a node that writes its audit trail to a file."""

    def start(**sections: Any) -> RunningNode:
        directory = tmp_path / "node"
        audit = {"enabled": True, "file": str(directory / "audit.xml")}
        return start_node(directory=directory, audit=audit, **sections)

    return start


def of_event(found: list[Read], code: str) -> list[Read]:
    return [each for each in found if each.event == code]


@pytest.mark.interop("xmllint")
def test_what_a_modality_and_a_workstation_do(in_file: Any, tmp_path: Path) -> None:
    node = in_file()
    store(node.dicom_address, 3)
    store(node.dicom_address, 3)
    with associated(node.dicom_address, "WS_1") as association:
        assert [status.Status for status, _ in association.send_c_find(study_keys(), FIND)][-1] == 0
        assert [status.Status for status, _ in association.send_c_get(study_keys(), GET)][-1] == 0
    found = audited(node)
    check_schema((node.directory / "audit.xml").read_bytes().splitlines(), tmp_path)

    assert [found[0].types, found[-1].types] == [["110120"], ["110121"]]
    first, again, got = of_event(found, "110104")
    assert (first.action, again.action, got.action) == ("C", "R", "R")
    for each in (first, again, got):
        assert (each.outcome, each.study, each.patient) == ("0", STUDY, PATIENT)
        assert each.sop_classes == {str(CTImageStorage): 3}
    source, destination = first.participants
    assert (source["UserID"], source["role"], source["UserIsRequestor"]) == (
        "CT_1",
        "110153",
        "true",
    )
    assert source["NetworkAccessPointID"] == "127.0.0.1"
    assert destination["AlternativeUserID"] == "AETITLES=DICOMNODE"
    source, destination = got.participants
    assert (source["UserIsRequestor"], destination["UserIsRequestor"]) == ("false", "true")
    assert destination["UserID"] == "WS_1"

    (begun,) = of_event(found, "110102")
    assert begun.study == STUDY
    assert found.index(begun) < found.index(got)
    (asked,) = of_event(found, "110112")
    assert asked.object_of("110181").attrib["ParticipantObjectID"] == FIND
    query = b64decode(asked.object_of("110181").findtext("ParticipantObjectQuery", ""))
    assert STUDY.encode() in query
    assert asked.participants[0]["UserID"] == "WS_1"


def test_a_move_names_who_asked_and_who_received(in_file: Any) -> None:
    entity = AE("ARCHIVE")
    entity.add_supported_context(CTImageStorage)
    handlers = [(evt.EVT_C_STORE, lambda event: 0x0000)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    port = server.socket.getsockname()[1]
    node = in_file(entities=[{"title": "ARCHIVE", "host": "127.0.0.1", "port": port}])
    store(node.dicom_address, 2)
    with associated(node.dicom_address, "WS_1") as association:
        list(association.send_c_move(study_keys(), "ARCHIVE", MOVE))
    server.shutdown()
    found = audited(node)
    moved = of_event(found, "110104")[-1]
    assert moved.sop_classes == {str(CTImageStorage): 2}
    for each in (moved, *of_event(found, "110102")):
        _, destination, originator = each.participants
        assert (destination["UserID"], destination["UserIsRequestor"]) == ("ARCHIVE", "false")
        assert (originator["UserID"], originator["UserIsRequestor"]) == ("WS_1", "true")


def test_what_is_forwarded_is_audited(in_file: Any) -> None:
    entity = AE("ARCHIVE")
    entity.add_supported_context(CTImageStorage)
    handlers = [(evt.EVT_C_STORE, lambda event: 0x0000)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    port = server.socket.getsockname()[1]
    node = in_file(
        entities=[{"title": "ARCHIVE", "host": "127.0.0.1", "port": port}],
        forward=[{"name": "all", "to": ["ARCHIVE"]}],
    )
    store(node.dicom_address, 2)
    sent = {"destination": "ARCHIVE", "result": "sent"}
    peers.eventually(lambda: node.metric("dicomnode_forwarded_total", **sent) == 2)
    found = audited(node)
    server.shutdown()
    sent_on = [
        each
        for each in of_event(found, "110104")
        if each.participants[0]["role"] == "110153"
        and each.participants[0].get("UserName") == "dicomnode"
    ]
    assert sum(each.sop_classes[str(CTImageStorage)] for each in sent_on) == 2
    assert sent_on[0].participants[0]["UserIsRequestor"] == "true"
    assert len(of_event(found, "110102")) == len(sent_on)


def test_an_association_that_is_rejected_is_a_security_alert(in_file: Any) -> None:
    node = in_file(access={"unknown_ae": "refuse"})
    with associated(node.dicom_address, 'A"<&>;B') as association:
        assert association.is_rejected
    (alert,) = (each for each in of_event(audited(node), "110113") if each.types == ["110126"])
    assert alert.outcome == "4"
    assert alert.participants[1]["UserID"] == 'A"<&>;B'
    assert b"Calling AE title not recognized" in alert.detail("110182", "Alert Description")


def test_an_object_that_is_refused_is_a_failed_transfer(in_file: Any) -> None:
    node = in_file(storage={"on_conflict": "refuse"})
    store(node.dicom_address, 1)
    (image,) = images(1)
    image.PatientComments = "other bytes"
    with associated(node.dicom_address) as association:
        assert association.send_c_store(image).Status == 0x0111
    failed = of_event(audited(node), "110104")[-1]
    assert (failed.outcome, failed.action) == ("4", "R")
    assert failed.description.startswith("0111H")


def test_status_and_metrics_tell_how_it_stands(start_node: StartNode) -> None:
    with receiver("tcp") as taking:
        node = start_node(audit={"enabled": True, "destination": taking.url})
        start = read_syslog(taking.wait_for(1)[0])
        assert start.types == ["110120"]
        peers.eventually(
            lambda: node.metric("dicomnode_audit_messages_waiting", target="syslog") == 0
        )
        assert node.metric("dicomnode_audit_target_up", target="syslog") == 1
        host, port = node.http_address
        with urllib.request.urlopen(f"http://{host}:{port}/api/status", timeout=20) as answer:
            status = json.load(answer)["audit"]
        assert status["enabled"]
        assert status["targets"][0]["target"] == taking.url


def test_a_trail_that_is_off_leaves_nothing(node: RunningNode) -> None:
    store(node.dicom_address, 1)
    assert not list(node.store_directory.glob("audit*"))


def test_nothing_that_was_spooled_is_lost_by_kill_9(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    with receiver("tcp") as taking:
        audit = {"enabled": True, "destination": taking.url}
        node = start_node_process(directory=tmp_path / "node", audit=audit)
        # Each start tells of itself, and of the head of the chain of custody.
        taking.wait_for(2)
        taking.stop()
        for _ in range(3):
            store(node.dicom_address, 2)
        waiting = {"target": "syslog"}
        peers.eventually(
            lambda: (
                peers.metric(node.http_address, "dicomnode_audit_messages_waiting", **waiting) == 3
            )
        )
        node.signal(signal.SIGKILL)
        node.wait()
        taking.start()
        start_node_process(directory=tmp_path / "node", audit=audit)
        found = [read_syslog(each) for each in taking.wait_for(7)]
    assert Counter(each.event for each in found) == {"110100": 2, "110104": 3, "110113": 2}
    stored = [each for each in found if each.event == "110104"]
    assert sum(each.sop_classes[str(CTImageStorage)] for each in stored) == 6
