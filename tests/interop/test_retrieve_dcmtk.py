"""DCMTK's getscu, movescu and storescp: what was stored comes back with the same bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy
import pydicom
import pytest
from pydicom.uid import UID

from tests import peers
from tests.interop.holdings import Holdings
from tests.interop.samples import Sample, data_set_bytes
from tests.peers import Finished, run_tool

pytestmark = pytest.mark.interop("getscu", "movescu", "storescp")

UNCOMPRESSED = {
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
}
# The decoders are those that the node has; what is lossy decodes alike with the same one.
DECODED = (
    "MR_small_RLE.dcm",
    "SC_rgb_rle.dcm",
    "JPEG2000.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "color3d_jpeg_baseline.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
)


def getscu(holdings: Holdings, directory: Path, *arguments: str) -> Finished:
    directory.mkdir(exist_ok=True)
    return run_tool(
        *("getscu", "-v", "+B", "-od", directory, "-aec", "DICOMNODE"),
        *arguments,
        *holdings.address,
        timeout=60,
        directory=directory,
    )


def movescu(
    holdings: Holdings,
    destination: str,
    *arguments: str,
    root: str = "-S",
    directory: Path | None = None,
) -> Finished:
    return run_tool(
        *("movescu", "-v", root, "-aem", destination, "-aec", "DICOMNODE"),
        *arguments,
        *holdings.address,
        timeout=60,
        directory=directory,
    )


def keys(level: str, **values: str) -> list[str]:
    pairs = {"QueryRetrieveLevel": level, **values}
    return [part for keyword, value in pairs.items() for part in ("-k", f"{keyword}={value}")]


def unique_keys(sample: Sample, level: str, patient_id: str = "") -> list[str]:
    values = {"PatientID": patient_id} if patient_id else {}
    values["StudyInstanceUID"] = sample.study_uid
    if level in ("SERIES", "IMAGE"):
        values["SeriesInstanceUID"] = sample.series_uid
    if level == "IMAGE":
        values["SOPInstanceUID"] = sample.sop_instance_uid
    return keys(level, **values)


@contextlib.contextmanager
def destination(
    holdings: Holdings, directory: Path, title: str, *options: str, accept: str = "--accept-all"
) -> Iterator[Path]:
    """Run a storescp where the node's registry has ``title``; yield where it puts files."""
    port = holdings.destinations[title][1]
    with peers.storescp(directory / title, *options, accept=accept, port=port) as peer:
        yield peer.directory


def received(directory: Path) -> dict[str, Path]:
    """Return SOP Instance UID → file, by the data set's own UID."""
    return {
        str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path
        for path in directory.iterdir()
    }


def assert_bytes_are_those_stored(holdings: Holdings, files: dict[str, Path]) -> None:
    for uid, path in files.items():
        sample = holdings.held[uid]
        assert data_set_bytes(path) == sample.data_set, sample.path.name
        meta = pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).file_meta
        assert meta.TransferSyntaxUID == sample.transfer_syntax_uid


def expected_at(holdings: Holdings, sample: Sample, level: str) -> set[str]:
    wanted = {"STUDY": 1, "SERIES": 2, "IMAGE": 3}[level]

    def unique(each: Sample) -> tuple[str, ...]:
        return (each.study_uid, each.series_uid, each.sop_instance_uid)[:wanted]

    return {uid for uid, each in holdings.held.items() if unique(each) == unique(sample)}


def test_movescu_moves_every_study_in_one_request(holdings: Holdings, tmp_path: Path) -> None:
    studies = sorted({each.study_uid for each in holdings.held.values()})
    with destination(holdings, tmp_path, "ANY_SYNTAX", "--promiscuous") as directory:
        done = movescu(holdings, "ANY_SYNTAX", *keys("STUDY", StudyInstanceUID="\\".join(studies)))
        files = received(directory)
    # DCMTK aborts at a data set of odd length: it fails that one, and no other.
    odd = {uid for uid, each in holdings.held.items() if len(each.data_set) % 2}
    assert set(holdings.held) - odd <= set(files), done.output
    assert "Received Final Move Response" in done.output, done.output
    assert_bytes_are_those_stored(holdings, {uid: files[uid] for uid in set(files) - odd})


@pytest.mark.parametrize("root", ["-P", "-S"])
@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
def test_movescu_moves_at_every_level(
    holdings: Holdings, tmp_path: Path, level: str, root: str
) -> None:
    sample = holdings.named("MR_small.dcm")
    patient = str(holdings.header(sample.sop_instance_uid).PatientID) if root == "-P" else ""
    with destination(holdings, tmp_path, "ANY_SYNTAX") as directory:
        done = movescu(holdings, "ANY_SYNTAX", *unique_keys(sample, level, patient), root=root)
        files = received(directory)
    assert "Received Final Move Response (Success)" in done.output, done.output
    assert set(files) == expected_at(holdings, sample, level)
    assert_bytes_are_those_stored(holdings, files)


def test_movescu_moves_a_patient(holdings: Holdings, tmp_path: Path) -> None:
    patient = str(holdings.header(holdings.named("MR_small.dcm").sop_instance_uid).PatientID)
    with destination(holdings, tmp_path, "ANY_SYNTAX") as directory:
        done = movescu(holdings, "ANY_SYNTAX", *keys("PATIENT", PatientID=patient), root="-P")
        files = received(directory)
    assert "Received Final Move Response (Success)" in done.output, done.output
    assert set(files) == {
        uid for uid in holdings.held if str(holdings.header(uid).get("PatientID")) == patient
    }


