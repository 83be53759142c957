"""A day of a modality: its worklist, its images, its performed step, and their commitment.

DCMTK asks for the worklist and sends the images, pynetdicom tells of the step and asks for the
commitment. What each step needs comes from the answers to those before it, as at a modality.
"""

from __future__ import annotations

import contextlib
import queue
import sys
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from tests import peers
from tests.services.performing import completion, creation, reference, scheduled, series
from tests.worklist_data import write_worklist_file

pytestmark = pytest.mark.interop("findscu", "storescu")

CALL = ("-aet", "CT_1", "-aec", "DICOMNODE")
STEP = "(0040,0100)[0]."
# What a CT asks for at the start of a shift: its own steps of today.
KEYS = (
    *("0010,0010", "0010,0020", "0010,0030", "0010,0040", "0008,0050", "0020,000d", "0040,1001"),
    *(f"{STEP}0040,0001=CT_1", f"{STEP}0040,0002=20261121", f"{STEP}0008,0060=CT"),
    *(f"{STEP}0040,0003", f"{STEP}0040,0009", f"{STEP}0040,0007"),
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[peers.NodeProcess]:
    worklist = {"directory": str(tmp_path / "worklist"), "poll_seconds": 0.1}
    (tmp_path / "worklist").mkdir()
    entity = {"title": "CT_1"}
    with peers.node_process(
        tmp_path / "node", entities=[entity], worklist=worklist, access={"unknown_ae": "refuse"}
    ) as node:
        yield node


def worklist_of(node: peers.NodeProcess, directory: Path) -> list[Dataset]:
    """Return the items that findscu gets."""
    directory.mkdir(exist_ok=True)
    for path in directory.glob("rsp*.dcm"):
        path.unlink()
    keys = [part for key in KEYS for part in ("-k", key)]
    done = peers.run_tool(
        *("findscu", "-W", *CALL, "-X", "-od", directory, *keys, *node.dicom_address),
    )
    assert done.returncode == 0, done.output
    return [pydicom.dcmread(path) for path in sorted(directory.glob("rsp*.dcm"))]


def acquire(item: Dataset, directory: Path, number: int) -> Path:
    """Write an image of the study that ``item`` schedules."""
    directory.mkdir(exist_ok=True)
    image = Dataset()
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "AccessionNumber"):
        setattr(image, keyword, item[keyword].value)
    image.SpecificCharacterSet = item.get("SpecificCharacterSet", "ISO_IR 100")
    image.Modality = item.ScheduledProcedureStepSequence[0].Modality
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
    image.SeriesInstanceUID = f"{item.StudyInstanceUID}.1"
    image.InstanceNumber = number
    image.Rows = image.Columns = 64
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.PixelData = bytes([number]) * (2 * 64 * 64)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(directory / f"{number}.dcm", enforce_file_format=True)
    return directory / f"{number}.dcm"


