"""``dicomnode find`` and ``dicomnode worklist query``, asked of a node of ours."""

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests import peers, wire
from tests.cli.commands import STUDY, make_study, run, written
from tests.conftest import StartNode
from tests.query_wire import identifier
from tests.scu.scripted import PENDING, Conversation, scripted


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.NodeProcess]:
    directory = tmp_path_factory.mktemp("archive")
    with peers.node_process(directory / "node") as node:
        make_study(directory / "1", 3, series=2, name="Doe^Jane")
        make_study(directory / "2", 1, study="1.2.3", name="Roe^\u001b[31mX", patient_id="2")
        make_study(directory / "3", 1, study="1.2.4", name="Müller^Ö", patient_id="3")
        assert run("send", written(node.dicom_address), directory).code == 0
        yield node


@pytest.fixture
def peer(archive: peers.NodeProcess) -> str:
    return written(archive.dicom_address)


def test_without_keys_the_usual_attributes_of_the_level_are_shown(peer: str) -> None:
    ended = run("find", peer)
    assert ended.code == 0
    assert ended.lines[0].split()[:3] == ["StudyDate", "StudyTime", "PatientID"]
    assert len(ended.lines) == 4
    assert all(uid in ended.out for uid in (STUDY, "1.2.3", "1.2.4"))


def test_a_key_without_value_is_what_is_shown(peer: str) -> None:
    ended = run("find", peer, "-k", "PatientName=DOE*", "-k", "0020,1208")
    assert [line.split() for line in ended.lines] == [
        ["PatientName", "NumberOfStudyRelatedInstances"],
        ["Doe^Jane", "3"],
    ]


def test_series_and_images_are_found_below(peer: str) -> None:
    ended = run("find", peer, "-l", "series", "-k", f"StudyInstanceUID={STUDY}", "--csv")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert sorted(row["SeriesInstanceUID"] for row in rows) == [f"{STUDY}.1", f"{STUDY}.2"]
    assert sorted(row["NumberOfSeriesRelatedInstances"] for row in rows) == ["1", "2"]


def test_json_is_what_pydicom_reads(peer: str) -> None:
    ended = run("find", peer, "-P", "-l", "PATIENT", "--json")
    found = [Dataset.from_json(json.dumps(each)) for each in json.loads(ended.out)]
    assert sorted(str(each.PatientID) for each in found) == ["2", "3", "4711"]
    assert run("find", peer, "-k", "PatientID=nobody", "--json").out == "[]\n"


def test_what_a_peer_sends_does_not_steer_the_terminal(peer: str) -> None:
    for option in ([], ["--csv"]):
        ended = run("find", peer, "-k", "StudyInstanceUID=1.2.3", "-k", "PatientName", *option)
        assert "\x1b" not in ended.out


def test_csv_has_the_lines_and_quotes_of_a_text(start_node: StartNode, tmp_path: Path) -> None:
    (path,) = make_study(tmp_path / "in", 1, name='Doe^"J", ,K\u3000L')
    image = pydicom.dcmread(path)
    image.StudyDescription = "a\\b"
    image.save_as(path)
    node = written(start_node().dicom_address)
    assert run("send", node, path).code == 0
    ended = run("find", node, "-k", "PatientName", "-k", "StudyDescription", "--csv")
    rows = list(csv.reader(io.StringIO(ended.out)))
    assert rows[1:] == [['Doe^"J", ,K\u3000L', "a\\b"]]


def test_output_that_lacks_characters_gets_the_others(peer: str) -> None:
    for option in ([], ["--csv"], ["--json"]):
        command = [sys.executable, "-m", "dicomnode", "find", peer, "-k", "PatientName", *option]
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        ended = subprocess.run(command, capture_output=True, env=environment, check=True)
        assert "M\\xfcller" in ended.stdout.decode() or "Müller" in str(
            json.loads(ended.stdout or b"[]")
        )


def test_names_are_asked_for_in_their_character_set(peer: str) -> None:
    ended = run("find", peer, "-k", "PatientName=Müller*", "-k", "StudyInstanceUID", "--csv")
    assert "1.2.4" in ended.out


