"""dcmjs-dimse, a DICOM stack in JavaScript, against the node."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests.cli.commands import run
from tests.conftest import StartNode
from tests.interop.holdings import Holdings
from tests.interop.samples import samples
from tests.peers import NodeProcess, end, free_port, run_tool, storescp
from tests.programs import find_program

HERE = Path(__file__).parent / "dcmjs"
HELD = ("CT_small.dcm", "MR_small.dcm")

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


@pytest.fixture
def source() -> Iterator[str]:
    """Run an archive in JavaScript that holds two studies; give it as the commands write it."""
    paths = [each.path for each in samples() if each.path.name in HELD]
    port = free_port()
    command = [find_program("node") or "node", "archive.cjs", str(port), *map(str, paths)]
    process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield f"DCMJS@127.0.0.1:{port}"
    finally:
        end(process)
        process.stdout.close()


def test_dcmjs_is_asked_what_it_has(source: str, tmp_path: Path) -> None:
    held = {str(pydicom.dcmread(e.path).PatientName) for e in samples() if e.path.name in HELD}
    found = run("find", source, "-k", "PatientName", "-k", "StudyInstanceUID", "--csv")
    assert found.code == 0, found.err
    assert {line.partition(",")[0] for line in found.lines[1:]} == held
    study = next(e.study_uid for e in samples() if e.path.name == "CT_small.dcm")
    got = run("get", source, "--study", study, "-od", tmp_path)
    assert got.code == 0, got.err
    (kept,) = tmp_path.rglob("*.dcm")
    original = next(e.path for e in samples() if e.path.name == "CT_small.dcm")
    assert pydicom.dcmread(kept).PixelData == pydicom.dcmread(original).PixelData


def test_what_dcmjs_has_is_brought_into_the_node(source: str, start_node: StartNode) -> None:
    node = start_node()
    done = run("sync", source, "--mode", "get", "--config", node.config)
    assert done.code == 0, done.err + done.out
    assert len(node.files()) == len(HELD)
    again = run("sync", source, "--mode", "get", "--config", node.config)
    assert again.code == 0 and "0 objects missing here" in again.out
