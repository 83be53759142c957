"""Deleting over HTTP: who may, and what is no order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.cli.asking import Refused, call
from dicomnode.settings import load_settings
from tests.conftest import RunningNode
from tests.faults.scu import Image, store
from tests.peers import eventually, http_request, node_process

STUDY = {"level": "study", "values": [Image(1).study_uid]}
ORDER = STUDY | {"dry_run": False, "mark": "x", "reason": "old", "asked_by": "jane"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with node_process(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/delete"),
        ("GET", "/api/deletions"),
        ("GET", "/api/deletions/1"),
        ("GET", "/api/retention"),
        ("GET", "/api/retention/plan"),
        ("POST", "/api/retention/run"),
        ("POST", "/api/retention/trust-clock"),
    ],
)
def test_without_a_token_nothing_is_shown_or_deleted(
    node: RunningNode, method: str, path: str
) -> None:
    assert http_request(node.http_address, method, path, b"{}")[0] == 401


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ([], 400, "must be a JSON object"),
        ({}, 400, "level must be one of patient, study, series, instance"),
        ({"level": "study", "values": []}, 400, "values must be a list of 1 to 500"),
        ({"level": "study", "values": [1]}, 400, "values must be a list"),
        ({"level": "patient", "values": [" "]}, 400, "values must be a list"),
        ({"level": "study", "values": ["1"] * 501}, 400, "values must be a list"),
        (ORDER | {"reason": " "}, 400, "reason must be a text of 1 to 500 characters"),
        (ORDER | {"reason": "a\nb"}, 400, "reason must be printable"),
        (ORDER | {"asked_by": "x" * 65}, 400, "asked_by must be a text of 1 to 64"),
        (ORDER | {"values": ["9.9"]}, 409, "nothing is held of study 9.9"),
        (ORDER | {"values": ["x" * 70_000]}, 413, "longer than"),
    ],
)
def test_what_is_no_order_is_refused_with_the_reason(
    node: RunningNode, body: object, status: int, words: str
) -> None:
    with pytest.raises(Refused, match=words) as refused:
        call(load_settings(node.config), "POST", "/api/delete", body)
    assert refused.value.status == status


def test_a_body_that_does_not_say_otherwise_deletes_nothing(node: RunningNode) -> None:
    store(node.dicom_address, Image(1), Image(2))
    settings = load_settings(node.config)
    plan = call(settings, "POST", "/api/delete", STUDY)
    assert plan["objects"] == 2 and call(settings, "GET", "/api/deletions") == {"deletions": []}
    with pytest.raises(Refused, match="what would go has changed: now it is 2 objects"):
        call(settings, "POST", "/api/delete", ORDER)
    order = call(settings, "POST", "/api/delete", ORDER | {"mark": plan["mark"]})
    path = f"/api/deletions/{order['id']}"
    eventually(lambda: call(settings, "GET", path)["ended_at"])
    (shown,) = call(settings, "GET", "/api/deletions")["deletions"]
    assert (shown["deleted"], shown["reason"], shown["asked_by"]) == (2, "old", "jane")
    with pytest.raises(Refused, match="no such deletion"):
        call(settings, "GET", "/api/deletions/99")
    with pytest.raises(Refused, match="within_days must be a number from 0"):
        call(settings, "GET", "/api/retention/plan?within_days=-1")


def test_reasons_are_not_shown_to_whoever_asks_for_the_status(
    node: RunningNode, tmp_path: Path
) -> None:
    status, body = http_request(node.http_address, "GET", "/api/status")
    assert status == 200 and b'"deletions":[]' in body and b"jane" not in body
