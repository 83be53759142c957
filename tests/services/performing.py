"""What a modality sends of a performed procedure step (PS3.4 Table F.7.2-1), for tests."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

STUDY, STEP_ID, ACCESSION = "1.2.826.0.1.3680043.9.1", "SPS1", "A1"
TYPE_2_OF_SCHEDULED = (
    "ReferencedStudySequence",
    "AccessionNumber",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "ScheduledProcedureStepID",
    "ScheduledProcedureStepDescription",
    "ScheduledProtocolCodeSequence",
)
TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "ReferencedPatientSequence",
    "PerformedStationName",
    "PerformedLocation",
    "PerformedProcedureStepDescription",
    "PerformedProcedureTypeDescription",
    "ProcedureCodeSequence",
    "PerformedProcedureStepEndDate",
    "PerformedProcedureStepEndTime",
    "StudyID",
    "PerformedProtocolCodeSequence",
    "PerformedSeriesSequence",
)
TYPE_2_OF_SERIES = (
    "PerformingPhysicianName",
    "OperatorsName",
    "SeriesDescription",
    "RetrieveAETitle",
    "ReferencedImageSequence",
    "ReferencedNonImageCompositeSOPInstanceSequence",
)


def scheduled(
    study: str = STUDY, step_id: str = STEP_ID, accession: str = ACCESSION, **more: object
) -> Dataset:
    """Return an item of Scheduled Step Attributes Sequence."""
    item = _with_empty(TYPE_2_OF_SCHEDULED)
    item.StudyInstanceUID = study
    item.ScheduledProcedureStepID = step_id
    item.AccessionNumber = accession
    item.RequestedProcedureID = "RP1"
    return _with(item, more)


def creation(*steps: Dataset, **more: object) -> Dataset:
    """Return the attribute list of an N-CREATE; a value None leaves an attribute out."""
    made = _with_empty(TYPE_2)
    made.ScheduledStepAttributesSequence = list(steps or (scheduled(),))
    made.PatientName = "Doe^Jane"
    made.PatientID = "P1"
    made.PatientBirthDate = "19700101"
    made.PatientSex = "F"
    made.PerformedProcedureStepID = "PPS1"
    made.PerformedStationAETitle = "CT_1"
    made.PerformedProcedureStepStartDate = "20261121"
    made.PerformedProcedureStepStartTime = "093000"
    made.PerformedProcedureStepStatus = "IN PROGRESS"
    made.Modality = "CT"
    return _with(made, more)


def series(number: int = 1, images: int = 2, **more: object) -> Dataset:
    """Return an item of Performed Series Sequence."""
    made = _with_empty(TYPE_2_OF_SERIES)
    made.ProtocolName = "Thorax"
    made.SeriesInstanceUID = f"{STUDY}.{number}"
    made.ReferencedImageSequence = [
        reference(f"{STUDY}.{number}.{image}") for image in range(1, images + 1)
    ]
    return _with(made, more)


def reference(uid: str) -> Dataset:
    """Return a reference to a CT image."""
    made = Dataset()
    made.ReferencedSOPClassUID = CTImageStorage
    made.ReferencedSOPInstanceUID = uid
    return made


def completion(*performed: Dataset, **more: object) -> Dataset:
    """Return the modification list of the N-SET that ends a step."""
    made = Dataset()
    made.PerformedProcedureStepStatus = "COMPLETED"
    made.PerformedProcedureStepEndDate = "20261121"
    made.PerformedProcedureStepEndTime = "094500"
    made.PerformedSeriesSequence = list(performed or (series(),))
    return _with(made, more)


def _with_empty(keywords: tuple[str, ...]) -> Dataset:
    made = Dataset()
    for keyword in keywords:
        setattr(made, keyword, [] if keyword.endswith("Sequence") else "")
    return made


def _with(made: Dataset, more: dict[str, object]) -> Dataset:
    for keyword, value in more.items():
        if value is None:
            delattr(made, keyword)
        else:
            setattr(made, keyword, value)
    return made
