"""Performed procedure steps when the power goes, and when what arrives is hostile."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from dicomnode.errors import StatusError, UnreadableAttributes
from dicomnode.services.mpps_rules import check_change, check_creation
from dicomnode.storage.json_model import decode_attributes
from tests.conftest import StartNodeProcess
from tests.faults import disks
from tests.faults.disks import Disk
from tests.interop.test_mpps_pynetdicom import associated
from tests.services.performing import completion, creation
from tests.services.querying import written
from tests.storage.objects import BIG, EXPLICIT, IMPLICIT

STEPS = 12
MUTATIONS = 400


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with disks.disk(tmp_path) as disk:
        yield disk


def test_every_acknowledged_change_of_a_step_survives_a_power_loss(
    start_node_process: StartNodeProcess, disk: Disk
) -> None:
    storage = {"directory": str(disk.mounted / "store")}
    node = start_node_process(storage=storage)
    with associated(node.dicom_address) as association:
        for number in range(STEPS):
            uid = f"1.2.{number}"
            status, _ = association.send_n_create(creation(), ModalityPerformedProcedureStep, uid)
            assert status.Status == 0x0000
            if number % 2:
                status, _ = association.send_n_set(
                    completion(), ModalityPerformedProcedureStep, uid
                )
                assert status.Status == 0x0000
        disk.cut()
    node.signal(signal.SIGKILL)
    node.wait()
    disk.mount_again()
    again = start_node_process(storage=storage)
    with associated(again.dicom_address) as association:
        for number in range(STEPS):
            _, held = association.send_n_get([], ModalityPerformedProcedureStep, f"1.2.{number}")
            assert held is not None
            expected = "COMPLETED" if number % 2 else "IN PROGRESS"
            assert held.PerformedProcedureStepStatus == expected


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_a_mutilated_step_is_taken_or_refused_and_nothing_else(syntax: str) -> None:
    chance = random.Random(syntax)
    held = check_creation(decode_attributes(written(creation(), EXPLICIT), EXPLICIT)).attributes
    whole = [bytearray(written(each, syntax)) for each in (creation(), completion())]
    for _ in range(MUTATIONS):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.choice(
                (0, 0xFF, 0x5C, chance.randrange(256))
            )
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        try:
            check_creation(decode_attributes(bytes(data), syntax))
            check_change(held, decode_attributes(bytes(data), syntax))
        except (StatusError, UnreadableAttributes):
            continue
