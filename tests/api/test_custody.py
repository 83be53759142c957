"""The custody log over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from dicomnode.api.access import Access
from dicomnode.api.custody import custody_routes
from dicomnode.index.catalog import Catalog
from dicomnode.index.custody import Custody
from dicomnode.index.entry import InstanceRow
from dicomnode.integrity.record import CustodyRecord, faults
from dicomnode.observe.custody_metrics import CustodyMetrics
from dicomnode.observe.http import build_app
from dicomnode.observe.metrics import Metrics
from dicomnode.services.custody import Custodian
from dicomnode.services.custody_recorder import Recorder
from tests.index.entries import add, entry, sqlite_url

TOKEN = "a-token-of-this-test"
UID = "1.2.3.4.1"
TELL = {"event": "exported", "instances": [UID], "details": {"to": "/media/usb", "by": "jane"}}


class Served:
    """The routes over an index that holds the object ``UID``; ``custodian`` None: it is off."""

    def __init__(
        self, custodian: Custodian | None, catalog: Catalog, *, audits: bool = True
    ) -> None:
        self.audited: list[tuple[list[str], str]] = []
        audit = SimpleNamespace(enabled=audits)
        auditing: Any = SimpleNamespace(exported=self._exported, audit=audit)
        routes = custody_routes(custodian, catalog, auditing, Access((TOKEN,)))
        self._app = build_app(Metrics(lambda title: False), dict, dict, list, routes)

    def _exported(self, rows: list[InstanceRow], media: str) -> None:
        self.audited.append(([row.sop_instance_uid for row in rows], media))

    def request(self, method: str, path: str, token: str = TOKEN, **more: Any) -> tuple[int, Any]:
        """Make a request; return status and body."""

        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                return await client.request(method, path, headers=headers, **more)

        response = asyncio.run(asked())
        return response.status_code, response.json()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        add(catalog, entry(1))
        custody = Custody(catalog)
        log: Any = None
        recorder = Recorder(custody.append, log, CustodyMetrics(CollectorRegistry()))
        yield Served(Custodian(custody, recorder, catalog), catalog)


def test_what_a_command_tells_is_recorded_and_shown(served: Served) -> None:
    told = TELL | {"instances": [UID, "1.2.9", UID]}
    assert served.request("POST", "/api/custody", json=told) == (
        200,
        {"recorded": 1, "not_held": ["1.2.9"]},
    )
    for event in ("forwarded", "verified"):
        told = {"event": event, "instances": [UID]}
        assert served.request("POST", "/api/custody", json=told)[0] == 200
    status, shown = served.request("GET", f"/api/instances/{UID}/custody")
    records = [CustodyRecord.from_json(each) for each in shown["records"]]
    assert status == 200 and not list(faults(records))
    assert [record.event for record in records] == ["exported", "forwarded", "verified"]
    assert records[0].study_instance_uid == "1.2.3"
    assert records[0].details == {"to": "/media/usb", "by": "jane", "told_over": "HTTP"}
    assert served.audited == [([UID], "/media/usb")]


def test_nobody_is_let_in_without_a_token(served: Served) -> None:
    assert served.request("POST", "/api/custody", token="guessed", json=TELL)[0] == 401
    assert served.request("GET", f"/api/instances/{UID}/custody", token="guessed")[0] == 401


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        TELL | {"more": 1},
        TELL | {"event": "received"},
        TELL | {"event": "deleted"},
        TELL | {"event": []},
        TELL | {"instances": UID},
        TELL | {"instances": []},
        TELL | {"instances": ["../etc"]},
        TELL | {"instances": [1]},
        TELL | {"instances": ["1.2"] * 10_001},
        TELL | {"details": []},
        TELL | {"details": {"To": "x"}},
        TELL | {"details": {"to": ["x"]}},
        TELL | {"details": {"to": "x" * 1025}},
        TELL | {"details": {f"detail{number}": 1 for number in range(17)}},
    ],
    ids=lambda wrong: str(wrong)[:60],
)
def test_what_is_not_understood_is_refused_and_not_recorded(served: Served, wrong: object) -> None:
    status, answer = served.request("POST", "/api/custody", json=wrong)
    assert status == 400 and answer["error"]
    assert served.request("GET", f"/api/instances/{UID}/custody")[0] == 404


def test_a_body_that_is_too_long_is_not_read(served: Served) -> None:
    told = TELL | {"details": {"to": "x" * 1024 * 1024}}
    assert served.request("POST", "/api/custody", json=told)[0] == 413


def test_what_is_no_uid_or_of_no_object_is_said_to_be(served: Served) -> None:
    assert served.request("GET", "/api/instances/x/custody")[0] == 400
    assert served.request("GET", "/api/instances/1.2.9/custody")[0] == 404


def test_a_node_that_records_nothing_says_so_and_audits_exports(tmp_path: Path) -> None:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        add(catalog, entry(1))
        silent = Served(None, catalog, audits=False)
        status, answer = silent.request("POST", "/api/custody", json=TELL)
        assert status == 409 and "custody.enabled is false" in answer["error"]
        served = Served(None, catalog)
        told = TELL | {"instances": [UID, "1.2.9"]}
        status, answer = served.request("POST", "/api/custody", json=told)
        assert (status, answer) == (200, {"recorded": 0, "not_held": ["1.2.9"]})
        assert served.audited == [([UID], "/media/usb")]
        verified = TELL | {"event": "verified"}
        assert served.request("POST", "/api/custody", json=verified)[0] == 409
