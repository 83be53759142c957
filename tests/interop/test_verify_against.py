"""``dicomnode verify --against``: what archives of others, and of ours, hold of a study."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import RLELossless

from tests import peers
from tests.cli.commands import STUDY, Ended, make_study, run, written
from tests.conftest import RunningNode, StartNode


def send(address: str, *paths: Path) -> None:
    ended = run("send", address, *paths)
    assert ended.code == 0, ended.err


def against(address: str, ours: RunningNode, *options: object) -> Ended:
    return run("verify", "--against", address, "--study", STUDY, "--config", ours.config, *options)


def changed(path: Path, change: Callable[[pydicom.Dataset], object]) -> Path:
    """Write another version of an object, with the same UIDs."""
    data_set = pydicom.dcmread(path)
    change(data_set)
    other = path.with_suffix(".other")
    data_set.save_as(other)
    return other


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(peers.dcmqrscp, marks=pytest.mark.interop("dcmqrscp")),
        pytest.param(peers.orthanc, marks=pytest.mark.interop("Orthanc")),
    ],
)
def test_an_archive_of_others_is_compared_object_by_object(
    start: Callable[[Path], AbstractContextManager[peers.Peer]],
    node: RunningNode,
    tmp_path: Path,
) -> None:
    paths = make_study(tmp_path / "in", 5, series=2)
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(start(tmp_path / "peer"))
        theirs, ours = written(peer.dicom_address, peer.ae_title), written(node.dicom_address)
        send(ours, *paths[:2])
        send(theirs, *paths[:2])
        good = against(theirs, node)
        assert (good.code, good.lines[0]) == (0, "Integrity verified"), good.out + good.err
        assert "2 the same byte for byte" in good.lines[-1]

        send(ours, *paths[2:4])
        comments = changed(
            paths[2], lambda data_set: setattr(data_set, "PatientComments", "Secret")
        )
        send(theirs, comments, paths[4])
        bad = against(theirs, node)
    assert (bad.code, bad.lines[0]) == (1, "Integrity check FAILED")
    assert f"  missing    {STUDY}.2.4: the peer does not have it" in bad.lines
    assert f"  extra      {STUDY}.1.5: {peer.ae_title} has it, the node has not" in bad.lines
    element = f"  element    {STUDY}.1.3: (0010,4000) PatientComments is only at {peer.ae_title}"
    assert element in bad.lines
    assert "Secret" not in bad.out
    story = json.loads(run("custody", f"{STUDY}.1.1", "--json", "--config", node.config).out)
    assert [each["event"] for each in story].count("verified") == 2


@pytest.mark.interop("dcmconv")
def test_objects_that_a_peer_has_encoded_anew_are_the_same_as_long_as_they_say_the_same(
    start_node: StartNode, tmp_path: Path
) -> None:
    ours = start_node(directory=tmp_path / "ours")
    theirs = start_node(directory=tmp_path / "theirs")
    paths = make_study(tmp_path / "in", 5, name="Müller^Jörg")
    send(written(ours.dicom_address), *paths)

    latin_1, compressed, one_pixel = (pydicom.dcmread(paths[at]) for at in (0, 3, 4))
    latin_1.PatientName = str(latin_1.PatientName)
    latin_1.SpecificCharacterSet = "ISO_IR 100"
    latin_1.save_as(paths[0])
    for path, option in ((paths[1], "+tb"), (paths[2], "+ti")):
        converted = peers.run_tool("dcmconv", option, path, path)
        assert converted.returncode == 0, converted.output
    one_pixel.PixelData = bytes([one_pixel.PixelData[0] ^ 1]) + one_pixel.PixelData[1:]
    for data_set, path in ((compressed, paths[3]), (one_pixel, paths[4])):
        data_set.compress(RLELossless, generate_instance_uid=False)
        data_set.save_as(path)
    send(written(theirs.dicom_address), *paths)
    ended = against(written(theirs.dicom_address), ours)
    assert ended.code == 1
    assert ended.lines[1:] == [
        f"  pixels     {STUDY}.1.5: the pixel data differs",
        "5 objects compared with DICOMNODE: 0 the same byte for byte, 4 the same by elements",
    ]


def test_a_damaged_object_of_a_peer_is_told_with_its_element_and_values_only_when_asked(
    start_node: StartNode, tmp_path: Path
) -> None:
    ours = start_node(directory=tmp_path / "ours")
    theirs = start_node(directory=tmp_path / "theirs")
    (path,) = make_study(tmp_path / "in", 1)
    send(written(ours.dicom_address), path)
    send(written(theirs.dicom_address), changed(path, lambda each: setattr(each, "KVP", "121")))
    quiet = against(written(theirs.dicom_address), ours, "--json")
    report = json.loads(quiet.out)
    assert report["differ"] == {f"{STUDY}.1.1": [{"element": "(0018,0060) KVP", "is": "different"}]}
    loud = against(written(theirs.dicom_address), ours, "--values")
    assert "(0018,0060) KVP differs: here '120', at DICOMNODE '121'" in loud.out
