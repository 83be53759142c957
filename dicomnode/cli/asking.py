"""Asking a running node over HTTP, and showing what it says."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.text import Text

from dicomnode.cli.common import fail
from dicomnode.errors import DicomnodeError
from dicomnode.observe.logs import escape
from dicomnode.settings import Settings

_REQUEST_SECONDS = 5.0

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The node's HTTP address, such as http://10.0.0.5:8104."
    ),
]


class NodeUnavailable(DicomnodeError):
    """No node answered; the message says where it was asked."""


def url_of(settings: Settings) -> str:
    """Return where the node of ``settings`` serves HTTP, as seen from this machine."""
    served = settings.http
    if not served.enabled:
        fail("http.enabled is false in the settings, so the node shows nothing")
    if served.port == 0:
        fail("http.port is 0 in the settings; take the port from the node's log and give --url")
    host = served.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{served.port}"
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://[{host}]:{served.port}" if ":" in host else f"http://{host}:{served.port}"


def ask(url: str, path: str) -> dict[str, Any]:
    """Return the JSON object at ``path`` of the node at ``url``; raises NodeUnavailable."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NodeUnavailable(f"--url must be such as http://127.0.0.1:8104, not {url!r}")
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        connection = kinds[parts.scheme](
            parts.hostname, parts.port or 8104, timeout=_REQUEST_SECONDS
        )
        try:
            connection.request("GET", parts.path.rstrip("/") + path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NodeUnavailable(f"no node answers at {url}: {why}") from None
    try:
        shown = json.loads(body) if answer.status == 200 else None
    except ValueError:
        shown = None
    if not isinstance(shown, dict):
        raise NodeUnavailable(f"what answers at {url} is no dicomnode (HTTP {answer.status})")
    return shown


def moment(seconds: float) -> str:
    """Write a time, in seconds since the epoch, as the wall clock here shows it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def plain(value: object) -> Text:
    """Return ``value`` as text for the terminal: neither markup nor control, whoever sent it."""
    return Text(escape(str(value)))
