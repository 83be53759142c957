"""The commands against Orthanc."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests import peers
from tests.cli.commands import STUDY, make_study, run, written
from tests.interop.samples import data_set_bytes

pytestmark = pytest.mark.interop("Orthanc")


def test_what_is_sent_is_found_and_retrieved_again(orthanc: peers.Peer, tmp_path: Path) -> None:
    peer = written(orthanc.dicom_address, orthanc.ae_title)
    make_study(tmp_path / "in", 4, series=2)
    assert run("echo", peer).code == 0
    ended = run("send", peer, tmp_path / "in")
    assert ended.code == 0, ended.err
    assert "ORTHANC stored 4 of 4" in ended.out
    (study,) = csv.DictReader(io.StringIO(run("find", peer, "--csv").out))
    assert study["StudyInstanceUID"] == STUDY
    assert study["NumberOfStudyRelatedInstances"] == "4"
    out = tmp_path / "out"
    ended = run("get", peer, "-k", "PatientID=4711", "-od", out)
    assert ended.code == 0, ended.err
    sent = {data_set_bytes(path) for path in (tmp_path / "in").iterdir()}
    assert {data_set_bytes(path) for path in out.rglob("*.dcm")} == sent
    next(out.rglob("*.dcm")).unlink()
    again = run("get", peer, "-k", "PatientID=4711", "-od", out)
    assert "4: 3 were here, 1 received" in again.out


def test_what_cannot_be_kept_of_orthanc_s_objects_stops_none_of_the_others(
    orthanc: peers.Peer, tmp_path: Path
) -> None:
    # It names what failed in its Pending responses, where nothing of that belongs.
    peer, out = written(orthanc.dicom_address, orthanc.ae_title), tmp_path / "out"
    study = f"{STUDY}.77"
    make_study(tmp_path / "in", 4, series=2, study=study)
    assert run("send", peer, tmp_path / "in").code == 0
    (out / study).mkdir(parents=True)
    (out / study / f"{study}.1").write_text("a file where a folder should be")
    ended = run("get", peer, "--study", study, "-od", out)
    assert ended.code == 1
    assert "ORTHANC has 4: 0 were here, 2 received" in ended.out
    assert ended.err.count("disk error") == 2


def test_orthanc_sends_to_a_third_node(tmp_path: Path) -> None:
    with peers.storescp(tmp_path / "scp") as scp:
        modalities = {"scp": ["STORESCP", *scp.dicom_address]}
        with peers.orthanc(tmp_path / "orthanc", DicomModalities=modalities) as orthanc:
            peer = written(orthanc.dicom_address, orthanc.ae_title)
            make_study(tmp_path / "in", 3)
            assert run("send", peer, tmp_path / "in").code == 0
            ended = run("move", peer, "--study", STUDY, "--to", "STORESCP")
            assert ended.code == 0, ended.err
            assert len(list(scp.directory.iterdir())) == 3
