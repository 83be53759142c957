"""Asking for storage commitment over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from dicomnode.api.access import Access
from dicomnode.api.commitment import commitment_routes
from dicomnode.errors import CannotAsk, CatalogError
from dicomnode.index.catalog import Catalog
from dicomnode.index.commitment_requests import CommitmentRequests, Outcome, State
from dicomnode.observe.http import build_app
from dicomnode.observe.metrics import Metrics

TOKEN = "a-token-of-this-test"
CT = "1.2.840.10008.5.1.4.1.1.2"
ASK = {"peer": "KEEPER", "study": "1.2.3"}


class Served:
    """The routes over an index of their own; it is the requester as well."""

    def __init__(self, catalog: Catalog) -> None:
        self.requests = CommitmentRequests(catalog)
        self.asked: list[tuple[str, str, str]] = []
        self.error: Exception | None = None
        requester: Any = SimpleNamespace(requests=self.requests, ask_for=self._ask_for)
        routes = commitment_routes(requester, Access((TOKEN,)))
        self._app = build_app(Metrics(lambda title: False), dict, dict, list, routes)

    async def _ask_for(self, peer: str, study: str, series: str) -> tuple[str, int]:
        if self.error is not None:
            raise self.error
        self.asked.append((peer, study, series))
        return "2.25.7", 12

    def request(
        self, method: str, path: str, *, authorization: str | None = f"Bearer {TOKEN}", **more: Any
    ) -> tuple[int, dict[str, Any]]:
        """Make a request; return status and body."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            headers = {"Authorization": authorization} if authorization else {}
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                return await client.request(method, path, headers=headers, **more)

        response = asyncio.run(asked())
        return response.status_code, response.json()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Catalog(f"sqlite:///{tmp_path / 'index.sqlite'}", synchronous="OFF") as catalog:
        yield Served(catalog)


def test_a_request_is_accepted_with_its_transaction_uid(served: Served) -> None:
    status, body = served.request("POST", "/api/commitments", json=ASK)
    assert (status, body) == (202, {"transaction_uid": "2.25.7", "total": 12})
    served.request("POST", "/api/commitments", json=ASK | {"series": "1.2.4"})
    assert served.asked == [("KEEPER", "1.2.3", ""), ("KEEPER", "1.2.3", "1.2.4")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(CannotAsk("no such peer"), 409), (CatalogError("disk full"), 503)],
)
def test_what_cannot_be_asked_is_said(served: Served, error: Exception, status: int) -> None:
    served.error = error
    answered = served.request("POST", "/api/commitments", json=ASK)
    assert answered == (status, {"error": str(error)})


@pytest.mark.parametrize(
    "body",
    [[], {}, {"peer": "KEEPER"}, {"study": "1.2"}, ASK | {"more": 1}, ASK | {"series": 4}],
)
def test_a_body_that_names_no_study_and_peer_is_refused(served: Served, body: object) -> None:
    status, answer = served.request("POST", "/api/commitments", json=body)
    assert status == 400 and "peer" in answer["error"] and served.asked == []


def test_without_a_token_nothing_is_asked_or_shown(served: Served) -> None:
    for method, path in (("POST", "/api/commitments"), ("GET", "/api/commitments/1.9")):
        assert served.request(method, path, authorization=None, json=ASK)[0] == 401
    assert served.asked == []


def test_a_request_is_shown_with_what_its_report_says(served: Served) -> None:
    instances = [(CT, "1.2.1"), (CT, "1.2.2"), (CT, "1.2.3")]
    served.requests.enter("1.9", "KEEPER", instances)
    served.requests.answered("1.9", State.WAITING)
    status, shown = served.request("GET", "/api/commitments/1.9")
    assert (status, shown["state"], shown["total"], shown["failed_list"]) == (200, "waiting", 3, [])
    served.requests.conclude(
        "1.9", Outcome(1, ((CT, "1.2.2", 0x0119),), ((CT, "1.2.3"),), "KEEPER", "digest")
    )
    _, shown = served.request("GET", "/api/commitments/1.9")
    counts = (shown["committed"], shown["failed"], shown["not_mentioned"])
    assert (shown["peer"], shown["state"], counts) == ("KEEPER", "partly", (1, 1, 1))
    assert shown["failed_list"] == [
        {
            "sop_class_uid": CT,
            "sop_instance_uid": "1.2.2",
            "reason": "0119H",
            "words": "0119H Class / Instance conflict",
        }
    ]
    assert shown["not_mentioned_list"] == [{"sop_class_uid": CT, "sop_instance_uid": "1.2.3"}]


def test_long_lists_are_cut(served: Served) -> None:
    failed = tuple((CT, f"1.2.{number}", 0x0112) for number in range(1001))
    served.requests.enter("1.9", "KEEPER", [each[:2] for each in failed])
    served.requests.conclude("1.9", Outcome(0, failed, (), "", "digest"))
    _, shown = served.request("GET", "/api/commitments/1.9")
    assert (shown["failed"], len(shown["failed_list"])) == (1001, 1000)


def test_a_transaction_that_is_not_known_is_not_found(served: Served) -> None:
    status, answer = served.request("GET", "/api/commitments/1.8")
    assert status == 404 and "no request with this Transaction UID" in answer["error"]
