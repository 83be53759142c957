"""What is served over HTTP: /metrics, /healthz, /readyz, /api/status, /api/explain, and routes of
others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from dicomnode.observe.http_connections import bounded_protocol
from dicomnode.observe.metrics import Metrics

OK = "ok"
"""What a readiness check that passes says; anything else says what is wrong."""

_READY_SECONDS = 5.0
_STOP_SECONDS = 5

_T = TypeVar("_T")

Checks = Mapping[str, str]
Figures = Mapping[str, Any]


def build_app(
    metrics: Metrics,
    ready: Callable[[], Checks | Awaitable[Checks]],
    status: Callable[[], Figures | Awaitable[Figures]],
    explain: Callable[[], Sequence[Figures] | Awaitable[Sequence[Figures]]],
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Make the application, with the ``routes`` of others beside its own.

    ``ready`` maps the name of each check (storage, index, draining) to "ok" or to what is wrong;
    ``status`` is the summary of /api/status, ``explain`` the list of /api/explain, newest first.
    All are called on the event loop, and may be coroutine functions.
    """

    async def show_metrics(request: Request) -> Response:
        # Off the loop: the sources may ask the disk.
        text = await run_in_threadpool(metrics.render)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def show_health(request: Request) -> Response:
        return PlainTextResponse(f"{OK}\n")

    async def show_readiness(request: Request) -> Response:
        try:
            async with asyncio.timeout(_READY_SECONDS):
                checks = dict(await _called(ready))
        except TimeoutError:
            checks = {"answer": f"the checks took more than {_READY_SECONDS:g} s"}
        except Exception:
            # A check that breaks is a node that is not ready, told in the same form.
            logging.getLogger(__name__).exception("a readiness check failed")
            checks = {"answer": "a check failed unexpectedly; the log has its traceback"}
        failed = [name for name, words in checks.items() if words != OK]
        body = {"ready": not failed, "failed": failed, "checks": checks}
        return JSONResponse(body, status_code=503 if failed else 200)

    async def show_status(request: Request) -> Response:
        return JSONResponse(dict(await _called(status)))

    async def show_explanations(request: Request) -> Response:
        return JSONResponse({"time": time.time(), "explanations": list(await _called(explain))})

    return Starlette(
        routes=[
            Route("/metrics", show_metrics),
            Route("/healthz", show_health),
            Route("/readyz", show_readiness),
            Route("/api/status", show_status),
            Route("/api/explain", show_explanations),
            *routes,
        ],
        exception_handlers={HTTPException: _refused},
    )


async def _refused(request: Request, error: Exception) -> Response:
    """Say what is wrong with a request in the form of every other answer."""
    assert isinstance(error, HTTPException)
    return JSONResponse(
        {"error": error.detail}, status_code=error.status_code, headers=error.headers
    )


async def _called(function: Callable[[], _T | Awaitable[_T]]) -> _T:
    outcome = function()
    return await outcome if isinstance(outcome, Awaitable) else outcome


class _Server(uvicorn.Server):
    """uvicorn's server without its hold on SIGINT and SIGTERM, which are the node's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class HTTPServer:
    """Serves ``app`` with uvicorn in the running loop; leaves the process's signals alone.

    ``registry`` takes the counter of connections that are closed.
    """

    def __init__(
        self, app: ASGIApp, host: str, port: int, registry: CollectorRegistry | None = None
    ) -> None:
        self._app = app
        self._registry = registry or CollectorRegistry()
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that it listens on; valid after ``start``."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return host, port

    async def start(self) -> None:
        """Listen and serve; raises OSError when the address cannot be had."""
        # Listening before uvicorn runs, so that whoever connects from now on is answered.
        self._socket = await _listening_socket(self._host, self._port)
        config = uvicorn.Config(
            self._app,
            http=cast(type[asyncio.Protocol], bounded_protocol(self._registry)),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            # Whoever asks is named in the audit trail: not by a header that it may write itself.
            proxy_headers=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        self._server = _Server(config)
        serving = self._server.serve(sockets=[self._socket])
        self._task = asyncio.create_task(serving, name="http")

    async def stop(self) -> None:
        """Stop listening, finish what is being answered, close; harmless when not started."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server = self._task = None


async def _listening_socket(host: str, port: int) -> socket.socket:
    """Listen on the first address that ``host`` has; port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    listening: socket.socket | None = None
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        if listening is not None:
            listening.close()
        words = f"cannot serve HTTP on {host}:{port} (http.host, http.port): {error.strerror}"
        raise OSError(error.errno, words) from None
    return listening
