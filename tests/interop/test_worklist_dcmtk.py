"""DCMTK's findscu asks the node and DCMTK's wlmscpfs, which have the same files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from tests.conftest import RunningNode, StartNode
from tests.interop import worklists
from tests.peers import Address, eventually, run_tool, wlmscpfs, write_config

pytestmark = pytest.mark.interop("findscu", "wlmscpfs", "dump2dcm")

EXAMPLES = Path("/usr/share/doc/dcmtk/examples")
STEP = "ScheduledProcedureStepSequence[0]."
DATE, TIME = f"{STEP}ScheduledProcedureStepStartDate", f"{STEP}ScheduledProcedureStepStartTime"
STATION, MODALITY = f"{STEP}ScheduledStationAETitle", f"{STEP}Modality"
PHYSICIAN = f"{STEP}ScheduledPerformingPhysicianName"
STUDY_104, STUDY_105 = (f"1.2.826.0.1.3680043.9.3811.{number}" for number in (104, 105))

# Both answer these alike, element by element.
ALIKE = [
    ("PatientID", "AccessionNumber", "PatientBirthDate", "PatientSex", "StudyInstanceUID"),
    ("MedicalAlerts", "PatientWeight", "RequestedProcedurePriority", "RequestingPhysician"),
    ("PatientName=*",),
    ("PatientName=ADAMS*",),
    ("PatientName=*^JOHN*",),
    ("PatientName=?ACH^*",),
    ("PatientName=DARWIN",),
    ("PatientID=P104",),
    ("PatientID=p104",),
    ("PatientSex=F",),
    ("PatientBirthDate=18000101-19000101",),
    ("AccessionNumber=A103",),
    ("AccessionNumber=",),
    ("RequestedProcedureID=R105",),
    ("RequestedProcedurePriority=HIGH",),
    ("ReferringPhysicianName",),
    ("ReferencedStudySequence",),
    ("ReferencedPatientSequence",),
    ("AdmissionID", "CurrentPatientLocation", "PatientState", "SpecialNeeds"),
    ("QueryRetrieveLevel=STUDY",),
    ("SpecificCharacterSet=ISO_IR 192", "PatientID=P109"),
    ("SpecificCharacterSet=ISO_IR 100", "PatientID=P108"),
    ("SpecificCharacterSet=ISO_IR 100", "PatientName=M*"),
    (f"{MODALITY}=CT",),
    (f"{MODALITY}=XX",),
    (f"{STATION}=CT_1",),
    (f"{STATION}=CT_2",),
    (f"{STATION}=ct_1",),
    (f"{STATION}=NO_1",),
    (f"{STATION}=CT_1", f"{DATE}=20261121", f"{MODALITY}=CT"),
    (f"{STATION}=CT_1", f"{DATE}=20261122", f"{MODALITY}=CT"),
    (f"{DATE}=20261121",),
    (f"{DATE}=20261121-20261122", TIME),
    (f"{DATE}=-20261121",),
    (f"{DATE}=20261123-",),
    (f"{TIME}=1200-",),
    (f"{TIME}=080000-093000",),
    (f"{TIME}=0930",),
    (f"{DATE}=20261121-20261123", f"{TIME}=1000-1300"),
    (f"{DATE}=20261121", f"{TIME}=0900-1300"),
    (f"{DATE}=20261121-", f"{TIME}=1200-"),
    (f"{PHYSICIAN}=HOUSE*",),
    (f"{PHYSICIAN}=HOUSE^G",),
    (f"{STEP}CommentsOnTheScheduledProcedureStep",),
]

# The standard has these matched (PS3.4 §C.2.2.2, Table K.6-1); wlmscpfs does not support the key,
# refuses the request, or, of the one day, finds nothing. The number is of items that match.
BY_THE_STANDARD = [
    ((f"{STATION}=CT_*",), 3),
    ((f"{DATE}=20261121-20261121", f"{TIME}=1200-"), 3),
    (("PatientName=adams^abby",), 1),
    (("PatientID=P10*",), 10),
    ((f"{STEP}ScheduledProcedureStepID=S105",), 1),
    ((f"{STEP}ScheduledProcedureStepLocation=ROOM 1",), 3),
    ((f"{STEP}ScheduledStationName=CT*",), 3),
    ((f"StudyInstanceUID={STUDY_104}",), 1),
    ((f"StudyInstanceUID={STUDY_104}\\{STUDY_105}",), 2),
    (("RequestedProcedureDescription=EXAM S10*",), 10),
    (("RequestedProcedureCodeSequence[0].CodeValue=RP_HIP",), 1),
    ((f"{STEP}ScheduledProtocolCodeSequence[0].CodeValue=HIP_LAT",), 1),
    ((f"{STEP}ScheduledProcedureStepStatus=SCHEDULED",), 11),
]


class Servers:
    """The node and wlmscpfs with the same items."""

    def __init__(self, ours: Address, theirs: Address, title: str) -> None:
        self.ours, self.theirs, self.title = ours, theirs, title

    def ask(self, address: Address, directory: Path, *arguments: object) -> list[Dataset]:
        """Return the answers that findscu gets, without their character sets."""
        directory.mkdir()
        done = run_tool(
            *("findscu", "-v", "-W", "--extract", "-od", directory, "-aec", self.title),
            *(*address, *arguments),
            directory=directory,
        )
        assert "Received Final Find Response (Success)" in done.output, done.output
        return [read(path) for path in sorted(directory.glob("rsp*.dcm"))]

    def both(self, directory: Path, *arguments: str) -> tuple[list[str], list[str]]:
        """Return what both answer, as sorted JSON."""
        ours, theirs = (
            sorted(ds.to_json() for ds in self.ask(address, directory / name, *arguments))
            for name, address in (("ours", self.ours), ("theirs", self.theirs))
        )
        return ours, theirs


def read(path: Path) -> Dataset:
    ds = Dataset(pydicom.dcmread(path))
    ds.decode()
    if "SpecificCharacterSet" in ds:
        del ds.SpecificCharacterSet
    return ds


def given(keys: tuple[str, ...]) -> list[str]:
    return [part for key in ("PatientName", *keys) for part in ("-k", key)]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("worklist")
    worklists.write_files(directory / "files")
    config = write_config(directory / "node", worklist={"directory": str(directory / "files")})
    with ExitStack() as running:
        node = RunningNode(directory / "node", config)
        running.callback(node.stop)
        peer = running.enter_context(wlmscpfs(directory / "files", "--keep-char-set"))
        yield Servers(node.dicom_address, peer.dicom_address, worklists.TITLE)


@pytest.mark.parametrize("keys", ALIKE, ids=" ".join)
def test_the_answers_are_those_of_wlmscpfs(
    servers: Servers, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    ours, theirs = servers.both(tmp_path, *given(keys))
    assert ours == theirs


@pytest.mark.parametrize(("keys", "matches"), BY_THE_STANDARD)
def test_keys_match_that_wlmscpfs_does_not_know(
    servers: Servers, tmp_path: Path, keys: tuple[str, ...], matches: int
) -> None:
    answers = servers.ask(servers.ours, tmp_path / "ours", *given(keys))
    assert len(answers) == matches


def test_an_empty_sequence_asks_for_all_that_its_items_have(
    servers: Servers, tmp_path: Path
) -> None:
    keys = given(("PatientID=P110", STEP[:-4], "RequestedProcedureCodeSequence"))
    (answer,) = servers.ask(servers.ours, tmp_path / "ours", *keys)
    sent = dict(worklists.items())["codes"]
    sent.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus = "SCHEDULED"
    assert answer.ScheduledProcedureStepSequence == sent.ScheduledProcedureStepSequence
    assert answer.RequestedProcedureCodeSequence == sent.RequestedProcedureCodeSequence


def test_a_sequence_that_an_item_does_not_have_comes_back_empty(
    servers: Servers, tmp_path: Path
) -> None:
    keys = given(("PatientID=P104", "RequestedProcedureCodeSequence[0].CodeValue"))
    (answer,) = servers.ask(servers.ours, tmp_path / "ours", *keys)
    assert list(answer.RequestedProcedureCodeSequence) == []


# -- DCMTK's own examples ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The worklist that comes with DCMTK, and both servers on it."""
    if not EXAMPLES.is_dir():
        pytest.skip("DCMTK's examples are not installed")
    directory = tmp_path_factory.mktemp("examples")
    folder = directory / "files" / "OFFIS"
    folder.mkdir(parents=True)
    for dump in sorted((EXAMPLES / "wlistdb" / "OFFIS").glob("*.dump")):
        run_tool("dump2dcm", "+te", dump, folder / f"{dump.stem}.wl")
    config = write_config(
        directory / "node",
        node={"ae_title": "OFFIS", "port": 0},
        worklist={"directory": str(directory / "files")},
    )
    with ExitStack() as running:
        node = RunningNode(directory / "node", config)
        running.callback(node.stop)
        peer = running.enter_context(wlmscpfs(directory / "files", "--keep-char-set"))
        yield Servers(node.dicom_address, peer.dicom_address, "OFFIS")


