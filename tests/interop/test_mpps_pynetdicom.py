"""pynetdicom as SCU of performed procedure steps; the worklist that DCMTK's findscu then sees."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
)

from dicomnode.index.catalog import Catalog
from dicomnode.index.worklist import NewItem, WorklistItems
from dicomnode.storage.json_model import decode_attributes
from tests.conftest import RunningNode, StartNode, StartNodeProcess
from tests.peers import Address, run_tool
from tests.services.performing import completion, creation, scheduled
from tests.services.querying import written
from tests.worklist_data import worklist_data_set

STEP = UID("1.2.826.0.1.3680043.9.77")
STUDY = "1.2.3.1"


def enter(store: Path, items: Mapping[str, Mapping[str, str]]) -> None:
    """Enter items by key, with the values of their study, in the index of a node to come."""
    store.mkdir(parents=True)
    with Catalog(f"sqlite:///{store / 'index.sqlite'}") as catalog:
        syntax = ExplicitVRLittleEndian
        made = [
            NewItem(
                key,
                "command",
                "",
                "",
                decode_attributes(written(worklist_data_set(**values), syntax), syntax),
            )
            for key, values in items.items()
        ]
        WorklistItems(catalog).put(made)


@contextlib.contextmanager
def associated(address: Address, syntax: str = ExplicitVRLittleEndian) -> Iterator[Association]:
    entity = AE("CT_1")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(ModalityPerformedProcedureStep, syntax)
    entity.add_requested_context(ModalityPerformedProcedureStepRetrieve, syntax)
    association = entity.associate(*address, ae_title="DICOMNODE")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def create(association: Association, attributes: Dataset, uid: UID | None = STEP) -> Dataset:
    status, _ = association.send_n_create(attributes, ModalityPerformedProcedureStep, uid)
    return status


def change(association: Association, changes: Dataset, uid: UID = STEP) -> Dataset:
    status, _ = association.send_n_set(changes, ModalityPerformedProcedureStep, uid)
    return status


def listed(address: Address) -> list[str]:
    """Return the accession numbers that findscu gets, with the status of the step."""
    done = run_tool(
        "findscu",
        *("-W", "-v", "-aec", "DICOMNODE", *map(str, address)),
        *("-k", "AccessionNumber", "-k", "(0040,0100)[0].0040,0020"),
    )
    assert done.returncode == 0, done.output
    values: list[str] = []
    for line in done.output.splitlines():
        if "(0008,0050) SH [" in line or "(0040,0020) CS [" in line:
            values.append(line.split("[")[1].split("]")[0].strip())
    pairs = zip(values[::2], values[1::2], strict=True)
    return sorted(f"{accession} {status}" for accession, status in pairs if accession)


def step(study: str = STUDY, accession: str = "A1") -> Dataset:
    return creation(scheduled(study, "SPS1", accession))


@pytest.mark.interop("findscu")
@pytest.mark.parametrize(
    ("ending", "afterwards"),
    [("COMPLETED", ["A2 SCHEDULED"]), ("DISCONTINUED", ["A1 SCHEDULED", "A2 SCHEDULED"])],
)
def test_the_worklist_follows_a_step_from_beginning_to_end(
    tmp_path: Path, start_node: StartNode, ending: str, afterwards: list[str]
) -> None:
    directory = tmp_path / "node"
    items = {"one": {}, "two": {"StudyInstanceUID": "1.2.3.2", "AccessionNumber": "A2"}}
    enter(directory / "store", items)
    node = start_node(directory=directory)
    assert listed(node.dicom_address) == ["A1 SCHEDULED", "A2 SCHEDULED"]
    with associated(node.dicom_address) as association:
        assert create(association, step()).Status == 0x0000
        assert listed(node.dicom_address) == ["A2 SCHEDULED"]
        assert node.metric("dicomnode_performed_steps", status="IN PROGRESS") == 1
        ended = change(association, completion(PerformedProcedureStepStatus=ending))
        assert ended.Status == 0x0000
    assert listed(node.dicom_address) == afterwards
    assert node.metric("dicomnode_performed_steps", status=ending) == 1
    assert node.metric("dicomnode_performed_steps", status="IN PROGRESS") == 0


@pytest.mark.interop("findscu")
def test_a_step_in_progress_stays_on_the_list_where_that_is_wanted(
    tmp_path: Path, start_node: StartNode
) -> None:
    directory = tmp_path / "node"
    enter(directory / "store", {"one": {}})
    node = start_node(directory=directory, worklist={"in_progress": "show"})
    with associated(node.dicom_address) as association:
        assert create(association, step()).Status == 0x0000
        assert listed(node.dicom_address) == ["A1 STARTED"]
        assert change(association, completion()).Status == 0x0000
    assert listed(node.dicom_address) == []


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_step_is_created_changed_and_got(node: RunningNode, syntax: str) -> None:
    with associated(node.dicom_address, syntax) as association:
        created = create(association, creation())
        assert created.Status == 0x0000
        assert change(association, completion()).Status == 0x0000
        status, held = association.send_n_get([], ModalityPerformedProcedureStepRetrieve, STEP)
    assert status.Status == 0x0000
    assert held is not None
    expected = creation()
    expected.update(completion())
    assert held.to_json_dict() == expected.to_json_dict()


def test_the_state_rules_are_told_with_their_codes(node: RunningNode) -> None:
    with associated(node.dicom_address) as association:
        assert change(association, completion()).Status == 0x0112
        invalid = create(association, creation(PerformedProcedureStepStatus="COMPLETED"))
        assert invalid.Status == 0x0106
        missing = create(association, creation(PerformedProcedureStepStatus=None))
        assert missing.Status == 0x0120
        assert create(association, creation()).Status == 0x0000
        assert create(association, creation()).Status == 0x0111
        wrong = change(association, completion(PerformedProcedureStepStatus="DONE"))
        assert wrong.Status == 0x0106
        without = change(association, completion(PerformedSeriesSequence=None))
        assert without.Status == 0x0120
        assert change(association, completion()).Status == 0x0000
        closed = change(association, completion())
        assert (closed.Status, closed.ErrorID) == (0x0110, 0xA710)
        assert closed.ErrorComment == "Performed Procedure Step Object may no longer be updated"
        got, _ = association.send_n_get([], ModalityPerformedProcedureStepRetrieve, "1.2.3")
        assert got.Status == 0x0112


def test_attributes_are_got_by_their_tags(node: RunningNode) -> None:
    asked = [Tag("PerformedProcedureStepStatus"), Tag("PatientName"), Tag("ProtocolName")]
    with associated(node.dicom_address) as association:
        create(association, creation())
        status, held = association.send_n_get(asked, ModalityPerformedProcedureStepRetrieve, STEP)
    assert status.Status == 0x0001
    assert status.AttributeIdentifierList == Tag("ProtocolName")
    assert held is not None
    assert [element.keyword for element in held] == [
        "PatientName",
        "PerformedProcedureStepStatus",
    ]


def test_a_step_outlives_the_node(tmp_path: Path, start_node_process: StartNodeProcess) -> None:
    """What the node acknowledged is durable when it is killed."""
    directory = tmp_path / "node"
    node = start_node_process(directory)
    with associated(node.dicom_address) as association:
        assert create(association, creation()).Status == 0x0000
    node.signal(signal.SIGKILL)
    node.wait()
    again = start_node_process(directory)
    with associated(again.dicom_address) as association:
        assert create(association, creation()).Status == 0x0111
        assert change(association, completion()).Status == 0x0000


def test_of_many_that_create_the_same_step_one_does(node: RunningNode) -> None:
    statuses: list[int] = []
    start = threading.Barrier(6)

    def perform() -> None:
        with associated(node.dicom_address) as association:
            start.wait(20)
            statuses.append(create(association, creation()).Status)

    threads = [threading.Thread(target=perform) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [0x0000] + [0x0111] * 5
