"""Orthanc as sender and as workstation, driven through its REST interface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from tests import peers
from tests.interop.holdings import Holdings
from tests.interop.samples import charset_samples, data_set_bytes, samples

pytestmark = pytest.mark.interop("Orthanc")


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Peer]:
    with peers.orthanc(tmp_path_factory.mktemp("orthanc")) as peer:
        yield peer


def call(orthanc: peers.Peer, method: str, path: str, value: object) -> tuple[int, Any]:
    assert orthanc.http_address is not None
    body = json.dumps(value).encode()
    status, answer = peers.http_request(orthanc.http_address, method, path, body)
    return status, json.loads(answer or b"null")


def introduce(orthanc: peers.Peer, name: str, ae_title: str, address: peers.Address) -> None:
    modality = {"AET": ae_title, "Host": address[0], "Port": address[1]}
    assert call(orthanc, "PUT", f"/modalities/{name}", modality)[0] == 200


def upload(orthanc: peers.Peer, path: Path) -> str | None:
    """Give Orthanc a file; return Orthanc's name of the instance, None when it will not."""
    assert orthanc.http_address is not None
    status, answer = peers.http_request(
        orthanc.http_address, "POST", "/instances", path.read_bytes()
    )
    return str(json.loads(answer)["ID"]) if status == 200 else None


def test_orthanc_echo_is_answered(archive: peers.NodeProcess, sender: peers.Peer) -> None:
    introduce(sender, "node", "DICOMNODE", archive.dicom_address)
    assert call(sender, "POST", "/modalities/node/echo", {})[0] == 200


@pytest.mark.interop("storescp")
def test_orthanc_delivers_what_it_delivers_to_storescp(
    archive: peers.NodeProcess, sender: peers.Peer, storescp: peers.Peer
) -> None:
    instances = {upload(sender, each.path) for each in samples()} - {None}
    assert len(instances) > 50
    introduce(sender, "node", "DICOMNODE", archive.dicom_address)
    introduce(sender, "reference", "STORESCP", storescp.dicom_address)
    order = {"Resources": sorted(filter(None, instances)), "Permissive": True}
    for modality in ("reference", "node"):
        status, report = call(sender, "POST", f"/modalities/{modality}/store", order)
        assert status == 200, report
    by_uid = {each.sop_instance_uid: each for each in samples()}
    for reference in storescp.directory.iterdir():
        sample = by_uid[reference.name.partition(".")[2]]
        kept = sample.stored_path(archive.config.parent / "store")
        assert data_set_bytes(kept) == data_set_bytes(reference), sample.path.name
    assert report["FailedInstancesCount"] == 0, report


@pytest.fixture(scope="module")
def workstation(
    tmp_path_factory: pytest.TempPathFactory, holdings: Holdings
) -> Iterator[peers.Peer]:
    """Return an Orthanc that knows the node as a modality, and which the node knows."""
    directory = tmp_path_factory.mktemp("workstation")
    port = holdings.destinations["ORTHANC"][1]
    with peers.orthanc(directory, dicom_port=port, DefaultEncoding="Utf8") as peer:
        introduce(peer, "node", "DICOMNODE", holdings.address)
        yield peer


def ask(orthanc: peers.Peer, level: str, **keys: str) -> tuple[str, list[dict[str, Any]]]:
    """Query the node through Orthanc; return the query's path and the answers."""
    status, query = call(orthanc, "POST", "/modalities/node/query", {"Level": level, "Query": keys})
    assert status == 200, query
    status, answers = call(orthanc, "GET", f"{query['Path']}/answers?expand&simplify", None)
    assert status == 200, answers
    return query["Path"], answers


def test_orthanc_queries_every_level(holdings: Holdings, workstation: peers.Peer) -> None:
    sample = holdings.named("MR_small.dcm")
    study, series = sample.study_uid, sample.series_uid
    _, answers = ask(workstation, "Patient", PatientID="*")
    patients = {str(holdings.header(uid).get("PatientID") or "") for uid in holdings.held}
    assert {answer["PatientID"] for answer in answers} - {""} == patients - {""}
    _, answers = ask(workstation, "Study", StudyInstanceUID="")
    studies = {each.study_uid for each in holdings.held.values()}
    assert {answer["StudyInstanceUID"] for answer in answers} == studies
    _, answers = ask(workstation, "Series", StudyInstanceUID=study, SeriesInstanceUID="")
    assert series in {answer["SeriesInstanceUID"] for answer in answers}
    keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
    _, answers = ask(workstation, "Instance", **keys)
    of_series = {uid for uid, each in holdings.held.items() if each.series_uid == series}
    assert {answer["SOPInstanceUID"] for answer in answers} == of_series


def test_orthanc_reads_names_in_every_character_set(
    holdings: Holdings, workstation: peers.Peer
) -> None:
    for sample in charset_samples():
        _, answers = ask(workstation, "Study", StudyInstanceUID=sample.study_uid, PatientName="")
        expected = str(holdings.header(sample.sop_instance_uid).PatientName)
        # Orthanc shows the names' empty groups too.
        names = [answer["PatientName"].rstrip("=") for answer in answers]
        assert names == [expected], sample.path.name


def test_orthanc_retrieves_what_it_found(
    holdings: Holdings, workstation: peers.Peer, tmp_path: Path
) -> None:
    study = holdings.of_study(holdings.named("MR_small.dcm").study_uid)
    # Orthanc never answers a C-STORE of an object that is cut off.
    whole = {uid: each for uid, each in study.items() if each.path.name != "MR_truncated.dcm"}
    assert len(whole) > 5
    order = {"TargetAet": "ORTHANC", "Synchronous": True}
    for uid, sample in whole.items():
        keys = {"StudyInstanceUID": sample.study_uid, "SeriesInstanceUID": sample.series_uid}
        path, answers = ask(workstation, "Instance", **keys, SOPInstanceUID=uid)
        assert len(answers) == 1
        status, report = call(workstation, "POST", f"{path}/retrieve", order)
        assert status == 200, (sample.path.name, report)
        assert workstation.http_address is not None
        (found,) = look_up(workstation, uid)
        received = tmp_path / uid
        received.write_bytes(
            peers.http_get(workstation.http_address, f"/instances/{found}/file")[1]
        )
        # Orthanc writes it anew, in the syntax in which it came.
        kept, sent = pydicom.dcmread(received), pydicom.dcmread(sample.path)
        assert kept.file_meta.TransferSyntaxUID == sample.transfer_syntax_uid
        assert kept.PixelData == sent.PixelData, sample.path.name


def look_up(orthanc: peers.Peer, uid: str) -> list[str]:
    """Return Orthanc's names of what has a UID."""
    assert orthanc.http_address is not None
    status, answer = peers.http_request(orthanc.http_address, "POST", "/tools/lookup", uid.encode())
    assert status == 200
    return [each["ID"] for each in json.loads(answer)]
