"""A damaged file, from DCMTK's point of view and from the administrator's."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicomnode.cli.asking import call
from dicomnode.settings import load_settings
from tests import peers
from tests.cli.commands import run
from tests.conftest import RunningNode, StartNode
from tests.peers import Finished, eventually, http_get, run_tool
from tests.storage.damage import flip_bit

pytestmark = pytest.mark.interop("storescu", "getscu")


def long_object(directory: Path) -> Path:
    """Write an object that is sent in pieces."""
    data_set = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    data_set.Rows, data_set.Columns = 1024, 1024
    data_set.PixelData = bytes(range(256)) * (2 * 1024 * 1024 // 256)
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "2.25.2", "2.25.3"
    path = directory / "long.dcm"
    data_set.save_as(path)
    return path


def getscu(node: RunningNode, directory: Path, study: str) -> Finished:
    return run_tool(
        *("getscu", "-v", "-S", "+B", "-od", directory, "-aec", "DICOMNODE"),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"),
        *map(str, node.dicom_address),
    )


def test_a_damaged_object_is_refused_found_and_whole_again_when_it_is_sent_again(
    start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node(storage={"verify_on_read": "always"}, scrub={"every_days": 3650})
    sent = [Path(str(get_testdata_file("MR_small.dcm"))), long_object(tmp_path)]
    store = ("storescu", "-aec", "DICOMNODE", *map(str, node.dicom_address))
    assert run_tool(*store, *sent).returncode == 0
    config = ["--config", str(node.config)]
    for path in sent:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        (stored,) = (each for each in node.files() if each.stem == header.SOPInstanceUID)
        got = tmp_path / f"got-{stored.stem}"
        got.mkdir()
        retrieve = getscu(node, got, header.StudyInstanceUID)
        assert len(list(got.iterdir())) == 1, retrieve.output

        shown = json.loads(run("show", stored.stem, "--json", *config).out)
        (told,) = shown["objects"]
        digest = hashlib.sha256(stored.read_bytes()).hexdigest()
        assert told["file_sha256"] == told["file"]["file_sha256"] == digest
        path_of_digest = f"/api/instances/{stored.stem}/digest"
        assert http_get(node.http_address, path_of_digest)[0] == 401
        answered = call(load_settings(node.config), "GET", path_of_digest)
        assert (answered["file_sha256"], answered["file_bytes"]) == (digest, stored.stat().st_size)

        flip_bit(stored, stored.stat().st_size - 3)
        retrieve = getscu(node, got, header.StudyInstanceUID)
        assert "Number of Failed Suboperations    : 1" in retrieve.output
        assert "Number of Completed Suboperations : 0" in retrieve.output
        report = run("scrub", "--report", *config)
        assert report.code == 1
        assert "1 file is not whole" in report.out and str(stored.stem) in report.out
        assert run("show", stored.stem, *config).code == 1
        mistyped = run("scrub", "--study", "1.2.3", *config)
        assert (mistyped.code, mistyped.out) == (1, "")
        assert mistyped.err == "dicomnode: there is no study 1.2.3 in the archive\n"
        assert node.metric("dicomnode_scrub_bad_files", kind="damaged") == 1

        assert run_tool(*store, path).returncode == 0
        looked = run("scrub", "--now", "--study", header.StudyInstanceUID, *config)
        assert looked.code == 0, looked.err
        assert node.metric("dicomnode_scrub_bad_files", kind="damaged") == 0
    everything = run("scrub", "--now", "--json", *config)
    assert json.loads(everything.out)["ended"]["objects"] == 2

    # After an upgrade nothing has been read before the files are in the index again.
    node.stop()
    index = load_settings(node.config).storage.directory / "index.sqlite"
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("UPDATE meta SET value = '1' WHERE name = 'schema_version'")
        connection.commit()
    for _ in range(2):
        told = run("scrub", "--now", *config)
        assert (told.code, told.out) == (1, "") and "the index lacks stored files" in told.err


@pytest.mark.interop("storescp")
def test_a_damaged_object_is_not_forwarded(
    start_node: StartNode, storescp: peers.Peer, tmp_path: Path
) -> None:
    host, port = storescp.dicom_address
    rule = {"name": "all", "to": ["PACS"], "when": "study_stable", "stable_seconds": 1.0}
    node = start_node(
        entities=[{"title": "PACS", "host": host, "port": port}],
        storage={"verify_on_read": "always"},
        forward=[rule],
    )
    sent = str(get_testdata_file("MR_small.dcm"))
    store = ("storescu", "-aec", "DICOMNODE", *map(str, node.dicom_address), sent)
    assert run_tool(*store).returncode == 0
    (stored,) = node.files()
    flip_bit(stored, stored.stat().st_size - 3)
    eventually(lambda: node.metric("dicomnode_scrub_found_total", by="forwarding") == 1)
    assert list(storescp.directory.iterdir()) == []
