"""A node that is killed again and again while four modalities work."""

from __future__ import annotations

import random
import signal
import sys
from pathlib import Path

import pytest

from tests import proof
from tests.conftest import StartNodeProcess
from tests.faults.senders import ward
from tests.peers import run_tool

CYCLES = 20


@pytest.mark.proof
@pytest.mark.timeout(10 * CYCLES)
@pytest.mark.parametrize("seed", range(proof.count(1, 25)))
def test_everything_acknowledged_survives_kill_9(
    start_node_process: StartNodeProcess, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    directory = tmp_path / "node"
    with ward(tmp_path) as people:
        oracle = people.oracle
        for cycle in range(CYCLES):
            node = start_node_process(directory, **people.settings)
            oracle.check(node, directory / "store")
            oracle.send_again(node.dicom_address)
            studies = range(4 * cycle, 4 * cycle + 4)
            modalities = people.work(node, studies, chance.randrange(1, 100))
            node.signal(signal.SIGKILL)
            node.wait()
            for modality in modalities:
                modality.join(20)
        node = start_node_process(directory, **people.settings)
        oracle.check(node, directory / "store", everything=True)
        oracle.send_again(node.dicom_address)
        assert oracle.refusals == []
        assert len(oracle.objects) > 10 * CYCLES
        people.wait_for_deliveries(node)
        node.signal(signal.SIGTERM)
        assert node.wait() == 0
    checked = run_tool(
        *(sys.executable, "-m", "dicomnode", "custody", "--check"),
        *("--config", directory / "dicomnode.toml"),
    )
    assert checked.returncode == 0, checked.output
