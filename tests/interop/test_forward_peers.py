"""Objects of every kind forwarded to the programs that archives are made of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import RunningNode, StartNode
from tests.interop.holdings import apart, send
from tests.interop.samples import Sample, data_set_bytes, samples
from tests.peers import Address, Peer, dcmqrscp, end, eventually, free_port, http_get, storescp
from tests.programs import find_program

DCMJS = Path(__file__).parent / "dcmjs"


def forwarding(start_node: StartNode, title: str, address: Address) -> RunningNode:
    """Start a node that forwards all that it receives to one destination."""
    return start_node(
        entities=[{"title": title, "host": address[0], "port": address[1]}],
        forward=[{"name": "all", "to": [title]}],
        forwarding={"retry_seconds": 0.2, "max_refusals": 2},
    )


def wait_until_settled(node: RunningNode) -> dict[str, float]:
    """Wait until everything has been sent or set aside; return how many of each."""

    def count(**labels: str) -> float:
        return node.metric("dicomnode_outbox_depth", **labels)

    eventually(lambda: count() == count(state="dead"), timeout=40)
    sent = node.metric("dicomnode_forwarded_total", result="sent")
    return {"sent": sent, "dead": count(state="dead")}


@pytest.mark.interop("storescp")
def test_storescp_gets_every_object_byte_for_byte(
    start_node: StartNode, storescp: Peer, tmp_path: Path
) -> None:
    found = apart(samples(), tmp_path / "samples")
    node = forwarding(start_node, "STORESCP", storescp.dicom_address)
    send(node.dicom_address, found)
    # DCMTK aborts at a data set of odd length: that one waits, and holds up no other.
    odd = [each for each in found if len(each.data_set) % 2 and "dfl" not in each.path.name]
    assert len(odd) == 1
    eventually(lambda: node.metric("dicomnode_outbox_depth") == 1, timeout=40)
    received = {data_set_bytes(path) for path in storescp.directory.iterdir()}
    # A deflated data set of odd length is sent with the null that it lacks (PS3.5 §A.5).
    expected = [each for each in found if each not in odd]
    assert received == {each.data_set + b"\0" * (len(each.data_set) % 2) for each in expected}


@pytest.mark.interop("storescp")
def test_what_a_destination_does_not_take_is_converted_or_set_aside_with_the_reason(
    start_node: StartNode, tmp_path: Path
) -> None:
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm")
    found = [each for each in samples() if each.path.name in names]
    with storescp(tmp_path / "scp", accept="+xi") as peer:
        node = forwarding(start_node, "STORESCP", peer.dicom_address)
        send(node.dicom_address, found)
        assert wait_until_settled(node) == {"sent": len(found), "dead": 0}
        assert len(list(peer.directory.iterdir())) == len(found)


@pytest.mark.interop("dcmqrscp", "dcmqridx")
def test_dcmqrscp_gets_the_objects(start_node: StartNode, tmp_path: Path) -> None:
    found = _usual(tmp_path / "samples")
    with dcmqrscp(tmp_path / "dcmqrscp") as peer:
        node = forwarding(start_node, "DCMQRSCP", peer.dicom_address)
        send(node.dicom_address, found)
        assert wait_until_settled(node) == {"sent": len(found), "dead": 0}


@pytest.mark.interop("Orthanc")
def test_orthanc_gets_the_objects(start_node: StartNode, orthanc: Peer, tmp_path: Path) -> None:
    found = _usual(tmp_path / "samples")
    node = forwarding(start_node, "ORTHANC", orthanc.dicom_address)
    send(node.dicom_address, found)
    settled = wait_until_settled(node)
    assert settled["sent"] + settled["dead"] == len(found)
    assert orthanc.http_address is not None
    _, statistics = http_get(orthanc.http_address, "/statistics")
    assert f'"CountInstances" : {settled["sent"]:.0f},'.encode() in statistics
    assert settled["dead"] == 0


@pytest.mark.skipif(
    find_program("node") is None or not (DCMJS / "node_modules" / "dcmjs-dimse").is_dir(),
    reason="dcmjs-dimse is not installed: it needs Node.js and npm",
)
def test_dcmjs_gets_the_objects(start_node: StartNode) -> None:
    names = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm")
    found = [each for each in samples() if each.path.name in names]
    port = free_port()
    command = [find_program("node") or "node", "receive.cjs", str(port)]
    process = subprocess.Popen(command, cwd=DCMJS, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        node = forwarding(start_node, "DCMJS", ("127.0.0.1", port))
        send(node.dicom_address, found)
        assert wait_until_settled(node) == {"sent": len(found), "dead": 0}
        told = {process.stdout.readline().split()[1] for _ in found}
        assert told == {each.sop_instance_uid for each in found}
    finally:
        end(process)
        process.stdout.close()


def _usual(directory: Path) -> list[Sample]:
    """Return the samples that are images as the standard has them."""
    names = ("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "rtplan.dcm")
    return apart([each for each in samples() if each.path.name in names], directory)
