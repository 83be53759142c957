"""Asking a running node over HTTP, and showing what it says."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from dicomnode.api.token import LocalToken, read_token
from dicomnode.cli.common import fail
from dicomnode.cli.terminal import plain as plain
from dicomnode.errors import DicomnodeError
from dicomnode.settings import Settings

_REQUEST_SECONDS = 5.0
# A change waits for the disk, which may be busy.
_CALL_SECONDS = 30.0

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The node's HTTP address, such as http://10.0.0.5:8104."
    ),
]


class NodeUnavailable(DicomnodeError):
    """No node answered; the message says where it was asked."""


class Refused(DicomnodeError):
    """The node answered, and did not do what was asked; the message is its own sentence."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


def url_of(settings: Settings, known_port: int = 0) -> str:
    """Return where the node of ``settings`` serves HTTP, as seen from this machine.

    ``known_port`` is the port that a running node laid down, 0 where none did.
    """
    served = settings.http
    if not served.enabled:
        fail("http.enabled is false in the settings, so the node shows nothing")
    port = known_port or served.port
    if port == 0:
        fail("http.port is 0 in the settings; take the port from the node's log and give --url")
    host = served.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def ask(url: str, path: str) -> dict[str, Any]:
    """Return the JSON object at ``path`` of the node at ``url``; raises NodeUnavailable."""
    status, shown = _exchange(url, "GET", path, None, {}, _REQUEST_SECONDS)
    if status != 200 or not isinstance(shown, dict):
        raise _no_dicomnode(url, status)
    return shown


def ask_ready(url: str) -> dict[str, str]:
    """Return what keeps the node at ``url`` from being ready; raises NodeUnavailable."""
    status, shown = _exchange(url, "GET", "/readyz", None, {}, _REQUEST_SECONDS)
    checks = shown.get("checks") if isinstance(shown, dict) else None
    if status not in (200, 503) or not isinstance(checks, dict):
        raise _no_dicomnode(url, status)
    return {str(name): str(words) for name, words in checks.items() if words != "ok"}


def call(
    settings: Settings,
    method: str,
    path: str,
    body: object = None,
    *,
    timeout_seconds: float = _CALL_SECONDS,
) -> Any:
    """Have the running node of ``settings`` do something; return the JSON value it answers with.

    ``body`` is sent as JSON. None for an answer without a body. Raises NodeUnavailable when no
    node answers, Refused with the node's own sentence.
    """
    local = _local_token(settings)
    token = local.token if local is not None else settings.http.token
    url = url_of(settings, local.port if local is not None else 0)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    sent = None if body is None else json.dumps(body).encode()
    if sent is not None:
        headers["Content-Type"] = "application/json"
    status, shown = _exchange(url, method, path, sent, headers, timeout_seconds)
    if 200 <= status < 300:
        return shown
    words = shown.get("error") if isinstance(shown, dict) else None
    if not isinstance(words, str):
        raise _no_dicomnode(url, status)
    raise Refused(status, words)


def _local_token(settings: Settings) -> LocalToken | None:
    """Return what a running node laid down; None where there is none, or http.token will do."""
    try:
        return read_token(settings.storage.directory)
    except PermissionError as error:
        if settings.http.token:
            return None
        raise NodeUnavailable(
            f"{error.filename} may be read by the node's user alone: run this as that user, or set"
            " http.token"
        ) from None


def _exchange(
    url: str,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    timeout_seconds: float,
) -> tuple[int, Any]:
    """Make a request; return the status, and the JSON value or None for what is no JSON."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NodeUnavailable(f"--url must be such as http://127.0.0.1:8104, not {url!r}")
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        connection = kinds[parts.scheme](
            parts.hostname, parts.port or 8104, timeout=timeout_seconds
        )
        try:
            connection.request(method, parts.path.rstrip("/") + path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NodeUnavailable(f"no node answers at {url}: {why}") from None
    try:
        return answer.status, json.loads(content)
    except ValueError:
        return answer.status, None


def _no_dicomnode(url: str, status: int) -> NodeUnavailable:
    return NodeUnavailable(f"what answers at {url} is no dicomnode (HTTP {status})")


def moment(seconds: float) -> str:
    """Write a time, in seconds since the epoch, as the wall clock here shows it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