class Modality:
    """pynetdicom as CT_1 on one association, on which it is told of its commitments too."""

    def __init__(self, association: Association, reports: queue.Queue[tuple[int, Dataset]]) -> None:
        self._association = association
        self.reports = reports

    def create(self, attributes: Dataset, uid: str) -> int:
        status, _ = self._association.send_n_create(attributes, ModalityPerformedProcedureStep, uid)
        return int(status.Status)

    def change(self, changes: Dataset, uid: str) -> int:
        status, _ = self._association.send_n_set(changes, ModalityPerformedProcedureStep, uid)
        return int(status.Status)

    def commit(self, images: list[Dataset]) -> tuple[int, str]:
        request = Dataset()
        request.TransactionUID = generate_uid()
        request.ReferencedSOPSequence = [reference(image.SOPInstanceUID) for image in images]
        status, _ = self._association.send_n_action(
            request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        return int(status.Status), request.TransactionUID


@contextlib.contextmanager
def modality(address: peers.Address) -> Iterator[Modality]:
    reports: queue.Queue[tuple[int, Dataset]] = queue.Queue()

    def take(event: evt.Event) -> tuple[int, None]:
        reports.put((event.event_type, event.event_information))
        return 0x0000, None

    entity = AE("CT_1")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context(ModalityPerformedProcedureStep)
    entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate(
        *address, ae_title="DICOMNODE", evt_handlers=[(evt.EVT_N_EVENT_REPORT, take)]
    )
    assert association.is_established
    try:
        yield Modality(association, reports)
    finally:
        association.release()


def test_a_day_from_the_worklist_to_the_commitment(node: peers.NodeProcess, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    assert worklist_of(node, answers) == []

    # The RIS schedules a step for this CT, and one for another.
    ours = tmp_path / "worklist" / "DICOMNODE" / "ours.wl"
    other = {"ScheduledStationAETitle": "CT_2"}
    write_worklist_file(ours.with_name("others.wl"), other, StudyInstanceUID="1.2.3.2")
    write_worklist_file(ours, StudyInstanceUID="1.2.826.0.1.3680043.9.3811.7", AccessionNumber="A7")
    peers.eventually(lambda: worklist_of(node, answers), "the item on the worklist")
    (item,) = worklist_of(node, answers)
    assert (item.PatientName, item.AccessionNumber) == ("Müller^Änne", "A7")
    (planned,) = item.ScheduledProcedureStepSequence

    # The CT begins, and the item leaves the list.
    step_uid = generate_uid()
    with modality(node.dicom_address) as ct:
        begun = creation(
            scheduled(item.StudyInstanceUID, planned.ScheduledProcedureStepID, "A7"),
            SpecificCharacterSet="ISO_IR 100",
            PatientName=item.PatientName,
            PatientID=item.PatientID,
        )
        assert ct.create(begun, step_uid) == 0x0000
        assert worklist_of(node, answers) == []

        # It sends its images, and says that it is done.
        paths = [acquire(item, tmp_path / "images", number) for number in (1, 2, 3)]
        sent = peers.run_tool("storescu", *CALL, *node.dicom_address, *paths)
        assert sent.returncode == 0, sent.output
        images = [pydicom.dcmread(path) for path in paths]
        performed = series(
            SeriesInstanceUID=images[0].SeriesInstanceUID,
            ReferencedImageSequence=[reference(image.SOPInstanceUID) for image in images],
        )
        assert ct.change(completion(performed), step_uid) == 0x0000
        assert worklist_of(node, answers) == []

        # It deletes nothing before the node has committed itself to keeping it.
        status, transaction = ct.commit(images)
        assert status == 0x0000
        event, report = ct.reports.get(timeout=20)
    assert (event, report.TransactionUID) == (1, transaction)
    committed = {each.ReferencedSOPInstanceUID for each in report.ReferencedSOPSequence}
    assert committed == {image.SOPInstanceUID for image in images}

    told = peers.run_tool(
        *(sys.executable, "-m", "dicomnode", "worklist", "list", "--config", node.config)
    )
    assert "completed" in told.output and "scheduled" in told.output, told.output
    for name, labels in (
        ("dicomnode_worklist_items", {"state": "COMPLETED"}),
        ("dicomnode_performed_steps", {"status": "COMPLETED"}),
        ("dicomnode_commitments", {"state": "delivered"}),
        ("dicomnode_studies", {}),
    ):
        assert peers.metric(node.http_address, name, **labels) == 1, name


def test_a_completed_item_does_not_come_back_with_its_file_after_a_crash(
    node: peers.NodeProcess, tmp_path: Path
) -> None:
    write_worklist_file(tmp_path / "worklist" / "DICOMNODE" / "one.wl")
    peers.eventually(lambda: worklist_of(node, tmp_path / "answers"), "the item on the worklist")
    (item,) = worklist_of(node, tmp_path / "answers")
    with modality(node.dicom_address) as ct:
        planned = item.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID
        begun = creation(scheduled(item.StudyInstanceUID, planned, item.AccessionNumber))
        step_uid = generate_uid()
        assert ct.create(begun, step_uid) == 0x0000
        assert ct.change(completion(), step_uid) == 0x0000
    node.process.kill()
    node.wait()
    again = peers.NodeProcess(node.config)
    try:
        again.wait_until_ready()
        assert worklist_of(again, tmp_path / "answers") == []
        name = "dicomnode_performed_steps"
        assert peers.metric(again.http_address, name, status="COMPLETED") == 1
    finally:
        again.close()
