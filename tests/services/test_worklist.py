"""Modality Worklist (PS3.4 Annex K): what is matched, what is returned, who sees what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydicom.dataset import Dataset

from dicomnode.index.worklist import State
from dicomnode.registry import AE, Registry
from tests.services.scheduling import Scheduling, asked, keys_of, scheduled
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT, encoded


@pytest_asyncio.fixture
async def worklist(tmp_path: Path) -> AsyncIterator[Scheduling]:
    fixture = Scheduling(tmp_path)
    yield fixture
    await asyncio.to_thread(fixture.close)


async def found(worklist: Scheduling, **keys: Any) -> list[str]:
    """Return the keys of the items that a query finds."""
    identifier = asked(**{"ScheduledProcedureStepID": "", **keys})
    matches, final = await worklist.ask_for(identifier)
    assert final.status == 0x0000
    return keys_of(matches)


# -- matching ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        {"ScheduledStationAETitle": "MR_1"},
        {"ScheduledProcedureStepStartDate": "20261122"},
        {"ScheduledProcedureStepStartDate": "20261122-20261130"},
        {"Modality": "MR"},
        {"ScheduledPerformingPhysicianName": "HOUSE^GREGORY"},
        {"ScheduledPerformingPhysicianName": "house*"},
        {"PatientName": "ROE^*"},
        {"PatientID": "4712"},
        {"PatientWeight": "71.50"},
        {"StudyInstanceUID": ["1.2.9", "1.2.3.4.5"]},
        {"AccessionNumber": "N*"},
        {"RequestedProcedureID": "RP_2"},
        {"ScheduledProcedureStepStartTime": "10"},
        {"ScheduledProcedureStepStartTime": "1000-"},
        {"ScheduledProcedureStepDescription": "*thorax*"},
        {"ScheduledProcedureStepStatus": "ARRIVED"},
    ],
    ids=str,
)
async def test_an_item_is_found_by_any_of_its_attributes_and_others_are_not(
    worklist: Scheduling, keys: dict[str, Any]
) -> None:
    worklist.schedule("one")
    worklist.schedule(
        "two",
        ScheduledStationAETitle=["CT_9", "MR_1"],
        ScheduledProcedureStepStartDate="20261122",
        ScheduledProcedureStepStartTime="101500",
        ScheduledPerformingPhysicianName="HOUSE^GREGORY",
        ScheduledProcedureStepDescription="CT thorax plain",
        ScheduledProcedureStepStatus="ARRIVED",
        Modality="MR",
        PatientName="ROE^RICHARD",
        PatientID="4712",
        PatientWeight="71.5",
        StudyInstanceUID="1.2.3.4.5",
        AccessionNumber="N2",
        RequestedProcedureID="RP_2",
    )
    assert await found(worklist, **keys) == ["two"]


@pytest.mark.parametrize(
    ("dates", "times", "matches"),
    [
        ("20261121-20261123", "1800-1000", ["late", "night", "noon"]),
        ("20261121-20261123", "1200-1200", ["late", "night", "noon"]),
        ("20261122-20261122", "1000-1300", ["noon"]),
        ("20261121-20261123", "1200", ["noon"]),
        ("20261122-", "0100-", ["noon"]),
        ("-20261122", "-0030", ["late", "night"]),
    ],
)
async def test_ranges_of_date_and_time_are_one_range(
    worklist: Scheduling, dates: str, times: str, matches: list[str]
) -> None:
    # PS3.4 Table K.6-1: from the first time of the first day to the last time of the last.
    for key, date, time in (
        ("late", "20261121", "2330"),
        ("night", "20261122", "0030"),
        ("noon", "20261122", "1200"),
    ):
        worklist.schedule(
            key, ScheduledProcedureStepStartDate=date, ScheduledProcedureStepStartTime=time
        )
    keys = {"ScheduledProcedureStepStartDate": dates, "ScheduledProcedureStepStartTime": times}
    assert await found(worklist, **keys) == matches


async def test_an_attribute_without_a_value_matches_no_key_that_has_one(
    worklist: Scheduling,
) -> None:
    # PS3.4 §K.2.2.1.1.1
    worklist.schedule("one", ScheduledPerformingPhysicianName="")
    assert await found(worklist, ScheduledPerformingPhysicianName="?*") == []
    assert await found(worklist, ScheduledPerformingPhysicianName="*") == ["one"]
    assert await found(worklist, ScheduledPerformingPhysicianName='""') == ["one"]


async def test_one_item_of_a_sequence_has_to_match_all_its_keys(worklist: Scheduling) -> None:
    codes = [code("HIP_AP", "99A"), code("HIP_LAT", "99B")]
    worklist.schedule("one", ScheduledProtocolCodeSequence=codes)
    assert await found(worklist, ScheduledProtocolCodeSequence=[code("HIP_LAT", "99B")]) == ["one"]
    assert await found(worklist, ScheduledProtocolCodeSequence=[code("HIP_LAT", "99A")]) == []


def code(value: str, scheme: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator = value, scheme
    return ds


async def test_what_no_entity_of_the_worklist_has_is_not_matched(worklist: Scheduling) -> None:
    # PS3.4 §K.2.2.1.1.2: an optional key that is not supported is a return key; Table K.4-1, FF01H.
    worklist.schedule("one")
    identifier = asked(ScheduledProcedureStepID="", Manufacturer="ACME", QueryRetrieveLevel="STUDY")
    matches, _ = await worklist.ask_for(identifier)
    assert keys_of(matches) == ["one"]
    assert worklist.channel.sent[0][0].status == 0xFF01
    assert matches[0].Manufacturer == ""
    assert "QueryRetrieveLevel" not in matches[0]


@pytest.mark.parametrize(("number", "status"), [(0, 0xFF00), (3, 0xFF01)])
async def test_binary_numbers_are_not_matched(
    worklist: Scheduling, number: int, status: int
) -> None:
    # dcmjs-dimse sends Pregnancy Status 0 with every query, and knows FF00H alone as Pending.
    worklist.schedule("one", PregnancyStatus=4)
    matches, _ = await worklist.ask_for(asked(ScheduledProcedureStepID="", PregnancyStatus=number))
    assert [ds.PregnancyStatus for ds in matches] == [4]
    assert worklist.channel.sent[0][0].status == status


# -- what is returned --------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
async def test_exactly_what_is_asked_for_is_returned(worklist: Scheduling, syntax: str) -> None:
    worklist.schedule(
        "one",
        PatientWeight="70",
        PregnancyStatus=4,
        PatientName="Müller^Jörg",
        SpecificCharacterSet="ISO_IR 192",
    )
    identifier = asked(
        PatientName="",
        PatientWeight="",
        PregnancyStatus=None,
        PatientSex="",
        ScheduledStationAETitle="",
        RequestedProcedureCodeSequence=[],
    )
    (answer,), _ = await worklist.ask_for(identifier, syntax=syntax)
    (step,) = answer.ScheduledProcedureStepSequence
    assert [element.keyword for element in step] == ["ScheduledStationAETitle"]
    assert step.ScheduledStationAETitle == "CT_1"
    del answer.ScheduledProcedureStepSequence
    assert [element.keyword for element in answer] == [
        "SpecificCharacterSet",
        "PatientName",
        "PatientSex",
        "PatientWeight",
        "PregnancyStatus",
        "RequestedProcedureCodeSequence",
    ]
    assert (answer.PatientName, answer.PatientWeight) == ("Müller^Jörg", 70)
    assert (answer.PregnancyStatus, answer.PatientSex) == (4, "")


async def test_an_empty_item_asks_for_all_attributes(worklist: Scheduling) -> None:
    # PS3.4 §K.2.2.1.2, note 4
    worklist.schedule("one")
    for items in ([], [Dataset()]):
        identifier = asked(PatientID="")
        identifier.ScheduledProcedureStepSequence = items
        (answer,), _ = await worklist.ask_for(identifier)
        expected = scheduled("one").ScheduledProcedureStepSequence[0]
        expected.ScheduledProcedureStepStatus = "SCHEDULED"
        assert answer.ScheduledProcedureStepSequence[0] == expected


async def test_answers_are_in_the_character_set_of_the_registry(worklist: Scheduling) -> None:
    worklist.registry = Registry([AE(title="WS_1", character_set="ISO_IR 100")])
    worklist.schedule("one", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192")
    worklist.schedule("two", PatientName="山田^太郎", SpecificCharacterSet="ISO_IR 192")
    matches, _ = await worklist.ask_for(asked(PatientName="", ScheduledProcedureStepID=""))
    told = {str(ds.PatientName): ds.SpecificCharacterSet for ds in matches}
    assert told == {"Müller^Jörg": "ISO_IR 100", "山田^太郎": "ISO_IR 192"}


async def test_names_are_asked_for_in_any_character_set(worklist: Scheduling) -> None:
    worklist.schedule("one", PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192")
    keys = {"PatientName": "Müller*", "SpecificCharacterSet": "ISO_IR 100"}
    assert await found(worklist, **keys) == ["one"]


# -- who sees what -----------------------------------------------------------------------------


async def test_states_decide_over_what_is_on_the_list(worklist: Scheduling) -> None:
    for state in State:
        worklist.schedule(state.name)
        worklist.perform(state.name, state)
    assert sorted(await found(worklist)) == ["DISCONTINUED", "SCHEDULED"]
    worklist.in_progress = True
    matches, _ = await worklist.ask_for(
        asked(ScheduledProcedureStepID="", ScheduledProcedureStepStatus="")
    )
    told = {
        step.ScheduledProcedureStepID: step.ScheduledProcedureStepStatus
        for ds in matches
        for step in ds.ScheduledProcedureStepSequence
    }
    # PS3.3 §C.4.10
    assert told == {
        "SCHEDULED": "SCHEDULED",
        "IN_PROGRESS": "STARTED",
        "DISCONTINUED": "SCHEDULED",
    }
    assert await found(worklist, ScheduledProcedureStepStatus="STARTED") == ["IN_PROGRESS"]


async def test_items_of_a_called_title_are_seen_under_that_title_alone(
    worklist: Scheduling,
) -> None:
    worklist.schedule("ours", title="dicomnode")
    worklist.schedule("theirs", title="OTHER")
    worklist.schedule("all")
    assert sorted(await found(worklist)) == ["all", "ours"]


async def test_more_matches_than_are_allowed_end_with_out_of_resources(
    worklist: Scheduling,
) -> None:
    worklist.max_matches = 2
    for key in ("one", "two", "three"):
        worklist.schedule(key)
    matches, final = await worklist.ask_for(asked(ScheduledProcedureStepID=""))
    assert (len(matches), final.status) == (2, 0xA700)


# -- what has no meaning -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "status", "offending"),
    [
        (Dataset(), 0xA900, ()),
        (asked(ScheduledProcedureStepStartTime="noon"), 0xA900, (0x00400003,)),
        (asked(StudyInstanceUID="no UID"), 0xA900, (0x0020000D,)),
        (asked(SpecificCharacterSet="ISO_IR 999", PatientID=""), 0xA900, (0x00080005,)),
        (
            asked(ScheduledProcedureStepSequence=[asked(PatientID="1"), asked(PatientID="2")]),
            0xA900,
            (0x00400100,),
        ),
        (b"\x10\x00\x10\x00PN\xff\x00cut", 0xC000, ()),
    ],
    ids=lambda value: "" if isinstance(value, Dataset) else str(value),
)
async def test_an_identifier_without_meaning_is_refused(
    worklist: Scheduling, identifier: Dataset | bytes, status: int, offending: tuple[int, ...]
) -> None:
    worklist.schedule("one")
    matches, final = await worklist.ask_for(identifier)
    assert (matches, final.status) == ([], status)
    assert final.offending_element == offending
    assert not worklist.errors


@pytest.mark.parametrize("depth", [16, 17, 60, 2000])
async def test_deeply_nested_sequences_do_no_harm(worklist: Scheduling, depth: int) -> None:
    worklist.schedule("one")
    nested = b""
    for _ in range(depth):
        nested = b"\x40\x00\x08\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" + nested
        nested += b"\xfe\xff\r\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    _, final = await worklist.ask_for(nested)
    assert final.status == (0x0000 if depth == 16 else 0xC000)
    assert not worklist.errors


async def test_too_many_keys_are_refused(worklist: Scheduling) -> None:
    worklist.schedule("one")
    data = b"".join(
        b"\x11\x00" + number.to_bytes(2, "little") + b"LO\0\0" for number in range(0x1000, 0x1A00)
    )
    _, final = await worklist.ask_for(encoded(asked(PatientID="")) + data)
    assert final.status == 0xA900
