"""DCMTK's findscu against the node; what is expected is read from the files with pydicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.interop.holdings import Holdings
from tests.peers import Finished, run_tool

pytestmark = pytest.mark.interop("findscu")

UNIQUE_KEYS = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
HIGHER = {
    ("-P", "PATIENT"): (),
    ("-P", "STUDY"): ("PatientID",),
    ("-P", "SERIES"): ("PatientID", "StudyInstanceUID"),
    ("-P", "IMAGE"): ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    ("-S", "STUDY"): (),
    ("-S", "SERIES"): ("StudyInstanceUID",),
    ("-S", "IMAGE"): ("StudyInstanceUID", "SeriesInstanceUID"),
    ("-O", "PATIENT"): (),
    ("-O", "STUDY"): ("PatientID",),
}


def findscu(
    holdings: Holdings, directory: Path, *arguments: str, root: str = "-S"
) -> tuple[Finished, list[Dataset]]:
    """Run findscu; return what it said and the identifiers of the responses."""
    directory = directory / "responses"
    directory.mkdir(parents=True)
    done = run_tool(
        *("findscu", "-v", root, "--extract", "-od", directory, "-aec", "DICOMNODE"),
        *arguments,
        *holdings.address,
        directory=directory,
    )
    return done, [pydicom.dcmread(path) for path in sorted(directory.glob("rsp*.dcm"))]


def keys(level: str, **values: str) -> list[str]:
    pairs = {"QueryRetrieveLevel": level, **values}
    return [part for keyword, value in pairs.items() for part in ("-k", f"{keyword}={value}")]


def found(responses: Sequence[Dataset], keyword: str) -> list[str]:
    return sorted(str(response.get(keyword) or "") for response in responses)


@pytest.mark.parametrize(("root", "level"), HIGHER)
def test_findscu_finds_at_every_level(
    holdings: Holdings, tmp_path: Path, root: str, level: str
) -> None:
    one = holdings.header(holdings.named("MR_small.dcm").sop_instance_uid)
    given = {keyword: str(one[keyword].value) for keyword in HIGHER[root, level]}
    unique = UNIQUE_KEYS[level]
    done, responses = findscu(holdings, tmp_path, *keys(level, **given, **{unique: ""}), root=root)
    assert "Received Final Find Response (Success)" in done.output, done.output
    headers = (holdings.header(uid) for uid in holdings.held)
    expected = {
        str(header.get(unique) or "")
        for header in headers
        if all(str(header.get(keyword)) == value for keyword, value in given.items())
    }
    answered = found(responses, unique)
    assert set(answered) - {""} == expected - {""}
    assert len(set(answered) - {""}) == len([each for each in answered if each])


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("CompressedSamples^MR1", True),
        ("compressedsamples^mr1", True),
        ("Compressed*", True),
        ("*samples^?R1", True),
        ("CompressedSamples^M", False),
        ("%Samples^MR1", False),
        ("Compressed_amples^MR1", False),
    ],
)
def test_findscu_finds_names_by_wild_card(
    holdings: Holdings, tmp_path: Path, pattern: str, matches: bool
) -> None:
    study = holdings.named("MR_small.dcm").study_uid
    done, responses = findscu(
        holdings, tmp_path, *keys("STUDY", PatientName=pattern, StudyInstanceUID="")
    )
    assert "Received Final Find Response (Success)" in done.output, done.output
    assert (study in found(responses, "StudyInstanceUID")) is matches


@pytest.mark.parametrize("bounds", ["20040101-20041231", "-20031231", "20050101-", "20040119"])
def test_findscu_finds_dates_by_range(holdings: Holdings, tmp_path: Path, bounds: str) -> None:
    first, dash, last = bounds.partition("-")
    low, high = (first or "0", last or "9") if dash else (first, first)
    _, everything = findscu(
        holdings, tmp_path / "all", *keys("STUDY", StudyDate="", StudyInstanceUID="")
    )
    _, responses = findscu(
        holdings, tmp_path / "some", *keys("STUDY", StudyDate=bounds, StudyInstanceUID="")
    )
    within = [each for each in everything if each.StudyDate and low <= each.StudyDate <= high]
    assert found(responses, "StudyInstanceUID") == found(within, "StudyInstanceUID")
    assert 0 < len(responses) < len(everything)


def test_findscu_finds_a_list_of_uids(holdings: Holdings, tmp_path: Path) -> None:
    wanted = sorted({each.study_uid for each in holdings.held.values()})[:5]
    listed = "\\".join([*wanted, "1.2.3.4.5"])
    _, responses = findscu(holdings, tmp_path, *keys("STUDY", StudyInstanceUID=listed))
    assert found(responses, "StudyInstanceUID") == wanted


def test_findscu_is_told_how_much_a_study_holds(holdings: Holdings, tmp_path: Path) -> None:
    study = holdings.named("MR_small.dcm").study_uid
    _, responses = findscu(
        holdings,
        tmp_path,
        *keys(
            "STUDY",
            StudyInstanceUID=study,
            ModalitiesInStudy="",
            SOPClassesInStudy="",
            NumberOfStudyRelatedSeries="",
            NumberOfStudyRelatedInstances="",
            InstanceAvailability="",
            RetrieveAETitle="",
        ),
    )
    (answer,) = responses
    of_study = holdings.of_study(study)
    headers = [holdings.header(uid) for uid in of_study]
    assert answer.NumberOfStudyRelatedInstances == len(of_study)
    assert answer.NumberOfStudyRelatedSeries == len({each.series_uid for each in of_study.values()})
    assert _values(answer.ModalitiesInStudy) == {str(header.Modality) for header in headers}
    assert _values(answer.SOPClassesInStudy) == {str(header.SOPClassUID) for header in headers}
    assert answer.InstanceAvailability == "ONLINE"
    assert answer.RetrieveAETitle == "DICOMNODE"


def _values(value: object) -> set[str]:
    return {value} if isinstance(value, str) else set(map(str, value))  # type: ignore[call-overload]


@pytest.mark.parametrize("syntax", ["-xi", "-xe", "-xb", "-xd"])
def test_findscu_is_answered_in_every_uncompressed_syntax(
    holdings: Holdings, tmp_path: Path, syntax: str
) -> None:
    study = holdings.named("MR_small.dcm").study_uid
    done, responses = findscu(
        holdings, tmp_path, syntax, *keys("STUDY", StudyInstanceUID=study, PatientName="")
    )
    (answer,) = responses
    assert str(answer.PatientName) == "CompressedSamples^MR1", done.output


def test_findscu_that_cancels_gets_one_final_response(holdings: Holdings, tmp_path: Path) -> None:
    done, responses = findscu(holdings, tmp_path, "--cancel", "1", *keys("STUDY", StudyDate=""))
    finals = [line for line in done.output.splitlines() if "Received Final Find Response" in line]
    assert len(finals) == 1, done.output
    # The cancel may come when the last of the few matches is on its way.
    assert "Cancel" in finals[0] or "Success" in finals[0]
    assert responses


@pytest.mark.parametrize(
    ("root", "arguments"),
    [
        ("-S", keys("PATIENT", PatientID="")),
        ("-S", keys("NOTHING")),
        ("-S", keys("SERIES", SeriesInstanceUID="")),
        ("-O", keys("SERIES", PatientID="1", StudyInstanceUID="1")),
    ],
)
def test_findscu_is_told_that_its_identifier_is_wrong(
    holdings: Holdings, tmp_path: Path, root: str, arguments: list[str]
) -> None:
    done, responses = findscu(holdings, tmp_path, *arguments, root=root)
    assert not responses
    # DCMTK's words for A900H.
    assert "DataSetDoesNotMatchSOPClass" in done.output, done.output
