"""dcmjs-dimse, a DICOM stack in JavaScript, against the node."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from tests.interop.holdings import Holdings
from tests.interop.samples import samples
from tests.peers import NodeProcess, run_tool, storescp
from tests.programs import find_program

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


def query(holdings: Holdings, *arguments: str) -> list[list[str]]:
    done = run_tool("node", HERE / "query.cjs", *holdings.address, *arguments, directory=HERE)
    assert done.returncode == 0, done.output
    words = [line.split() for line in done.output.splitlines()]
    return [line for line in words if line and line[0] in ("match", "object", "status")]


def test_dcmjs_finds(holdings: Holdings) -> None:
    study = holdings.named("CT_small.dcm").study_uid
    assert query(holdings, "find", study) == [["match", study], ["status", "0000"]]


def test_dcmjs_cancels_and_gets_one_final_response(holdings: Holdings) -> None:
    *matches, final = query(holdings, "cancel", "")
    assert {line[0] for line in matches} == {"match"}
    assert final in (["status", "fe00"], ["status", "0000"])


def test_dcmjs_gets(holdings: Holdings) -> None:
    study = holdings.named("CT_small.dcm").study_uid
    of_study = holdings.of_study(study)
    *objects, final = query(holdings, "get", study)
    assert final == ["status", "0000", str(len(of_study)), "0"]
    assert {line[1] for line in objects} == set(of_study)
    for _, uid, size in objects:
        assert int(size) == len(pydicom.dcmread(holdings.held[uid].path).PixelData)


@pytest.mark.interop("storescp")
def test_dcmjs_moves(holdings: Holdings, tmp_path: Path) -> None:
    study = holdings.named("CT_small.dcm").study_uid
    of_study = holdings.of_study(study)
    with storescp(tmp_path, port=holdings.destinations["ANY_SYNTAX"][1]) as peer:
        assert query(holdings, "move", study, "ANY_SYNTAX") == [
            ["status", "0000", str(len(of_study)), "0"]
        ]
        assert len(list(peer.directory.iterdir())) == len(of_study)
