"""dcmjs-dimse, a DICOM stack in JavaScript, against the node."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from tests.interop.samples import samples
from tests.peers import NodeProcess, find_program, run_tool

HERE = Path(__file__).parent / "dcmjs"

pytestmark = pytest.mark.skipif(
    find_program("node") is None or not (HERE / "node_modules" / "dcmjs-dimse").is_dir(),
    reason="dcmjs-dimse is not installed: it needs Node.js and npm",
)


def test_dcmjs_echoes_and_stores(archive: NodeProcess) -> None:
    names = ("CT_small.dcm", "MR_small_RLE.dcm")
    sent = [each for each in samples() if each.path.name in names]
    files = [each.path for each in sent]
    done = run_tool("node", HERE / "send.cjs", *archive.dicom_address, *files, directory=HERE)
    assert done.returncode == 0, done.output
    statuses = [line for line in done.output.splitlines() if line.startswith("status ")]
    assert statuses == ["status 0000"] * 3
    for each in sent:
        kept = each.stored_path(archive.config.parent / "store")
        # dcmjs-dimse writes the data set anew, in the syntax that was accepted.
        assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(each.path).PixelData
