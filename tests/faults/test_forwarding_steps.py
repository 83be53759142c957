"""Performed procedure steps on their way to a destination while the node is killed."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from pathlib import Path

import pytest
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityPerformedProcedureStep

from tests.conftest import StartNodeProcess
from tests.interop.test_mpps_pynetdicom import associated
from tests.peers import Address, eventually, metric
from tests.services.performing import completion, creation
from tests.step_scp import StepSCP, close_socket, step_scp

QUICK = {"retry_seconds": 0.05, "max_retry_seconds": 0.2}
CYCLES = 5


class Modality(threading.Thread):
    """Performs one step after the other until the node is gone; notes what was acknowledged."""

    def __init__(self, address: Address, cycle: int) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._cycle = cycle
        self._association: Association | None = None
        self.created: list[str] = []
        self.ended: list[str] = []
        self.progress = threading.Semaphore(0)

    def wait_for_progress(self) -> None:
        """Wait for the end of another step, or of this modality.

        Of two threads of pynetdicom either may take an answer; the wrong one drops it.
        """
        while not self.progress.acquire(timeout=0.2) and self.is_alive():
            pass

    def close(self) -> None:
        """Wait until it has noticed that the node is gone."""
        self.join(30)
        assert self._association is not None
        self._association.join(30)
        close_socket(self._association)

    def run(self) -> None:
        with contextlib.suppress(Exception), associated(self._address) as association:
            self._association = association
            for number in range(10_000):
                uid = f"1.2.3.{self._cycle}.{number}"
                status, _ = association.send_n_create(
                    creation(), ModalityPerformedProcedureStep, uid
                )
                if status.Status != 0x0000:
                    return
                self.created.append(uid)
                status, _ = association.send_n_set(
                    completion(), ModalityPerformedProcedureStep, uid
                )
                if status.Status != 0x0000:
                    return
                self.ended.append(uid)
                self.progress.release()


@pytest.mark.timeout(180)
def test_every_acknowledged_message_arrives_in_order_though_the_node_is_killed(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    chance = random.Random(3)
    directory = tmp_path / "node"
    scp = StepSCP()
    created: list[str] = []
    ended: list[str] = []
    with step_scp(scp) as (host, port):
        settings = {
            "entities": [{"title": "RIS", "host": host, "port": port}],
            "forward": [{"name": "steps", "what": "mpps", "to": ["RIS"]}],
            "forwarding": QUICK,
        }
        for cycle in range(CYCLES):
            node = start_node_process(directory, **settings)
            modality = Modality(node.dicom_address, cycle)
            modality.start()
            for _ in range(chance.randrange(1, 40)):
                modality.wait_for_progress()
            node.signal(signal.SIGKILL)
            node.wait()
            modality.close()
            created += modality.created
            ended += modality.ended
        node = start_node_process(directory, **settings)
        eventually(lambda: metric(node.http_address, "dicomnode_outbox_depth") == 0, timeout=60)
    assert set(created) <= scp.steps.keys()
    over = {
        uid for uid, step in scp.steps.items() if step.PerformedProcedureStepStatus == "COMPLETED"
    }
    assert set(ended) <= over
    for uid in scp.steps:
        first = next(operation for operation, of, _ in scp.messages if of == uid)
        assert first == "N-CREATE"