@pytest.mark.parametrize("number", range(13))
def test_dcmtks_queries_of_its_own_worklist(examples: Servers, tmp_path: Path, number: int) -> None:
    query = tmp_path / "query.dcm"
    run_tool("dump2dcm", "+te", EXAMPLES / "wlistqry" / f"wlistqry{number}.dump", query)
    ours, theirs = (
        sorted(with_values(ds).to_json() for ds in examples.ask(address, tmp_path / name, query))
        for name, address in (("ours", examples.ours), ("theirs", examples.theirs))
    )
    assert ours == theirs


def with_values(ds: Dataset) -> Dataset:
    """Return what has a value: wlmscpfs leaves code sequences out, and adds empty attributes.

    Without the status of the step as well: it is ours to say.
    """
    kept = Dataset()
    for element in ds:
        if element.VR == "SQ":
            element.value = [item for item in map(with_values, element.value) if item]
        if not element.is_empty and element.keyword != "ScheduledProcedureStepStatus":
            kept.add(element)
    return kept


# -- files that come and go ----------------------------------------------------------------------


def test_what_findscu_sees_follows_the_files(start_node: StartNode, tmp_path: Path) -> None:
    worklists.write_files(tmp_path / "files")
    settings = {"directory": str(tmp_path / "files"), "poll_seconds": 0.05}
    node = start_node(worklist=settings)

    def found() -> int:
        done = run_tool(
            *("findscu", "-v", "-W", "-aec", worklists.TITLE, *node.dicom_address),
            *("-k", "PatientName=ADAMS*"),
        )
        return done.output.count("(Pending)")

    assert found() == 2
    (tmp_path / "files" / worklists.TITLE / "A100.wl").unlink()
    eventually(lambda: found() == 1, "one item less")
    (tmp_path / "files" / worklists.TITLE).rename(tmp_path / "files" / "OTHER")
    eventually(lambda: found() == 0, "the items of another title")
    (tmp_path / "files" / "OTHER").rename(tmp_path / "files" / worklists.TITLE)
    eventually(lambda: found() == 1, "the item that is back")
