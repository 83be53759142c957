"""GDCM's gdcmscu against the node.

gdcmscu 3.0.21 ends itself with an exception after every A-RELEASE-RP, whoever sent it; its exit
code therefore says nothing, and the tests look at what went over the wire and at what was kept.
Its C-MOVE is not tested: it waits for its own SCP, which cannot read what any node sends it.
"""

from __future__ import annotations

import pytest

from tests.interop.holdings import Holdings
from tests.interop.recorder import recorded
from tests.interop.samples import Sample, data_set_bytes, samples
from tests.peers import Address, Finished, NodeProcess, run_tool

pytestmark = pytest.mark.interop("gdcmscu")


def gdcmscu(address: Address, *arguments: object) -> Finished:
    return run_tool(
        *("gdcmscu", *map(str, arguments), "--call", "DICOMNODE", "--aetitle", "GDCMSCU"),
        *address,
    )


def test_gdcmscu_echo_is_answered_and_released(archive: NodeProcess) -> None:
    with recorded(archive.dicom_address) as recorder:
        done = gdcmscu(recorder.address, "--echo")
    answers = [part for direction, part in recorder.passed if direction == "O"]
    assert [part[0] for part in answers] == [2, 4, 6], done.output
    assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00" in answers[1], "Status (0000,0900) is 0000H"


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm"])
def test_gdcmscu_stores(archive: NodeProcess, name: str) -> None:
    sample = next(each for each in samples() if each.path.name == name)
    done = gdcmscu(archive.dicom_address, "--store", "-i", sample.path)
    kept = sample.stored_path(archive.config.parent / "store")
    assert kept.is_file(), done.output
    # gdcmscu writes the data set anew; its pixels come last and stay as they are.
    assert data_set_bytes(kept)[-512:] == sample.data_set[-512:]


def find_keys(sample: Sample) -> list[str]:
    return ["--key", f"20,d={sample.study_uid}", "--key", "10,10="]


def test_gdcmscu_finds(holdings: Holdings) -> None:
    sample = holdings.named("CT_small.dcm")
    with recorded(holdings.address) as recorder:
        done = gdcmscu(recorder.address, "--find", "--studyroot", "--study", *find_keys(sample))
    answer = b"".join(part for direction, part in recorder.passed if direction == "O")
    assert b"CompressedSamples^CT1" in answer, done.output
    assert sample.study_uid.encode() in answer
    assert b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00" in answer, "Status (0000,0900) is 0000H"
