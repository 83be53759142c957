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
_PART_BYTES = 256 * 1024

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
    url, headers = _addressed(settings)
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


def _addressed(settings: Settings) -> tuple[str, dict[str, str]]:
    """Return where the running node of ``settings`` is, and the header that it lets in."""
    local = _local_token(settings)
    token = local.token if local is not None else settings.http.token
    url = url_of(settings, local.port if local is not None else 0)
    return url, {"Authorization": f"Bearer {token}"} if token else {}


class Streamed:
    """An answer that is read as it comes; raises NodeUnavailable when the node breaks off."""

    def __init__(
        self, url: str, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse
    ) -> None:
        self._url = url
        self._connection = connection
        self._answer = answer

    def header(self, name: str) -> str:
        """Return one of its headers, "" for none."""
        return self._answer.getheader(name, "")

    def read(self) -> bytes:
        """Return what comes next, b"" at the end."""
        try:
            return self._answer.read1(_PART_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _no_answer(self._url, error) from None

    def close(self) -> None:
        """Read no further."""
        self._connection.close()


def stream(settings: Settings, path: str, body: object, *, silent_seconds: float) -> Streamed:
    """POST ``body`` to the running node of ``settings``; return its answer as it comes.

    The node may say nothing for ``silent_seconds``. Raises NodeUnavailable, Refused.
    """
    url, headers = _addressed(settings)
    headers["Content-Type"] = "application/json"
    connection, prefix = _connection(url, silent_seconds)
    try:
        connection.request("POST", prefix + path, body=json.dumps(body).encode(), headers=headers)
        answer = connection.getresponse()
        if answer.status == 200:
            return Streamed(url, connection, answer)
        content = answer.read(_PART_BYTES)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise _no_answer(url, error) from None
    connection.close()
    try:
        words = json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        raise _no_dicomnode(url, answer.status) from None
    raise Refused(answer.status, str(words))


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
    connection, prefix = _connection(url, timeout_seconds)
    try:
        try:
            connection.request(method, prefix + path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _no_answer(url, error) from None
    try:
        return answer.status, json.loads(content)
    except ValueError:
        return answer.status, None


def _connection(url: str, timeout_seconds: float) -> tuple[http.client.HTTPConnection, str]:
    """Return what makes requests of ``url``, and what their paths begin with."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NodeUnavailable(f"--url must be such as http://127.0.0.1:8104, not {url!r}")
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        port = parts.port or 8104
    except ValueError as error:
        raise _no_answer(url, error) from None
    connection = kinds[parts.scheme](parts.hostname, port, timeout=timeout_seconds)
    return connection, parts.path.rstrip("/")


def _no_answer(url: str, error: Exception) -> NodeUnavailable:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return NodeUnavailable(f"no node answers at {url}: {why}")


def _no_dicomnode(url: str, status: int) -> NodeUnavailable:
    return NodeUnavailable(f"what answers at {url} is no dicomnode (HTTP {status})")


def moment(seconds: float) -> str:
    """Write a time, in seconds since the epoch, as the wall clock here shows it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
