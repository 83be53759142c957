"""dcmjs-dimse, a DICOM stack in JavaScript, as SCU of performed procedure steps."""

from __future__ import annotations

from tests.conftest import RunningNode
from tests.interop.test_dcmjs import HERE, pytestmark
from tests.peers import run_tool

__all__ = ["pytestmark"]


def test_dcmjs_creates_completes_and_gets_a_step(node: RunningNode) -> None:
    arguments = (*node.dicom_address, "1.2.826.0.1.3680043.9.78", "1.2.3", "SPS1")
    done = run_tool("node", HERE / "mpps.cjs", *arguments, directory=HERE)
    assert done.returncode == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith(("N-", "step"))]
    assert lines == ["N-CREATE 0000", "N-SET 0000", "N-SET 0110", "N-GET 0000", "step COMPLETED"]
    assert node.metric("dicomnode_performed_steps", status="COMPLETED") == 1
