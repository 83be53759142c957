"""Nodes that break their promises: the oracle of the other tests finds what they lose."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.conftest import StartNodeProcess
from tests.faults import disks
from tests.faults.controls import CONTROLS
from tests.faults.senders import ward
from tests.peers import NodeProcess, write_config

PROGRAM = ("-m", "tests.faults.controls")
ATTEMPTS = 5
OPERATIONS = 30


@pytest.mark.timeout(120)
@pytest.mark.parametrize("control", CONTROLS)
def test_what_a_broken_promise_costs_at_a_power_loss_is_found(
    start_node_process: StartNodeProcess, tmp_path: Path, control: str
) -> None:
    with disks.disk(tmp_path) as disk:
        found: list[str] = []
        for attempt in range(ATTEMPTS):
            where = disk.mounted / f"store{attempt}"
            storage = {"directory": str(where)}
            broken = write_config(tmp_path / f"broken{attempt}", storage=storage)
            (tmp_path / str(attempt)).mkdir()
            with ward(tmp_path / str(attempt)) as people:
                node = NodeProcess(broken, *PROGRAM, control)
                try:
                    node.wait_until_ready()
                    modalities = people.work(node, (1,), OPERATIONS)
                    disk.cut()
                finally:
                    node.process.kill()
                    node.close()
                for modality in modalities:
                    modality.join(20)
                disk.mount_again()
                again = start_node_process(tmp_path / f"again{attempt}", storage=storage)
                found += people.oracle.losses(again, where)
                again.signal(signal.SIGKILL)
                again.wait()
            if found:
                break
        assert found, "nothing was lost"


@pytest.mark.timeout(120)
def test_an_answer_before_the_commit_is_found_when_the_node_is_killed(
    start_node_process: StartNodeProcess, tmp_path: Path
) -> None:
    directory = tmp_path / "node"
    with ward(tmp_path) as people:
        config = write_config(directory, **people.settings)
        node = NodeProcess(config, *PROGRAM, "the_answer_comes_before_the_commit")
        try:
            node.wait_until_ready()
            modalities = people.work(node, (1,), OPERATIONS)
        finally:
            node.process.kill()
            node.close()
        for modality in modalities:
            modality.join(20)
        again = start_node_process(directory, **people.settings)
        assert list(people.oracle.losses(again, directory / "store"))
