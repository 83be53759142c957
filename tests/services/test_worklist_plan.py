"""Worklist queries worked out: what SQL decides alone is what the rules of matching say."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomnode.errors import StatusError
from dicomnode.index.catalog import Catalog
from dicomnode.index.worklist import NewItem, State, WorklistItems
from dicomnode.services.identifier import Bounds
from dicomnode.services.worklist_matching import matches
from dicomnode.services.worklist_plan import Asked, Plan, make_plan
from dicomnode.storage.json_model import decode_attributes
from tests.index.entries import sqlite_url
from tests.services.scheduling import asked, scheduled
from tests.storage.objects import EXPLICIT, encoded

# What the index has columns of, and a few values of each.
UNICODE = {"SpecificCharacterSet": "ISO_IR 192"}
VALUES: dict[str, list[Any]] = {
    "AccessionNumber": ["", "A1"],
    "PatientID": ["4711", "47*"],
    "PatientName": ["DOE^JANE", "Dörr^Uwe", ""],
    "Modality": ["CT", "MR"],
    "ScheduledStationAETitle": ["CT_1", ["CT_1", "MR_1"], ""],
    "ScheduledProcedureStepStartDate": ["20261121", "20261122"],
}
ASKED = {
    "AccessionNumber": ["", "A1", "a1", '""', "A*", "A2"],
    "PatientID": ["", "4711", "47*", "47?1"],
    "PatientName": ["", "doe^jane", "DO*", "*^U?e", "D?rr*", '""'],
    "Modality": ["", "CT", ["CT", "MR"], "XX", "C*"],
    "ScheduledStationAETitle": ["", "CT_1", "MR_1", ["MR_1", "US_1"], '""', "*_1"],
    "ScheduledProcedureStepStartDate": ["", "20261121", "20261122-", "-20261121", "20261123"],
    "ScheduledProcedureStepStartTime": ["", "0930", "0800-1000"],
}


def plan(**keys: Any) -> Plan:
    whole = Asked(EXPLICIT, "DICOMNODE", tuple(State))
    identifier = asked(**UNICODE, RequestedProcedureID="", **keys)
    return make_plan(encoded(identifier), whole, Bounds(10_000, 100))


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorklistItems]:
    directory: Path = tmp_path_factory.mktemp("items")
    with Catalog(sqlite_url(directory), synchronous="OFF") as catalog:
        items = WorklistItems(catalog)
        items.put(
            [
                NewItem(key, "command", "", "", decode_attributes(encoded(ds), EXPLICIT))
                for number, values in enumerate(itertools.product(*VALUES.values()))
                for key in (str(number),)
                for ds in (scheduled(key, **UNICODE, **dict(zip(VALUES, values, strict=True))),)
            ]
        )
        yield items


@given(st.fixed_dictionaries({keyword: st.sampled_from(each) for keyword, each in ASKED.items()}))
def test_sql_and_the_rules_agree(items: WorklistItems, keys: dict[str, Any]) -> None:
    worked_out = plan(**keys)
    every = items.fetch(items.find(plan().narrowed))
    by_the_rules = {item.row_id for item in every if matches(worked_out, item.attributes)}
    found = set(items.find(worked_out.narrowed))
    assert found >= by_the_rules
    if worked_out.is_decided:
        assert found == by_the_rules


@pytest.mark.parametrize(
    ("keys", "is_decided"),
    [
        ({}, True),
        ({"Modality": "CT", "ScheduledProcedureStepStartDate": "20261121"}, True),
        ({"ScheduledStationAETitle": "CT_1"}, True),
        ({"ScheduledStationAETitle": "CT_*"}, False),
        ({"PatientName": "DOE*", "Modality": "C?"}, True),
        ({"PatientSex": "F"}, False),
        (
            {
                "ScheduledProcedureStepStartDate": "20261121-20261122",
                "ScheduledProcedureStepStartTime": "08-10",
            },
            False,
        ),
    ],
)
def test_what_sql_says_whole_is_decided_by_it(keys: dict[str, Any], is_decided: bool) -> None:
    assert plan(**keys).is_decided is is_decided


def test_what_is_matched_is_named() -> None:
    worked_out = plan(Modality="CT", PatientName="*", PatientID="1", Manufacturer="X")
    assert worked_out.matched == ("PatientID", "Modality")
    assert worked_out.unsupported == (0x00080070,)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_query_or_are_refused_with_a_status(data: bytes) -> None:
    with contextlib.suppress(StatusError):
        make_plan(data, Asked(EXPLICIT, "DICOMNODE", tuple(State)), Bounds(10_000, 100))


@given(st.data())
def test_a_damaged_query_is_a_query_or_is_refused_with_a_status(data: st.DataObject) -> None:
    keys = data.draw(st.fixed_dictionaries({k: st.sampled_from(v) for k, v in ASKED.items()}))
    damaged = bytearray(encoded(asked(**keys) or asked(PatientID="")))
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StatusError):
        make_plan(bytes(damaged), Asked(EXPLICIT, "DICOMNODE", tuple(State)), Bounds(10_000, 100))
