"""``dicomnode trace``: Wireshark opens what it records, as DICOM and without a fault."""

from __future__ import annotations

import contextlib
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

from tests import peers
from tests.authority import Authority, node_tls
from tests.captures import Capture
from tests.cli.commands import CT
from tests.peers import NodeProcess, run_tool

pytestmark = pytest.mark.interop(
    "tshark", "storescu", "echoscu", "findscu", "getscu", "movescu", "storescp"
)

STUDY = "1.2.826.0.1.3680043.10.1666.77"
LARGE_BYTES = 12 * 1024 * 1024


@contextlib.contextmanager
def traced(node: NodeProcess, out: Path, *options: str) -> Iterator[list[str]]:
    """Record while the block runs; what the command said is in the list afterwards."""
    command = [sys.executable, "-m", "dicomnode", "trace", "--config", str(node.config)]
    begun = sum("begins: it records" in line for line in node.lines)
    process = subprocess.Popen(
        [*command, "--out", str(out), "--seconds", "60", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    try:
        peers.eventually(
            lambda: sum("begins: it records" in line for line in node.lines) > begun, "the trace"
        )
        yield said
        output, _ = process.communicate(timeout=60)
        said += output.splitlines()
        assert process.returncode == 0, output
    finally:
        peers.end(process)


def dissect(capture: Path, display_filter: str, *fields: str) -> list[str]:
    """Return fields of the packets that match, as a Wireshark that nobody has told anything."""
    wanted = [argument for field in fields for argument in ("-e", field)]
    checked = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    done = run_tool(
        *("tshark", "-r", capture, *checked, "-Q"),
        *("-Y", display_filter, "-T", "fields", *wanted),
    )
    assert done.returncode == 0, done.output
    return [line for line in done.output.splitlines() if line and "as user" not in line]


def assert_faultless(capture: Path) -> None:
    """Nothing malformed, no error, and no warning of TCP's."""
    faults = "_ws.malformed || _ws.expert.severity >= 8388608 || tcp.analysis.flags"
    assert dissect(capture, faults, "frame.number", "_ws.col.Info") == []


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Peer]:
    with peers.storescp(tmp_path_factory.mktemp("storescp")) as peer:
        yield peer


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, destination: peers.Peer
) -> Iterator[NodeProcess]:
    host, port = destination.dicom_address
    entity = {"title": "STORESCP", "host": host, "port": port}
    with peers.node_process(tmp_path_factory.mktemp("node"), entities=[entity]) as process:
        yield process


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = pydicom.dcmread(CT)
    image.StudyInstanceUID = STUDY
    image.SeriesInstanceUID = f"{STUDY}.1"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{STUDY}.1.1"
    image.Rows, image.Columns = 1024, LARGE_BYTES // 2048
    image.PixelData = bytes(range(256)) * (LARGE_BYTES // 256)
    path = tmp_path_factory.mktemp("large") / "large.dcm"
    image.save_as(path)
    return path


def test_an_echo_is_recorded_from_handshake_to_fin(node: NodeProcess, tmp_path: Path) -> None:
    out = tmp_path / "echo.pcapng"
    with traced(node, out, "--ae", "ECHOSCU") as said:
        assert run_tool("echoscu", "-aec", "DICOMNODE", *node.dicom_address).returncode == 0
    assert_faultless(out)
    kinds = dissect(out, "dicom", "dicom.pdu.type")
    assert kinds == ["0x01", "0x02", "0x04", "0x04", "0x05", "0x06"]
    assert len(dissect(out, "tcp.flags.fin == 1", "frame.number")) == 2
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert any("1 association" in line for line in said)


def test_a_rejection_is_recorded(node: NodeProcess, tmp_path: Path) -> None:
    out = tmp_path / "rejected.pcapng"
    with traced(node, out, "--ae", "ECHOSCU", "--address", "127.0.0.0/8"):
        assert run_tool("echoscu", "-aec", "SOMEBODY", *node.dicom_address).returncode != 0
    assert_faultless(out)
    assert dissect(out, "dicom.pdu.type == 3", "dicom.assoc.reject.reason") == ["7"]


def test_a_large_object_is_recorded_byte_for_byte(
    node: NodeProcess, large: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store.pcapng"
    with traced(node, out, "--ae", "STORESCU"):
        done = run_tool("storescu", "-aec", "DICOMNODE", *node.dicom_address, large)
        assert done.returncode == 0, done.output
    assert_faultless(out)
    capture = Capture(out.read_bytes())
    assert capture.dropped == 0
    ((requestor, _),) = capture.streams()
    assert len(requestor) > LARGE_BYTES
    # DCMTK sends Implicit or Explicit VR Little Endian: the pixels are the same.
    assert requestor.count(bytes(range(256))) > LARGE_BYTES // 256 * 0.95
    assert dissect(out, "dicom.pdu.type == 6", "frame.number")
    assert any("C-STORE-RQ" in line for line in dissect(out, "dicom", "_ws.col.Info"))


def test_find_get_and_move_are_recorded_and_what_the_node_asks_for_too(
    node: NodeProcess, large: Path, tmp_path: Path
) -> None:
    run_tool("storescu", "-aec", "DICOMNODE", *node.dicom_address, large)
    asked = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}")
    where = ("-S", "-aec", "DICOMNODE", *node.dicom_address, *asked)
    found, got, moved = (tmp_path / f"{name}.pcapng" for name in ("find", "get", "moved"))
    with traced(node, found, "--ae", "FINDSCU"):
        assert run_tool("findscu", *where).returncode == 0
    with traced(node, got, "--ae", "GETSCU"):
        assert run_tool("getscu", *where, "-od", tmp_path).returncode == 0
    with traced(node, moved, "--ae", "STORESCP"):
        assert run_tool("movescu", *where, "-aem", "STORESCP").returncode == 0
    for capture, word in ((found, "C-FIND-RSP"), (got, "C-GET-RSP"), (moved, "C-STORE-RSP")):
        assert_faultless(capture)
        assert any(word in line for line in dissect(capture, "dicom", "_ws.col.Info")), word
    for capture in (got, moved):
        assert Capture(capture.read_bytes()).dropped == 0
        assert capture.stat().st_size > LARGE_BYTES
    assert "requested by this node of STORESCP" in Capture(moved.read_bytes()).packets[0].comment


def test_a_recording_that_is_full_is_still_faultless(
    node: NodeProcess, large: Path, tmp_path: Path
) -> None:
    out = tmp_path / "full.pcapng"
    with traced(node, out, "--ae", "STORESCU", "--max-bytes", "1M") as said:
        run_tool("storescu", "-aec", "DICOMNODE", *node.dicom_address, large)
    assert out.stat().st_size <= 1024**2
    assert "all the bytes" in " ".join(said)
    assert_faultless(out)


def test_what_comes_over_tls_is_recorded_as_it_was_decrypted(tmp_path: Path, large: Path) -> None:
    authority = Authority(tmp_path / "ca")
    shown = authority.issue("CT_1")
    out = tmp_path / "tls.pcapng"
    with (
        peers.node_process(tmp_path / "node", tls=node_tls(authority)) as node,
        traced(node, out, "--ae", "STORESCU"),
    ):
        keys = ("+tls", shown.key, shown.certificate, "+cf", authority.ca)
        sent = run_tool("storescu", *keys, "-aec", "DICOMNODE", *node.tls_address, large)
        assert sent.returncode == 0, sent.output
    assert_faultless(out)
    kinds = dissect(out, "dicom", "dicom.pdu.type")
    assert kinds[0].startswith("0x01") and kinds[-1].endswith("0x06")
    assert dissect(out, "tls", "frame.number") == []