def test_whoever_has_read_enough_is_not_told_of_a_failure(peer: str) -> None:
    command = [sys.executable, "-m", "dicomnode", "find", peer, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_nothing_found_is_no_failure(peer: str) -> None:
    ended = run("find", peer, "-k", "PatientID=nobody")
    assert (ended.code, ended.out) == (0, "")
    assert "DICOMNODE found nothing" in ended.err


def test_a_limit_cancels_the_query(peer: str) -> None:
    ended = run("find", peer, "--limit", "2", "--csv")
    assert ended.code == 0
    assert len(ended.lines) == 3


def test_an_identifier_that_is_refused_is_told_with_the_peer_s_words(peer: str) -> None:
    ended = run("find", peer, "-l", "SERIES")
    assert ended.code == 1
    assert "answered C-FIND with A900H" in ended.err
    assert "(0020,000D)" in ended.err


def test_a_query_file_has_the_keys(peer: str, tmp_path: Path) -> None:
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.PatientName = "DOE*"
    query.StudyInstanceUID = ""
    for name, bare in (("part10.dcm", False), ("bare.dcm", True)):
        query.file_meta = pydicom.dataset.FileMetaDataset()
        query.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        query.file_meta.MediaStorageSOPClassUID = "1.2.3"
        query.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
        pydicom.dcmwrite(
            tmp_path / name,
            query,
            enforce_file_format=not bare,
            implicit_vr=False,
            little_endian=True,
        )
        ended = run("find", peer, tmp_path / name, "--csv")
        assert STUDY in ended.out
        assert "1.2.3," not in ended.out


def test_several_queries_make_one_json_array(peer: str, tmp_path: Path) -> None:
    for number in ("2", "3"):
        query = Dataset()
        query.PatientID = number
        query.file_meta = pydicom.dataset.FileMetaDataset()
        query.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        pydicom.dcmwrite(tmp_path / f"{number}.dcm", query)
    ended = run("find", peer, tmp_path / "2.dcm", tmp_path / "3.dcm", "--json")
    assert [each["00100020"]["Value"] for each in json.loads(ended.out)] == [["2"], ["3"]]


async def test_what_was_found_before_a_failure_is_shown() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=wire.IMPLICIT_LE)
        request = await peer.hear()
        peer.answer(request, PENDING, identifier({0x00100020: "4711"}))
        peer.say(wire.pdu(wire.ABORT, bytes(4)))

    async with scripted(script) as peer:
        ended = await asyncio.to_thread(run, "find", peer.written, "-k", "PatientID")
    assert (ended.code, ended.out.split()) == (1, ["PatientID", "4711"])
    assert "A-ABORT" in ended.err


def test_what_is_no_query_file_is_told(peer: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("this is no data set")
    ended = run("find", peer, tmp_path / "x")
    assert ended.code == 1
    assert f"{tmp_path / 'x'}: " in ended.err


def test_options_that_exclude_each_other_are_told(peer: str) -> None:
    assert "-S, -P and -W exclude each other" in run("find", peer, "-S", "-W").err
    assert "--json and --csv exclude" in run("find", peer, "--json", "--csv").err
    assert "the level is one of" in run("find", peer, "-l", "FOO").err


def test_the_worklist_of_a_peer_is_shown(archive: peers.NodeProcess, peer: str) -> None:
    for name, modality in (("Doe^Jane", "CT"), ("Roe^Richard", "MR")):
        added = run(
            *("worklist", "add", "--config", archive.config, "--patient-name", name),
            *("--patient-id", modality),
            *("--modality", modality, "--station", f"{modality}_1", "--start", "2026-11-21 09:30"),
        )
        assert added.code == 0, added.err
    ended = run("worklist", "query", peer, "--modality", "CT", "--date", "2026-11-21", "--csv")
    (row,) = csv.DictReader(io.StringIO(ended.out))
    assert row["PatientName"] == "Doe^Jane"
    assert row["ScheduledProcedureStepSequence.ScheduledStationAETitle"] == "CT_1"
    both = run("worklist", "query", peer, "--date", "20261121-20261122", "-k", "PatientName")
    assert "Doe^Jane" in both.out and "Roe^Richard" in both.out
    assert "Roe^Richard" not in run("worklist", "query", peer, "--patient", "DOE*").out
