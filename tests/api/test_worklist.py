"""The worklist over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from dicomnode.api.access import Access
from dicomnode.api.worklist import worklist_routes
from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog
from dicomnode.index.steps import PerformedStep, Steps
from dicomnode.index.worklist import NewItem, State, WorklistItems
from dicomnode.observe.http import build_app
from dicomnode.observe.metrics import Metrics
from dicomnode.services.worklist_desk import WorklistDesk
from dicomnode.services.worklist_intake import WorklistIntake
from tests.worklist_data import worklist_json

TOKEN = "a-token-of-this-test"
ITEM = "/api/worklist/item-1"


class Served:
    """The routes on an index of their own."""

    def __init__(self, catalog: Catalog) -> None:
        self.items = WorklistItems(catalog)
        self.steps = Steps(catalog, self.items)
        desk = WorklistDesk(WorklistIntake(self.items, self.steps), self.steps)
        app: Starlette = build_app(
            Metrics(lambda title: False),
            dict,
            dict,
            list,
            worklist_routes(desk, Access((TOKEN,))),
        )
        self.app = app

    def request(
        self, method: str, path: str, *, authorization: str | None = f"Bearer {TOKEN}", **more: Any
    ) -> httpx.Response:
        """Make a request and wait for its answer."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            headers = {"Authorization": authorization} if authorization else {}
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                return await client.request(method, path, headers=headers, **more)

        return asyncio.run(asked())

    def put(self, path: str = ITEM, **values: Any) -> httpx.Response:
        return self.request("PUT", path, json=worklist_json(**values))

    def get(self, path: str = ITEM, **params: Any) -> Any:
        return self.request("GET", path, params=params or None).json()

    @property
    def keys(self) -> list[str]:
        return [item.key for item in self.items.listed(limit=100)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Catalog(f"sqlite:///{tmp_path / 'index.sqlite'}", synchronous="OFF") as catalog:
        yield Served(catalog)


def test_an_item_that_is_put_is_there_and_shown(served: Served) -> None:
    answer = served.put()
    assert answer.status_code == 201
    shown = served.get()
    assert shown["key"] == "item-1"
    assert shown["origin"] == "http"
    assert shown["state"] == "SCHEDULED"
    assert shown["patient_name"] == "Müller^Änne"
    assert shown["attributes"]["00100020"] == {"vr": "LO", "Value": ["P1"]}
    assert shown["performed_steps"] == []


def test_putting_it_again_replaces_it(served: Served) -> None:
    served.put()
    answer = served.put(PatientID="P2")
    assert (answer.status_code, answer.json()["patient_id"]) == (200, "P2")
    assert served.keys == ["item-1"]


def test_an_item_with_fewer_steps_than_before_leaves_none_behind(served: Served) -> None:
    two = worklist_json({}, {"ScheduledProcedureStepID": "SPS2"})
    assert served.request("PUT", ITEM, json=two).status_code == 201
    assert served.keys == ["item-1", "item-1#2"]
    served.put()
    assert served.keys == ["item-1"]


def test_an_item_that_is_removed_is_gone_with_all_its_steps(served: Served) -> None:
    served.request("PUT", ITEM, json=worklist_json({}, {"ScheduledProcedureStepID": "SPS2"}))
    answer = served.request("DELETE", ITEM)
    assert (answer.status_code, answer.content) == (204, b"")
    assert served.keys == []
    assert served.request("DELETE", ITEM).status_code == 404
    assert served.get() == {"error": "there is no worklist item item-1"}


def test_an_item_can_be_for_one_called_title(served: Served) -> None:
    served.put(f"{ITEM}?called_ae_title=WARD&origin=command")
    shown = served.get()
    assert (shown["called_ae_title"], shown["origin"]) == ("WARD", "command")


def test_performed_steps_are_shown_with_their_item(served: Served) -> None:
    served.put()
    scheduled = {
        "0020000D": {"vr": "UI", "Value": ["1.2.3.1"]},
        "00400009": {"vr": "SH", "Value": ["SPS1"]},
    }
    attributes = {
        "00400244": {"vr": "DA", "Value": ["20261121"]},
        "00400245": {"vr": "TM", "Value": ["093100"]},
        "00400270": {"vr": "SQ", "Value": [scheduled]},
    }
    served.steps.create(PerformedStep("1.9", State.IN_PROGRESS, attributes, "CT_1", 0.0, 0.0))
    shown = served.get()
    assert shown["state"] == "IN PROGRESS"
    (step,) = shown["performed_steps"]
    assert (step["status"], step["started"]) == ("IN PROGRESS", "20261121 093100")


def test_a_list_comes_in_pages(served: Served) -> None:
    for number in range(5):
        served.put(f"/api/worklist/item-{number}", StudyInstanceUID=f"1.2.3.{number}")
    seen, after, pages = [], "", 0
    while after is not None:
        page = served.get("/api/worklist", limit=2, after=after)
        seen += [item["key"] for item in page["items"]]
        after, pages = page["next"], pages + 1
    assert (seen, pages) == ([f"item-{number}" for number in range(5)], 3)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "1" * 5000, "²"])
