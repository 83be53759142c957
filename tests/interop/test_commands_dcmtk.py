"""The commands against DCMTK: storescp, dcmqrscp and wlmscpfs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import peers
from tests.cli.commands import STUDY, make_study, run, written
from tests.interop.samples import data_set_bytes, samples


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[peers.Peer]:
    """Return a dcmqrscp with one study of four objects in two series, and a destination."""
    paths = make_study(tmp_path / "in", 4, series=2)
    destinations = {"STORESCP": ("127.0.0.1", peers.free_port())}
    with (
        peers.storescp(tmp_path / "scp", port=destinations["STORESCP"][1]),
        peers.dcmqrscp(tmp_path / "archive", paths, destinations=destinations) as peer,
    ):
        yield peer


def peer_of(peer: peers.Peer) -> str:
    return written(peer.dicom_address, peer.ae_title)


@pytest.mark.interop("storescp")
def test_storescp_answers_an_echo(storescp: peers.Peer) -> None:
    ended = run("echo", peer_of(storescp))
    assert ended.code == 0
    assert "(OFFIS_DCMTK_" in ended.out


@pytest.mark.interop("storescp")
@pytest.mark.timeout(120)
def test_every_sample_arrives_at_storescp_in_its_own_transfer_syntax(
    storescp: peers.Peer, tmp_path: Path
) -> None:
    by_uid = {sample.sop_instance_uid: sample for sample in samples()}
    paths = [sample.path for sample in by_uid.values()]
    ended = run("send", peer_of(storescp), *paths, "-v")
    sent = {data_set_bytes(path) for path in storescp.directory.iterdir()}
    failed = {line.split(": ")[0].removeprefix("failed ") for line in ended.err.splitlines()}
    expected = [path for path in paths if str(path) not in failed]
    # DCMTK does not know every transfer syntax that pydicom has a file of.
    assert len(expected) > 0.9 * len(paths)
    assert all(
        (content := data_set_bytes(path)) in sent or content + b"\0" in sent for path in expected
    )


@pytest.mark.interop("storescp")
def test_what_storescp_does_not_take_compressed_is_sent_uncompressed(tmp_path: Path) -> None:
    plain = next(s for s in samples() if s.path.name == "CT_small.dcm")
    rle = next(s for s in samples() if s.transfer_syntax_uid == "1.2.840.10008.1.2.5")
    with peers.storescp(tmp_path / "scp", accept="--prefer-uncompr") as peer:
        ended = run("send", peer_of(peer), rle.path, plain.path)
        assert ended.code == 0, ended.err
        assert len(list(peer.directory.iterdir())) == 2


@pytest.mark.interop("dcmqrscp", "dcmqridx")
def test_dcmqrscp_is_queried_at_every_level(archive: peers.Peer) -> None:
    peer = peer_of(archive)
    (study,) = csv.DictReader(io.StringIO(run("find", peer, "--csv").out))
    assert (study["StudyInstanceUID"], study["PatientName"]) == (STUDY, "Doe^Jane")
    keys = ("-k", f"StudyInstanceUID={STUDY}")
    series = run("find", peer, "-l", "SERIES", *keys, "--csv").lines[1:]
    assert len(series) == 2
    images = run("find", peer, "-l", "IMAGE", *keys, "-k", f"SeriesInstanceUID={STUDY}.1", "--csv")
    assert len(images.lines) == 3
    patients = run("find", peer, "-P", "-l", "PATIENT", "-k", "PatientName=Doe*", "--csv")
    assert "4711" in patients.out


@pytest.mark.interop("dcmqrscp", "dcmqridx")
def test_a_study_of_dcmqrscp_is_retrieved_and_completed(
    archive: peers.Peer, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = run("get", peer_of(archive), "--study", STUDY, "-od", out)
    assert ended.code == 0, ended.err
    files = sorted(out.rglob("*.dcm"))
    assert len(files) == 4
    sent = {data_set_bytes(path) for path in (tmp_path / "in").iterdir()}
    files[0].unlink()
    again = run("get", peer_of(archive), "--study", STUDY, "-od", out)
    assert "4: 3 were here, 1 received" in again.out
    assert {data_set_bytes(path) for path in out.rglob("*.dcm")} == sent
    assert (
        "is no dicomnode"
        in run("get", peer_of(archive), "--study", STUDY, "-od", out, "--verify").err
    )


@pytest.mark.interop("dcmqrscp", "dcmqridx", "storescp")
def test_dcmqrscp_sends_to_a_third_node(archive: peers.Peer, tmp_path: Path) -> None:
    ended = run("move", peer_of(archive), "--study", STUDY, "--to", "STORESCP")
    assert ended.code == 0, ended.err
    assert "DCMQRSCP sent 4 to STORESCP, 0 failed" in ended.out
    assert len(list((tmp_path / "scp" / "received").iterdir())) == 4
    unknown = run("move", peer_of(archive), "--study", STUDY, "--to", "NOWHERE")
    assert unknown.code == 1
    assert "A801H" in unknown.err


@pytest.mark.interop("wlmscpfs", "dump2dcm")
def test_the_worklist_of_wlmscpfs_is_shown(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset

    folder = tmp_path / "wl" / "WLMSCPFS"
    folder.mkdir(parents=True)
    item, step = Dataset(), Dataset()
    step.Modality, step.ScheduledStationAETitle = "CT", "CT_1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20261121", "0930"
    step.ScheduledPerformingPhysicianName = ""
    step.ScheduledProcedureStepDescription, step.ScheduledProcedureStepID = "Skull", "S1"
    item.PatientName, item.PatientID, item.StudyInstanceUID = "Doe^Jane", "4711", STUDY
    item.PatientBirthDate = item.PatientSex = item.AccessionNumber = ""
    item.RequestedProcedureID, item.RequestedProcedureDescription = "R1", "Skull"
    item.ScheduledProcedureStepSequence = [step]
    item.save_as(folder / "1.wl", implicit_vr=False, little_endian=True)
    with peers.wlmscpfs(tmp_path / "wl") as peer:
        ended = run("worklist", "query", peer_of(peer), "--modality", "CT", "--csv")
        (row,) = csv.DictReader(io.StringIO(ended.out))
        assert row["PatientName"] == "Doe^Jane"
        assert row["ScheduledProcedureStepSequence.ScheduledStationAETitle"] == "CT_1"
        assert "found nothing" in run("worklist", "query", peer_of(peer), "--modality", "MR").err
