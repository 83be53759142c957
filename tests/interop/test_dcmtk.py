"""DCMTK's echoscu and storescu against the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.samples import Sample, data_set_bytes, samples
from tests.peers import NodeProcess, Peer, run_tool

# storescu proposes compressed syntaxes only when told to, one family at a time. These are the
# ones that pydicom has files of.
PROPOSALS = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}


def of_syntax(transfer_syntax_uid: str) -> list[Sample]:
    return [each for each in samples() if each.transfer_syntax_uid == transfer_syntax_uid]


def one_sample(transfer_syntax_uid: str = "1.2.840.10008.1.2.1") -> Sample:
    return next(each for each in of_syntax(transfer_syntax_uid) if each.meta_agrees)


@pytest.mark.interop("echoscu")
def test_echoscu_is_answered(archive: NodeProcess) -> None:
    done = run_tool("echoscu", "-v", "-aec", "DICOMNODE", *archive.dicom_address)
    assert done.returncode == 0, done.output
    assert "Received Echo Response (Success)" in done.output


@pytest.mark.interop("echoscu")
def test_a_hundred_echoes_go_over_one_association(archive: NodeProcess) -> None:
    done = run_tool("echoscu", "--repeat", 100, "-aec", "DICOMNODE", *archive.dicom_address)
    assert done.returncode == 0, done.output


@pytest.mark.interop("echoscu")
def test_echoscu_with_128_contexts_is_answered(archive: NodeProcess) -> None:
    done = run_tool(
        *("echoscu", "-v", "--propose-ts", 38, "--propose-pc", 128, "-aec", "DICOMNODE"),
        *archive.dicom_address,
    )
    assert done.returncode == 0, done.output
    assert "Received Echo Response (Success)" in done.output


@pytest.mark.interop("echoscu")
def test_an_abort_by_echoscu_is_taken_calmly(archive: NodeProcess) -> None:
    run_tool("echoscu", "--abort", "-aec", "DICOMNODE", *archive.dicom_address)
    done = run_tool("echoscu", "-aec", "DICOMNODE", *archive.dicom_address)
    assert done.returncode == 0, done.output


@pytest.mark.interop("storescu", "storescp")
@pytest.mark.parametrize("syntax", PROPOSALS)
def test_storescu_delivers_what_it_delivers_to_storescp(
    archive: NodeProcess, storescp: Peer, syntax: str
) -> None:
    files = [each.path for each in of_syntax(syntax)]
    for title, address in (
        ("STORESCP", storescp.dicom_address),
        ("DICOMNODE", archive.dicom_address),
    ):
        option = PROPOSALS[syntax]
        run_tool("storescu", "--no-halt", option, "-aec", title, *address, *files)
    received = list(storescp.directory.iterdir())
    assert received, "storescu sent nothing"
    for reference in received:
        sample = next(
            each for each in of_syntax(syntax) if reference.name.endswith(each.sop_instance_uid)
        )
        kept = sample.stored_path(archive_directory(archive))
        assert data_set_bytes(kept) == data_set_bytes(reference), sample.path.name


def archive_directory(archive: NodeProcess) -> Path:
    return archive.config.parent / "store"


@pytest.mark.interop("storescu", "dcmdump")
def test_dcmdump_reads_the_stored_file_without_complaint(archive: NodeProcess) -> None:
    sample = one_sample()
    sent = run_tool("storescu", "-aec", "DICOMNODE", *archive.dicom_address, sample.path)
    assert sent.returncode == 0, sent.output
    done = run_tool("dcmdump", sample.stored_path(archive_directory(archive)))
    assert done.returncode == 0, done.output
    assert "E: " not in done.output
    assert "W: " not in done.output
    assert sample.sop_instance_uid in done.output


@pytest.mark.interop("storescu")
def test_small_pdus_carry_the_same_bytes_as_large_ones(archive: NodeProcess) -> None:
    sample = one_sample()
    kept = sample.stored_path(archive_directory(archive))
    arrived = []
    for options in ((), ("--max-send-pdu", 4096, "-pdu", 4096)):
        sent = run_tool(
            *("storescu", *options, "-aec", "DICOMNODE", *archive.dicom_address), sample.path
        )
        assert sent.returncode == 0, sent.output
        arrived.append(data_set_bytes(kept))
    assert arrived[0] == arrived[1]


@pytest.mark.interop("storescu")
def test_an_abort_by_storescu_after_the_last_object_keeps_the_object(
    archive: NodeProcess,
) -> None:
    sample = one_sample("1.2.840.10008.1.2.5")
    run_tool("storescu", "-xr", "--abort", "-aec", "DICOMNODE", *archive.dicom_address, sample.path)
    assert sample.stored_path(archive_directory(archive)).is_file()


@pytest.mark.interop("storescu")
def test_a_user_identity_is_admitted_and_its_password_not_logged(archive: NodeProcess) -> None:
    sample = one_sample()
    arguments = ("--user", "someone", "--password", "secret", "-aec", "DICOMNODE")
    sent = run_tool("storescu", *arguments, *archive.dicom_address, sample.path)
    assert sent.returncode == 0, sent.output
    assert not any("secret" in line for line in archive.lines)