def test_a_limit_that_is_none_is_told(served: Served, limit: str) -> None:
    answer = served.request("GET", "/api/worklist", params={"limit": limit})
    assert answer.status_code == 400
    assert answer.json() == {"error": "limit must be a number from 1 to 1000"}


@pytest.mark.parametrize("header", [None, "Bearer wrong"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/worklist"), ("GET", ITEM), ("PUT", ITEM), ("DELETE", ITEM)]
)
def test_nothing_is_shown_or_changed_without_a_token(
    served: Served, method: str, path: str, header: str | None
) -> None:
    served.put()
    answer = served.request(method, path, authorization=header)
    assert answer.status_code == 401
    assert "http.token" in answer.json()["error"]
    assert served.keys == ["item-1"]


def test_a_second_item_for_the_same_step_is_refused_and_changes_nothing(served: Served) -> None:
    served.put()
    served.put("/api/worklist/item-2", StudyInstanceUID="1.2.3.2")
    answer = served.put("/api/worklist/item-2")
    assert answer.status_code == 409
    assert "is for the same scheduled procedure step as item-1" in answer.json()["error"]
    assert served.get("/api/worklist/item-2")["study_instance_uid"] == "1.2.3.2"


def test_an_item_of_a_file_is_left_to_the_file(served: Served) -> None:
    served.items.put([NewItem("file:CT_1/a.wl", "file", "1", "CT_1", worklist_json())])
    path = "/api/worklist/file:CT_1/a.wl"
    assert served.get(path)["origin"] == "file"
    for answer in (served.request("DELETE", path), served.put(path)):
        assert answer.status_code == 409
        assert "the file CT_1/a.wl in worklist.directory" in answer.json()["error"]
    assert served.keys == ["file:CT_1/a.wl"]


@pytest.mark.parametrize("key", ["a b", "a%2F..%2Fb", "x" * 65, "ä", "a%23 2", "%00"])
def test_a_key_that_is_none_is_told(served: Served, key: str) -> None:
    answer = served.put(f"/api/worklist/{key}")
    assert answer.status_code == 400
    assert "the key must be" in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 100_000, "the body is not JSON"),
        (b"[]", "has no data set"),
        (b"7", "a data set must be a JSON object"),
        (b"{}", "Scheduled Procedure Step Sequence is missing or empty"),
        (b'{"PatientName": "A"}', "a key is no tag"),
    ],
)
def test_a_body_that_is_no_item_is_told(served: Served, body: bytes, words: str) -> None:
    answer = served.request("PUT", ITEM, content=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert served.keys == []


def test_a_body_that_is_too_long_is_not_taken_into_memory(served: Served) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1 << 24:
            sent += 1 << 16
            yield b" " * (1 << 16)

    answer = served.request("PUT", ITEM, content=endless())
    assert answer.status_code == 413
    assert sent < 1 << 22


@pytest.mark.parametrize(
    ("query", "words"),
    [("origin=file", "origin must be"), ("called_ae_title=../../x/../../../..", "no AE title")],
)
def test_a_query_that_is_wrong_is_told(served: Served, query: str, words: str) -> None:
    answer = served.put(f"{ITEM}?{query}")
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_an_index_that_fails_is_no_fault_of_the_request(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise CatalogError("index failed: disk full")

    monkeypatch.setattr(served.items, "put", fail)
    answer = served.put()
    assert answer.status_code == 503
    assert answer.json() == {"error": "index failed: disk full"}


def test_the_sentence_of_a_refusal_has_no_patient_in_it(served: Served) -> None:
    data_set = worklist_json()
    data_set["00100020"]["Value"] = ["SECRET" * 20]
    answer = served.request("PUT", ITEM, content=json.dumps(data_set))
    assert answer.status_code == 400
    assert "SECRET" not in answer.text
