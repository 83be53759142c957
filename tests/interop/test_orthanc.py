"""Orthanc as the sender, driven through its REST interface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import peers
from tests.interop.samples import data_set_bytes, samples

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
