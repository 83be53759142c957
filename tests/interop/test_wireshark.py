"""Wireshark's DICOM dissector finds nothing wrong in what the node sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.recorder import dissect, recorded
from tests.interop.samples import samples
from tests.peers import NodeProcess, run_tool

pytestmark = pytest.mark.interop("tshark", "text2pcap", "storescu", "echoscu")


def test_a_stored_object_dissects_without_a_malformed_packet(
    archive: NodeProcess, tmp_path: Path
) -> None:
    sample = next(each for each in samples() if each.path.name == "CT_small.dcm")
    with recorded(archive.dicom_address) as recorder:
        done = run_tool("storescu", "-aec", "DICOMNODE", *recorder.address, sample.path)
    assert done.returncode == 0, done.output
    capture = recorder.write_capture(tmp_path)
    assert dissect(capture, "_ws.malformed || _ws.expert.severity >= 8388608", "frame.number") == []
    kinds = " ".join(dissect(capture, "dicom", "dicom.pdu.type")).replace(",", " ").split()
    assert {"0x01", "0x02", "0x04", "0x05", "0x06"} <= set(kinds)


def test_a_rejection_dissects_without_a_malformed_packet(
    archive: NodeProcess, tmp_path: Path
) -> None:
    with recorded(archive.dicom_address) as recorder:
        done = run_tool("echoscu", "-aec", "SOMEBODY_ELSE", *recorder.address)
    assert done.returncode != 0
    capture = recorder.write_capture(tmp_path)
    assert dissect(capture, "_ws.malformed || _ws.expert.severity >= 8388608", "frame.number") == []
    answers = dissect(
        *(capture, "dicom.pdu.type == 3"),
        *("dicom.assoc.reject.result", "dicom.assoc.reject.source", "dicom.assoc.reject.reason"),
    )
    assert answers == ["1\t1\t7"]