def test_movescu_receives_on_an_association_of_its_own(holdings: Holdings, tmp_path: Path) -> None:
    sample = holdings.named("CT_small.dcm")
    port = str(holdings.destinations["SCU"][1])
    # With +B movescu writes where it is, whatever -od says.
    done = movescu(
        *(holdings, "SCU", "+P", port, "+B"), *unique_keys(sample, "IMAGE"), directory=tmp_path
    )
    assert "Received Final Move Response (Success)" in done.output, done.output
    files = received(tmp_path)
    assert set(files) == {sample.sop_instance_uid}
    assert_bytes_are_those_stored(holdings, files)


@pytest.mark.parametrize("root", ["-P", "-S"])
@pytest.mark.parametrize("level", ["STUDY", "SERIES", "IMAGE"])
def test_getscu_gets_at_every_level(
    holdings: Holdings, tmp_path: Path, level: str, root: str
) -> None:
    sample = holdings.named("CT_small.dcm")
    patient = str(holdings.header(sample.sop_instance_uid).PatientID) if root == "-P" else ""
    where = tmp_path / "got"
    done = getscu(holdings, where, root, "+xe", *unique_keys(sample, level, patient))
    assert "Received C-GET Response (Success)" in done.output, done.output
    files = received(where)
    assert set(files) == expected_at(holdings, sample, level)
    assert_bytes_are_those_stored(holdings, files)


# getscu lists uncompressed syntaxes beside the one that it prefers, in one context.
@pytest.mark.parametrize("option", ["+xe", "+xb", "+xr"])
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"])
def test_getscu_gets_the_same_pixels_whatever_it_prefers(
    holdings: Holdings, tmp_path: Path, name: str, option: str
) -> None:
    sample = holdings.named(name)
    where = tmp_path / "got"
    done = getscu(holdings, where, "-S", option, *unique_keys(sample, "IMAGE"))
    assert "Received C-GET Response (Success)" in done.output, done.output
    (path,) = where.iterdir()
    assert_same_image(sample, path)


def assert_same_image(sample: Sample, path: Path) -> None:
    got, sent = pydicom.dcmread(path), pydicom.dcmread(sample.path)
    assert got.file_meta.TransferSyntaxUID in UNCOMPRESSED
    assert got.SOPInstanceUID == sent.SOPInstanceUID
    expected = sent.pixel_array
    assert numpy.array_equal(got.pixel_array, expected), sample.path.name
    assert got.PatientName == sent.get("PatientName", "")


def test_a_destination_that_takes_only_uncompressed_images_gets_them_decompressed(
    holdings: Holdings, tmp_path: Path
) -> None:
    wanted = [holdings.named(name) for name in DECODED if named(holdings, name)]
    assert len(wanted) > 3
    with destination(holdings, tmp_path, "UNCOMPRESSED", accept="+x=") as directory:
        for sample in wanted:
            done = movescu(holdings, "UNCOMPRESSED", *unique_keys(sample, "IMAGE"))
            assert "Received Final Move Response (Success)" in done.output, (
                sample.path.name,
                done.output,
            )
        files = received(directory)
    assert set(files) == {each.sop_instance_uid for each in wanted}
    for sample in wanted:
        assert_same_image(sample, files[sample.sop_instance_uid])


def named(holdings: Holdings, name: str) -> bool:
    return any(each.path.name == name for each in holdings.held.values())


def test_what_cannot_be_sent_is_counted_and_listed(holdings: Holdings, tmp_path: Path) -> None:
    """Everything goes to a storescp of a few storage classes, uncompressed: some fail."""
    studies = sorted({each.study_uid for each in holdings.held.values()})
    with destination(holdings, tmp_path, "UNCOMPRESSED", accept="+x=") as directory:
        done = movescu(
            holdings, "UNCOMPRESSED", *keys("STUDY", StudyInstanceUID="\\".join(studies))
        )
        files = received(directory)
    finals = [line for line in done.output.splitlines() if "Received Final Move Response" in line]
    assert len(finals) == 1, done.output
    if len(files) < len(holdings.held):
        assert "SubOperationsCompleteOneOrMoreFailures" in finals[0], done.output
    for uid, path in files.items():
        stored = holdings.held[uid]
        syntax = UID(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        assert syntax in UNCOMPRESSED
        if stored.transfer_syntax_uid == syntax:
            assert data_set_bytes(path) == stored.data_set, stored.path.name


def test_an_unknown_destination_is_answered_a801(holdings: Holdings) -> None:
    sample = holdings.named("CT_small.dcm")
    done = movescu(holdings, "ELSEWHERE", *unique_keys(sample, "STUDY"))
    assert "MoveDestinationUnknown" in done.output, done.output


def test_a_destination_that_does_not_listen_fails_its_sub_operations(holdings: Holdings) -> None:
    sample = holdings.named("CT_small.dcm")
    done = movescu(holdings, "NOBODY", *unique_keys(sample, "IMAGE"))
    assert "OutOfResourcesSubOperations" in done.output, done.output


def test_getscu_gets_a_list_of_studies(holdings: Holdings, tmp_path: Path) -> None:
    names = ("CT_small.dcm", "MR_small.dcm")
    wanted = [holdings.named(name) for name in names]
    where = tmp_path / "got"
    listed = "\\".join(each.study_uid for each in wanted)
    done = getscu(holdings, where, "-S", "+xe", *keys("STUDY", StudyInstanceUID=listed))
    assert "Received C-GET Response" in done.output, done.output
    assert {each.sop_instance_uid for each in wanted} <= set(received(where))
