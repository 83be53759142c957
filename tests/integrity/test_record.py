"""One custody record, and a run of them away from the index."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dicomnode.integrity.record import (
    CustodyRecord,
    Event,
    checked_details,
    details_text,
    faults,
    now,
)
from tests.integrity.chains import chain, digest, happening

DETAILS = {"calling_ae_title": 'CT "1"\\', "size": 7, "user": "Jürgen 患者 🩻\n\x7f"}


def three() -> list[CustodyRecord]:
    return chain([happening(1, **DETAILS), happening(2), happening(1, Event.DELETED, by="me")])


def test_a_record_is_hashed_as_canonical_json() -> None:
    for record in three():
        content = record.to_json()
        assert content.pop("hash") == digest(content) == record.digest()


def test_a_record_goes_through_json_unchanged() -> None:
    for record in three():
        assert CustodyRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_a_run_of_records_has_no_faults_whether_it_is_all_of_the_chain_or_not() -> None:
    records = three()
    assert not list(faults(records))
    assert not list(faults(records[1:]))
    assert not list(faults([records[0], records[2]]))


@pytest.mark.parametrize(
    "changed",
    [
        {"sequence": 7},
        {"at": "2026-01-31T12:00:00.000001Z"},
        {"event": Event.RETRIEVED},
        {"study_instance_uid": "1.2.4"},
        {"sop_instance_uid": "1.2.3.9"},
        {"details": {}},
        {"details": {**DETAILS, "size": "7"}},
        {"previous": "1" * 64},
        {"hash": "1" * 64},
    ],
    ids=lambda changed: "-".join(changed),
)
def test_a_changed_value_is_a_fault(changed: dict[str, Any]) -> None:
    first, *rest = three()
    assert list(faults([replace(first, **changed), *rest]))


def test_records_out_of_order_twice_or_not_following_one_another_are_faults() -> None:
    first, second, third = three()
    other = chain([happening(9), happening(2)])
    assert list(faults([second, first]))
    assert list(faults([first, first]))
    assert list(faults([first, other[1], third]))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"extra": 1},
        {"sequence": 0},
        {"sequence": True},
        {"sequence": 2**63},
        {"sequence": "1"},
        {"at": "2026-01-31T12:00:00Z"},
        {"at": 3},
        {"event": "sold"},
        {"event": []},
        {"study_instance_uid": ""},
        {"study_instance_uid": "../x"},
        {"sop_instance_uid": "x"},
        {"details": []},
        {"details": {"Key": 1}},
        {"details": {"key": 1.5}},
        {"details": {"key": True}},
        {"details": {"key": None}},
        {"details": {"key": "x" * 4097}},
        {"details": {"key": "\ud800"}},
        {"details": {"key": 2**63}},
        {"details": {f"key{number}": 1 for number in range(65)}},
        {"previous": "0" * 63},
        {"hash": "A" * 64},
        {"hash": 5},
    ],
    ids=str,
)
def test_what_is_no_record_is_refused(value: object) -> None:
    if isinstance(value, dict) and value:
        value = three()[0].to_json() | value
    with pytest.raises(ValueError, match=r"\w"):
        CustodyRecord.from_json(value)


def test_what_is_no_text_can_be_recorded_all_the_same() -> None:
    assert checked_details(json.loads(details_text({"user": "a\ud800b"}))) == {"user": "a?b"}


def test_times_are_in_utc_with_microseconds() -> None:
    assert CustodyRecord.from_json(three()[0].to_json() | {"at": now()})
