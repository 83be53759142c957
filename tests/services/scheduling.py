"""A worklist service over a few items, and associations with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from dicomnode.dimse.command import Response
from dicomnode.index.worklist import NewItem, State, WorklistItems
from dicomnode.services.identifier import Bounds
from dicomnode.services.query import Source
from dicomnode.services.sop_classes import MODALITY_WORKLIST
from dicomnode.services.worklist import Worklist
from dicomnode.storage.json_model import decode_attributes
from tests.services.querying import Fixture
from tests.storage.objects import EXPLICIT, encoded


class Scheduling(Fixture):
    """A worklist service, and what it is asked."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.items = WorklistItems(self.catalog)
        self.in_progress = False

    def source(self, bounds: Bounds) -> Source:
        return Worklist(self.items, bounds, lambda: self.registry, in_progress=self.in_progress)

    def schedule(self, key: str = "item", *, title: str = "", **values: Any) -> None:
        """Enter an item; see ``scheduled`` for its values."""
        self.items.put([new_item(key, title=title, **values)])

    def perform(self, key: str, state: State) -> None:
        """Give the step of an item another state."""
        study = scheduled(key).StudyInstanceUID
        done = self.catalog.transact(
            lambda cursor: self.items.follow(cursor, study, key, "", lambda *_: (state, "1.2.9"))
        )
        assert done == [key]

    async def ask_for(
        self, identifier: Dataset | bytes, **more: Any
    ) -> tuple[list[Dataset], Response]:
        """Return the matches of a worklist query and its final response."""
        return await self.find(identifier, MODALITY_WORKLIST, **more)


_OF_STEP = ("Scheduled", "Modality", "CommentsOnTheScheduled", "PreMedication")


def asked(**values: Any) -> Dataset:
    """Return a data set; what belongs to a scheduled procedure step stands in its sequence."""
    ds, step = Dataset(), Dataset()
    for keyword, value in values.items():
        in_step = keyword.startswith(_OF_STEP) and not keyword.endswith("StepSequence")
        setattr(step if in_step else ds, keyword, value)
    if step:
        ds.ScheduledProcedureStepSequence = [step]
    return ds


def scheduled(key: str, **values: Any) -> Dataset:
    """Return the data set of an item whose step has ``key`` as its ID."""
    number = sum(key.encode())
    usual = {
        "StudyInstanceUID": f"1.2.3.{number}",
        "AccessionNumber": f"A{number}",
        "PatientName": "DOE^JANE",
        "PatientID": "4711",
        "RequestedProcedureID": f"R{number}",
        "Modality": "CT",
        "ScheduledStationAETitle": "CT_1",
        "ScheduledProcedureStepStartDate": "20261121",
        "ScheduledProcedureStepStartTime": "0930",
        "ScheduledProcedureStepID": key,
    }
    return asked(**usual | values)


def new_item(key: str, *, title: str = "", **values: Any) -> NewItem:
    """Return an item for the index; see ``scheduled`` for its values."""
    attributes = decode_attributes(encoded(scheduled(key, **values)), EXPLICIT)
    return NewItem(key, "command", "", title, attributes)


def keys_of(matches: Sequence[Dataset]) -> list[str]:
    """Return the Scheduled Procedure Step IDs of answers, in order."""
    return [ds.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID for ds in matches]
