"""After an empty answer: which key of which worklist item did not match."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dicomnode.index.worklist import State
from dicomnode.services.outcomes import Finding
from tests.services.scheduling import Scheduling, asked, new_item


@pytest_asyncio.fixture
async def worklist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scheduling]:
    # However busy the machine is.
    monkeypatch.setattr("dicomnode.services.query._EXPLAINED_SECONDS", 600.0)
    fixture = Scheduling(tmp_path)
    yield fixture
    await asyncio.to_thread(fixture.close)


async def findings(worklist: Scheduling, **keys: Any) -> tuple[Finding, ...]:
    """Return what is found out after a query that has no answer."""
    matches, final = await worklist.ask_for(asked(**keys))
    assert (matches, final.status) == ([], 0x0000)
    await asyncio.wait_for(worklist.told.wait(), 120)
    worklist.told.clear()
    return worklist.outcomes[-1].findings


async def test_there_are_no_items(worklist: Scheduling) -> None:
    (told,) = await findings(worklist, Modality="CT")
    assert told.words == "there are no worklist items"
    assert "worklist.directory" in told.advice


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"ScheduledStationAETitle": "CT_2"},
            "item one: Scheduled Station AE Title is CT_1, asked for CT_2",
        ),
        (
            {"ScheduledProcedureStepStartDate": "20261122", "ScheduledStationAETitle": "CT_1"},
            "item one: Scheduled Procedure Step Start Date is 20261121, asked for 20261122",
        ),
        ({"Modality": "MR"}, "item one: Modality is CT, asked for MR"),
        (
            {"ScheduledProcedureStepLocation": "ROOM 1"},
            "item one: Scheduled Procedure Step Location has no value, asked for ROOM 1",
        ),
        (
            {
                "ScheduledProcedureStepStartDate": "20261122-20261124",
                "ScheduledProcedureStepStartTime": "0800-1800",
            },
            "item one: Scheduled Procedure Step Start Date is 20261121 0930,"
            " asked for 20261122-20261124 0800-1800",
        ),
    ],
)
async def test_the_key_that_does_not_match_is_told(
    worklist: Scheduling, keys: dict[str, str], words: str
) -> None:
    worklist.schedule("one")
    (told,) = await findings(worklist, **keys)
    assert told.words == words
    assert told.patient_value == ""


async def test_what_says_who_the_patient_is_stands_apart(worklist: Scheduling) -> None:
    worklist.schedule("one")
    (told,) = await findings(worklist, PatientName="ROE*", Modality="MR")
    assert told.words == "item one: Patient's Name does not match; Modality is CT, asked for MR"
    assert told.patient_value == "Patient's Name is DOE^JANE, asked for ROE*"


async def test_the_nearest_items_are_told_first_and_few_of_them(worklist: Scheduling) -> None:
    for number in range(8):
        worklist.schedule(f"far_{number}", ScheduledStationAETitle="MR_1", Modality="MR")
    worklist.schedule("near", ScheduledStationAETitle="CT_2")
    told = await findings(worklist, ScheduledStationAETitle="CT_1", Modality="CT")
    assert len(told) == 5
    assert told[0].words == "item near: Scheduled Station AE Title is CT_2, asked for CT_1"


async def test_an_item_that_comes_near_is_found_among_many(worklist: Scheduling) -> None:
    day_before = {"Modality": "MR", "ScheduledProcedureStepStartDate": "20261120"}
    worklist.items.put([new_item(f"far_{number:03}", **day_before) for number in range(700)])
    worklist.schedule("near", ScheduledProcedureStepStartDate="20271231")
    told = await findings(worklist, Modality="CT", ScheduledProcedureStepStartDate="20261121")
    assert told[0].words == (
        "item near: Scheduled Procedure Step Start Date is 20271231, asked for 20261121"
    )


async def test_items_of_days_nearby_are_told_before_others(worklist: Scheduling) -> None:
    for day in range(1, 31):
        worklist.schedule(f"day_{day:02}", ScheduledProcedureStepStartDate=f"202611{day:02}")
    worklist.perform("day_15", State.COMPLETED)
    told = await findings(worklist, ScheduledProcedureStepStartDate="20261115")
    assert [finding.words.partition(":")[0] for finding in told] == [
        "item day_15",
        "item day_14",
        "item day_16",
        "item day_13",
        "item day_17",
    ]


async def test_a_step_in_progress_is_told(worklist: Scheduling) -> None:
    worklist.schedule("one")
    worklist.schedule("two", Modality="MR")
    worklist.perform("one", State.IN_PROGRESS)
    told = await findings(worklist, Modality="CT")
    assert told[0].words == "item one: its step is in progress"
    assert "worklist.in_progress" in told[0].advice


async def test_nothing_is_left_on_the_list(worklist: Scheduling) -> None:
    worklist.schedule("one")
    worklist.perform("one", State.COMPLETED)
    (told,) = await findings(worklist, Modality="CT")
    assert told.words == (
        "every worklist item for the called AE title DICOMNODE is in progress or completed"
    )


async def test_items_of_another_called_title_are_told(worklist: Scheduling) -> None:
    worklist.schedule("one", title="OTHER")
    (told,) = await findings(worklist, Modality="CT")
    assert told.words == "no worklist item is for the called AE title DICOMNODE"
    worklist.schedule("two", Modality="MR")
    told, *_ = await findings(worklist, Modality="CT")
    assert told.words == "item one: it is for the called AE title OTHER, called was DICOMNODE"


async def test_long_values_are_cut(worklist: Scheduling) -> None:
    worklist.schedule("one")
    (told,) = await findings(worklist, ScheduledStationAETitle="X" * 1000)
    assert told.words.endswith("asked for " + "X" * 64 + "…")
