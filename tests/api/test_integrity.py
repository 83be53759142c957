"""Digests and the scrub over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dicomnode.api.access import Access
from dicomnode.api.integrity import integrity_routes
from dicomnode.observe.http import build_app
from dicomnode.observe.metrics import Metrics
from dicomnode.services.scrub import Scrub
from tests.services.scrubbing import Bench
from tests.storage.damage import flip_bit

TOKEN = "a-token-of-this-test"


class Served:
    """The routes over an archive of their own."""

    def __init__(self, directory: Path) -> None:
        self.bench = Bench(directory)
        self.bench.open()
        self.path = self.bench.put(1)
        self.bench.index()
        self.scrub: Scrub = self.bench.scrub()
        routes = integrity_routes(self.bench.catalog, self.scrub, Access((TOKEN,)))
        self._app = build_app(Metrics(lambda title: False), dict, dict, list, routes)

    async def request(self, method: str, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
        transport = httpx.ASGITransport(self._app)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            answer = await client.request(method, path, headers=headers, **more)
        return answer.status_code, answer.json()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.bench.close()


async def test_a_study_is_read_at_once_and_what_is_not_whole_is_named(served: Served) -> None:
    flip_bit(served.bench.path(served.path), 0)
    status, shown = await served.request("POST", "/api/scrub", json={"study": "1.2.3"})
    assert (status, shown["objects"]) == (200, 1)
    assert [each["path"] for each in shown["files"]] == [served.path]
    status, shown = await served.request("GET", "/api/scrub")
    assert (status, shown["scrub"]["not_whole"]["damaged"]) == (200, 1)


async def test_a_run_through_everything_is_only_begun(served: Served) -> None:
    assert (await served.request("POST", "/api/scrub", json={}))[0] == 202


@pytest.mark.parametrize(
    ("body", "status"),
    [([], 400), ({"study": "x/y"}, 400), ({"series": "1.2"}, 400), ({"study": "9.9"}, 404)],
)
async def test_what_cannot_be_read_is_refused(served: Served, body: Any, status: int) -> None:
    assert (await served.request("POST", "/api/scrub", json=body))[0] == status


async def test_digests_are_those_of_the_index(served: Served) -> None:
    row = served.bench.catalog.get("1.2.3.4.1")
    assert row is not None
    status, shown = await served.request("GET", "/api/instances/1.2.3.4.1/digest")
    assert status == 200
    assert (shown["file_sha256"], shown["data_set_sha256"]) == (row.file_sha256, row.sha256)
    assert (await served.request("GET", "/api/instances/1.2.3.4.9/digest"))[0] == 404
