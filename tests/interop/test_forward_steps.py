"""Performed procedure steps forwarded to pynetdicom, and from one dicomnode to the next."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from tests.conftest import RunningNode, StartNode
from tests.interop.test_mpps_pynetdicom import STEP, associated, change, create
from tests.peers import Address, eventually, free_port
from tests.services.performing import completion, creation, series
from tests.step_scp import StepSCP, step_scp

QUICK = {"retry_seconds": 0.05, "max_retry_seconds": 0.1}


def forwarding(
    start_node: StartNode,
    *addresses: Address,
    rule: dict[str, object] | None = None,
    directory: Path | None = None,
    **settings: object,
) -> RunningNode:
    """Start a node that tells R0, R1, … of all steps."""
    titles = [f"R{number}" for number in range(len(addresses))]
    return start_node(
        directory=directory,
        entities=[
            {"title": title, "host": host, "port": port}
            for title, (host, port) in zip(titles, addresses, strict=True)
        ],
        forward=[{"name": "steps", "what": "mpps", "to": titles} | (rule or {})],
        forwarding=QUICK | settings,
    )


def progress(*, images: int) -> Dataset:
    changes = Dataset()
    changes.PerformedSeriesSequence = [series(images=images)]
    return changes


def perform(address: Address, syntax: str = "1.2.840.10008.1.2.1") -> None:
    """Create a step, change it twice, and end it."""
    with associated(address, syntax) as association:
        assert create(association, creation(PatientName="Büchner^Anna")).Status == 0x0000
        for images in (1, 2):
            assert change(association, progress(images=images)).Status == 0x0000
        assert change(association, completion(series(images=3))).Status == 0x0000


def settled(node: RunningNode, **labels: str) -> bool:
    return node.metric("dicomnode_outbox_depth", **labels) == 0


WHOLE = [
    ("N-CREATE", STEP, "IN PROGRESS"),
    ("N-SET", STEP, ""),
    ("N-SET", STEP, ""),
    ("N-SET", STEP, "COMPLETED"),
]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", ExplicitVRBigEndian])
def test_a_step_is_forwarded_message_by_message(start_node: StartNode, syntax: str) -> None:
    scp = StepSCP()
    with step_scp(scp) as address:
        node = forwarding(start_node, address)
        perform(node.dicom_address, syntax)
        eventually(lambda: len(scp.messages) == 4 and settled(node))
    assert scp.messages == WHOLE
    expected = creation(PatientName="Büchner^Anna")
    expected.update(completion(series(images=3)))
    held = scp.steps[STEP]
    assert str(held.PatientName) == "Büchner^Anna"
    del held.SpecificCharacterSet
    assert held.to_json_dict() == expected.to_json_dict()
    assert node.metric("dicomnode_forwarded_total", destination="R0", result="sent") == 4


def test_no_n_set_precedes_its_n_create_though_that_is_refused_at_first(
    start_node: StartNode,
) -> None:
    refusals = itertools.count()

    def slow(operation: str, uid: str) -> int | str | None:
        return 0x0110 if operation == "N-CREATE" and next(refusals) < 3 else None

    scp = StepSCP(slow)
    with step_scp(scp) as address:
        node = forwarding(start_node, address)
        perform(node.dicom_address)
        eventually(lambda: scp.messages[3:] == WHOLE and settled(node))
    assert [message[0] for message in scp.messages[:4]] == ["N-CREATE"] * 4


@pytest.mark.parametrize("retrieve", [True, False])
def test_what_comes_twice_counts_as_sent(start_node: StartNode, retrieve: bool) -> None:
    """The answers to N-CREATE and to the last N-SET are lost at first."""
    scp = StepSCP()

    def breaks_off(operation: str, uid: str) -> int | str | None:
        is_lost = (
            scp.messages[-1] in (WHOLE[0], WHOLE[3]) and scp.messages[-1] not in (scp.messages[:-1])
        )
        return "abort" if is_lost else None

    scp.behaviour = breaks_off
    with step_scp(scp, retrieve=retrieve) as address:
        node = forwarding(start_node, address, max_refusals=1)
        perform(node.dicom_address)
        eventually(lambda: len(scp.messages) == 6 and settled(node))
    assert scp.messages == [WHOLE[0], *WHOLE[:3], WHOLE[3], WHOLE[3]]


def test_a_step_that_ended_otherwise_is_no_success(start_node: StartNode) -> None:
    scp = StepSCP()
    with step_scp(scp) as address:
        node = forwarding(start_node, address, max_refusals=1)
        with associated(node.dicom_address) as association:
            create(association, creation())
            eventually(lambda: STEP in scp.steps)
            scp.steps[STEP].PerformedProcedureStepStatus = "DISCONTINUED"
            assert change(association, completion()).Status == 0x0000
        eventually(lambda: node.metric("dicomnode_outbox_depth", state="dead") == 1)


def test_a_destination_that_is_down_holds_up_no_other_and_gets_all_later(
    start_node: StartNode,
) -> None:
    down = ("127.0.0.1", free_port())
    first, second = StepSCP(), StepSCP()
    with step_scp(second) as address:
        node = forwarding(start_node, down, address)
        perform(node.dicom_address)
        eventually(lambda: second.messages == WHOLE)
        assert node.metric("dicomnode_outbox_depth", destination="R0") == 4
        with step_scp(first, down):
            eventually(lambda: settled(node))
    assert first.messages == WHOLE


def test_steps_go_to_an_alternate_as_a_whole(start_node: StartNode) -> None:
    """What the destination has begun stays with it; what the alternate has begun, with that."""
    address = ("127.0.0.1", free_port())
    first, second = StepSCP(), StepSCP()
    begun, other = "1.2.3.4", "1.2.3.5"
    with step_scp(second) as backup:
        with step_scp(first, address):
            node = forwarding(
                start_node,
                *(address, backup),
                rule={"to": ["R0"], "alternate": {"R0": "R1"}},
                alternate_after_seconds=0.2,
            )
            with associated(node.dicom_address) as association:
                create(association, creation(), begun)
                eventually(lambda: begun in first.steps and settled(node))
            eventually(lambda: node.metric("dicomnode_outgoing_associations_active") == 0)
        with associated(node.dicom_address) as association:
            change(association, completion(), begun)
            create(association, creation(), other)
            eventually(lambda: other in second.steps)
        with step_scp(first, address):
            eventually(lambda: settled(node))
            with associated(node.dicom_address) as association:
                change(association, completion(), other)
            eventually(lambda: len(second.messages) == 2 and settled(node))
    assert [message[:2] for message in first.messages] == [("N-CREATE", begun), ("N-SET", begun)]
    assert [message[:2] for message in second.messages] == [("N-CREATE", other), ("N-SET", other)]


def test_a_step_goes_from_node_to_node(start_node: StartNode, tmp_path: Path) -> None:
    last = start_node(directory=tmp_path / "last", node={"ae_title": "R0"})
    node = forwarding(start_node, last.dicom_address, directory=tmp_path / "first")
    perform(node.dicom_address)
    eventually(
        lambda: last.metric("dicomnode_performed_steps", status="COMPLETED") == 1 and settled(node)
    )
    assert node.metric("dicomnode_forwarded_total", result="sent") == 4


def test_rules_choose_steps_by_who_creates_them_and_by_what_they_have(
    start_node: StartNode,
) -> None:
    scp, unwanted = StepSCP(), StepSCP()
    with step_scp(scp) as address, step_scp(unwanted) as other:
        node = start_node(
            entities=[
                {"title": title, "host": host, "port": port}
                for title, (host, port) in (("R0", address), ("R1", other))
            ],
            forward=[
                {
                    "name": "CT",
                    "what": "mpps",
                    "from": ["CT_*"],
                    "modalities": ["CT"],
                    "attributes": {"PerformedProcedureStepID": "PPS*"},
                    "to": ["R0"],
                },
                {"name": "MR", "what": "mpps", "modalities": ["MR"], "to": ["R1"]},
                {"name": "objects", "to": ["R1"]},
            ],
            forwarding=QUICK,
        )
        perform(node.dicom_address)
        eventually(lambda: scp.messages == WHOLE)
        assert settled(node, destination="R1")
    assert unwanted.messages == []
