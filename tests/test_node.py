"""The whole node: that its parts are wired to each other, reloaded and drained together."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from tests import peers
from tests.conftest import RunningNode, StartNode

FIND = StudyRootQueryRetrieveInformationModelFind
MOVE = StudyRootQueryRetrieveInformationModelMove
WORKSTATION = {"title": "WS_1"}


@dataclass
class Destination:
    """A storage SCP of pynetdicom that answers once it may."""

    port: int = 0
    received: int = 0
    asked: threading.Event = field(default_factory=threading.Event)
    may_answer: threading.Event = field(default_factory=threading.Event)

    def store(self, event: evt.Event) -> int:
        self.asked.set()
        self.may_answer.wait(20)
        self.received += 1
        return 0x0000

    @property
    def entry(self) -> dict[str, Any]:
        """Its table of ae.toml."""
        return {"title": "ARCHIVE", "host": "127.0.0.1", "port": self.port}


@pytest.fixture
def destination() -> Iterator[Destination]:
    made = Destination()
    entity = AE("ARCHIVE")
    entity.add_supported_context(CTImageStorage)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, made.store)]
    )
    assert server is not None
    made.port = server.socket.getsockname()[1]
    yield made
    made.may_answer.set()
    server.shutdown()


@contextlib.contextmanager
def workstation(node: RunningNode) -> Iterator[Association]:
    entity = AE("WS_1")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    for uid in (CTImageStorage, FIND, MOVE):
        entity.add_requested_context(uid)
    host, port = node.dicom_address
    association = entity.associate(host, port, ae_title="DICOMNODE")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def store_two(association: Association) -> str:
    """Store a study of two objects; return its UID."""
    data_set = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for number in (1, 2):
        uid = UID(f"1.2.3.{number}")
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = uid
        assert association.send_c_store(data_set).Status == 0x0000
    return str(data_set.StudyInstanceUID)


def study(uid: str, **keys: str) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = uid
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return identifier


def move(association: Association, uid: str, to: str = "ARCHIVE") -> int:
    """Perform a C-MOVE; return its final status, or -1 for none."""
    status = -1
    for response, _ in association.send_c_move(study(uid), to, MOVE):
        status = response.Status if "Status" in response else -1
    return status


def shown(node: RunningNode, path: str) -> Any:
    host, port = node.http_address
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
        return json.load(answer)


def is_draining(node: RunningNode) -> bool:
    try:
        return not shown(node, "/readyz")["ready"]
    except urllib.error.HTTPError as answer:
        return "draining" in json.load(answer)["failed"]


def test_a_destination_is_explained_added_and_used_without_a_restart(
    start_node: StartNode, destination: Destination
) -> None:
    destination.may_answer.set()
    node = start_node(entities=[WORKSTATION])
    with workstation(node) as association:
        uid = store_two(association)
        assert move(association, uid) == 0xA801
        (told,) = shown(node, "/api/explain")["explanations"]
        assert told["asked"] == "C-MOVE to ARCHIVE"
        assert 'title = "ARCHIVE"' in told["advice"][0]

        peers.write_registry(node.directory, [WORKSTATION, destination.entry])
        assert node.reload()
        assert move(association, uid) == 0x0000
    assert destination.received == 2
    since_start = shown(node, "/api/status")["since_start"]
    assert (since_start["retrievals"], since_start["objects_sent"]) == (1, 2)
    labels = {"service": "C-MOVE", "result": "completed"}
    assert node.metric("dicomnode_retrieve_sub_operations_total", **labels) == 2
    name = "dicomnode_outgoing_associations_total"
    assert node.metric(name, called_aet="ARCHIVE", result="accepted") == 1


def test_an_empty_query_is_explained_by_the_key_that_nothing_matches(
    start_node: StartNode,
) -> None:
    node = start_node(entities=[WORKSTATION])
    with workstation(node) as association:
        uid = store_two(association)
        identifier = study(uid, AccessionNumber="NOWHERE")
        assert [each[0].Status for each in association.send_c_find(identifier, FIND)] == [0]
    peers.eventually(lambda: shown(node, "/api/explain")["explanations"], "the explanation")
    (told,) = shown(node, "/api/explain")["explanations"]
    assert told["answer"] == "no match"
    assert [reason["words"] for reason in told["reasons"]] == ["no STUDY has this AccessionNumber"]
    assert "NOWHERE" not in json.dumps(told)
    assert node.metric("dicomnode_query_empty_total", level="STUDY") == 1


def test_a_move_that_runs_is_finished_while_the_node_drains(
    start_node: StartNode, destination: Destination
) -> None:
    node = start_node(entities=[WORKSTATION, destination.entry])
    with workstation(node) as association:
        uid = store_two(association)
        statuses: list[int] = []
        moving = threading.Thread(target=lambda: statuses.append(move(association, uid)))
        moving.start()
        assert destination.asked.wait(10)
        stopping = threading.Thread(target=node.stop)
        stopping.start()
        peers.eventually(lambda: is_draining(node), "draining")
        destination.may_answer.set()
        moving.join(20)
    stopping.join(20)
    assert statuses == [0x0000]
    assert destination.received == 2


def test_a_destination_that_does_not_answer_holds_up_stopping_no_longer_than_draining(
    start_node: StartNode, destination: Destination
) -> None:
    node = start_node(entities=[WORKSTATION, destination.entry], timeouts={"drain_seconds": 0.1})
    with workstation(node) as association:
        uid = store_two(association)
        statuses: list[int] = []
        moving = threading.Thread(target=lambda: statuses.append(move(association, uid)))
        moving.start()
        assert destination.asked.wait(10)
        node.stop()
        moving.join(20)
    assert statuses == [-1]
    assert destination.received == 0
