"""What /metrics, /healthz, /readyz, /api/status and /api/explain answer."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from dicomnode.observe import http, http_connections
from dicomnode.observe.http import HTTPServer, build_app
from dicomnode.observe.metrics import Metrics


def metrics() -> Metrics:
    return Metrics(lambda title: False)


def client(
    ready: object = None, status: object = None, explanations: object = ()
) -> httpx.AsyncClient:
    app = build_app(
        metrics(),
        ready or (lambda: {"storage": "ok"}),  # type: ignore[arg-type]
        status or (lambda: {"version": "1"}),  # type: ignore[arg-type]
        lambda: list(explanations),  # type: ignore[call-overload]
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://node")


Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def served(
    registry: CollectorRegistry | None = None, *routes: Route
) -> AsyncIterator[HTTPServer]:
    app = build_app(metrics(), lambda: {"storage": "ok"}, lambda: {"version": "1"}, list, routes)
    server = HTTPServer(app, "127.0.0.1", 0, registry)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def test_metrics_are_served_in_the_text_exposition_format() -> None:
    async with client() as http_client:
        answer = await http_client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "dicomnode_associations_active 0.0" in answer.text


async def test_health_is_ok_while_the_loop_turns() -> None:
    async with client() as http_client:
        answer = await http_client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_a_ready_node_answers_200_with_its_checks() -> None:
    async with client() as http_client:
        answer = await http_client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "failed": [], "checks": {"storage": "ok"}}


async def test_a_node_that_is_not_ready_answers_503_and_names_the_check_that_failed() -> None:
    async def ready() -> Mapping[str, str]:
        return {"storage": "ok", "index": "does not answer"}

    async with client(ready) as http_client:
        answer = await http_client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["failed"] == ["index"]
    assert answer.json()["checks"]["index"] == "does not answer"


async def test_checks_that_never_end_count_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_READY_SECONDS", 0.01)

    async def ready() -> Mapping[str, str]:
        await asyncio.Event().wait()
        return {}

    async with client(ready) as http_client:
        answer = await http_client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["failed"] == ["answer"]


async def test_a_check_that_breaks_counts_as_failed(caplog: pytest.LogCaptureFixture) -> None:
    def ready() -> Mapping[str, str]:
        raise LookupError("no such thing")

    async with client(ready) as http_client:
        answer = await http_client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["failed"] == ["answer"]
    assert "LookupError: no such thing" in caplog.text


async def test_status_is_json_from_a_function_or_a_coroutine_function() -> None:
    async def status() -> Mapping[str, object]:
        return {"draining": False}

    async with client(status=status) as http_client:
        assert (await http_client.get("/api/status")).json() == {"draining": False}
    async with client() as http_client:
        assert (await http_client.get("/api/status")).json() == {"version": "1"}


async def test_the_server_knows_the_port_it_got_and_answers_from_its_start() -> None:
    async with served() as server, httpx.AsyncClient(trust_env=False) as http_client:
        host, port = server.address
        assert (await http_client.get(f"http://{host}:{port}/healthz")).status_code == 200


async def test_the_server_gives_its_port_back_and_stopping_twice_is_harmless() -> None:
    async with served() as server:
        address = server.address
        await server.stop()
    with socket.create_server(address):
        pass


async def test_a_port_that_is_taken_is_an_os_error_that_names_the_settings() -> None:
    async with served() as server:
        second = HTTPServer(build_app(metrics(), dict, dict, list), *server.address)
        with pytest.raises(OSError, match=r"http\.port\): Address already in use"):
            await second.start()
        await second.stop()


async def test_explanations_are_the_list_that_the_node_gives() -> None:
    async with client(explanations=({"kind": "query"},)) as http_client:
        answer = await http_client.get("/api/explain")
    assert answer.json()["explanations"] == [{"kind": "query"}]


async def test_routes_of_others_are_served_and_every_refusal_has_one_form() -> None:
    async def refuse(request: Request) -> Response:
        raise HTTPException(409, "the item is a file's", headers={"X-Why": "file"})

    app = build_app(metrics(), dict, dict, list, [Route("/api/other", refuse)])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://node"
    ) as http_client:
        answer = await http_client.get("/api/other")
        assert (answer.status_code, answer.headers["x-why"]) == (409, "file")
        assert answer.json() == {"error": "the item is a file's"}
        answer = await http_client.get("/api/nothing")
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


async def connected(server: HTTPServer, said: bytes = b"") -> Peer:
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(said)
    await writer.drain()
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)


async def is_answered(server: HTTPServer) -> bool:
    async with httpx.AsyncClient(base_url="http://{}:{}".format(*server.address)) as client:
        return (await client.get("/healthz")).status_code == 200


def closed(registry: CollectorRegistry, reason: str) -> float | None:
    name = "dicomnode_http_connections_closed_total"
    return registry.get_sample_value(name, {"reason": reason})


async def test_whoever_is_silent_longest_gives_way_to_those_that_ask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connections, "_MOST_CONNECTIONS", 3)
    registry = CollectorRegistry()
    async with served(registry) as server:
        half = [await connected(server, b"GET / HTTP/1.1\r\nA: ") for _ in range(6)]
        for reader, _ in half[:3]:
            await ended(reader)
        assert closed(registry, "too many") == 3
        assert await is_answered(server)
        assert closed(registry, "too many") == 4
        for _, writer in half:
            writer.close()


async def test_a_request_that_never_becomes_whole_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connections, "_REQUEST_SECONDS", 0.2)
    registry = CollectorRegistry()
    async with served(registry) as server:
        # The second one has been answered once.
        asked = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"
        for said in (b"GET / HTTP/1.1\r\n", asked + b"GET"):
            reader, writer = await connected(server, said)
            await ended(reader)
            writer.close()
        assert closed(registry, "no whole request") == 2


async def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "_REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(http_connections, "_UNREAD_SECONDS", 0.2)
    registry, over = CollectorRegistry(), asyncio.Event()

    async def endless(request: Request) -> Response:
        async def content() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1024 * 1024)
                    await asyncio.sleep(0)
            finally:
                over.set()

        return StreamingResponse(content())

    async with served(registry, Route("/endless", endless)) as server:
        _, writer = await connected(server, b"GET /endless HTTP/1.1\r\nHost: node\r\n\r\n")
        await asyncio.wait_for(over.wait(), 10)
        assert closed(registry, "answer not read") == 1
        writer.close()


async def test_a_client_is_who_it_is_and_not_who_it_says_to_be() -> None:
    async def client(request: Request) -> Response:
        return Response(request.client.host if request.client else "")

    async with served(None, Route("/client", client)) as server:
        url = "http://{}:{}/client".format(*server.address)
        async with httpx.AsyncClient() as asking:
            answer = await asking.get(url, headers={"X-Forwarded-For": "203.0.113.9"})
    assert answer.text == "127.0.0.1"
