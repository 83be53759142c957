"""``status``: what a running node does, from its /api/status."""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.errors import DicomnodeError
from dicomnode.observe.logs import duration, escape, size
from dicomnode.settings import Settings, load_settings

_REFRESH_SECONDS = 2.0
_REQUEST_SECONDS = 5.0
_MOST_ROWS = 15

Figures = Mapping[str, Any]


class StatusUnavailable(DicomnodeError):
    """No node answered; the message says where it was asked."""


def status(
    config: ConfigOption = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", help="The node's HTTP address, such as http://10.0.0.5:8104."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object and end.")] = False,
) -> None:
    """Show what a running node does.

    On a terminal the summary is kept up to date until Ctrl-C.
    """
    with explained():
        address = url or _url(load_settings(config))
        figures = fetch(address)
        if as_json:
            typer.echo(json.dumps(figures, indent=2))
            return
        console = Console()
        if once or not console.is_terminal:
            console.print(summary(figures))
            return
        _watch(console, address, figures)


def _watch(console: Console, address: str, figures: Figures) -> None:
    shown: RenderableType = summary(figures)
    with Live(shown, console=console, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(_REFRESH_SECONDS)
                try:
                    shown = summary(fetch(address))
                except StatusUnavailable as error:
                    # The node may be restarting: say so below the last figures and go on asking.
                    live.update(Group(shown, Text(str(error), style="red")), refresh=True)
                else:
                    live.update(shown, refresh=True)
        except KeyboardInterrupt:
            return


def _url(settings: Settings) -> str:
    """Return where the node of ``settings`` serves HTTP, as seen from this machine."""
    served = settings.http
    if not served.enabled:
        fail("http.enabled is false in the settings, so the node shows no status")
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


def fetch(url: str) -> dict[str, Any]:
    """Ask the node at ``url`` for its status; raises StatusUnavailable."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StatusUnavailable(f"--url must be such as http://127.0.0.1:8104, not {url!r}")
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    try:
        connection = kinds[parts.scheme](
            parts.hostname, parts.port or 8104, timeout=_REQUEST_SECONDS
        )
        try:
            connection.request("GET", parts.path.rstrip("/") + "/api/status")
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StatusUnavailable(f"no node answers at {url}: {why}") from None
    try:
        figures = json.loads(body) if answer.status == 200 else None
    except ValueError:
        figures = None
    if not isinstance(figures, dict):
        raise StatusUnavailable(f"what answers at {url} is no dicomnode (HTTP {answer.status})")
    return figures


def summary(figures: Figures) -> RenderableType:
    """Lay out ``figures``, the object of /api/status, for a terminal."""
    parts: list[RenderableType] = [_headline(figures), _archive(figures.get("archive", {}))]
    associations = figures.get("associations", [])
    if associations:
        parts += ["", _associations(associations)]
    else:
        parts += [Text("no association is open", style="dim")]
    if rejections := figures.get("last_rejections", []):
        parts += ["", _rejections(rejections)]
    if conflicts := figures.get("identity_conflict_list", []):
        parts += ["", _conflicts(conflicts)]
    return Group(*parts)


def _headline(figures: Figures) -> Text:
    line = Text(f"{_text(figures, 'ae_title')}", style="bold")
    line.append(f" on {_text(figures, 'host')}:{_text(figures, 'port')}", style="not bold")
    line.append(f", dicomnode {_text(figures, 'version')}", style="not bold")
    line.append(f", up {duration(float(figures.get('uptime_seconds', 0)))}", style="not bold")
    if figures.get("draining"):
        line.append(", shutting down", style="yellow")
    if figures.get("durability") == "relaxed":
        line.append(", durability relaxed", style="yellow")
    return line


def _archive(archive: Figures) -> RenderableType:
    def count(key: str) -> str:
        return f"{int(archive.get(key, 0)):,}"

    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left", "right"):
        table.add_column(justify=justify)
    table.add_row("patients", count("patients"), "objects", count("instances"))
    table.add_row("studies", count("studies"), "held", size(int(archive.get("bytes", 0))))
    table.add_row("series", count("series"), "free", size(int(archive.get("free_bytes", 0))))
    conflicts = int(archive.get("identity_conflicts", 0))
    if not conflicts:
        return table
    noun = "patient ID" if conflicts == 1 else "patient IDs"
    words = f"{conflicts} {noun} came with different names and birth dates (identity conflicts)"
    return Group(table, Text(words, style="bold yellow"))


def _associations(associations: list[Figures]) -> Table:
    title = f"open associations: {len(associations)}"
    table = Table("#", "calling AE", "from", title=title, title_justify="left")
    table.add_column("for", justify="right")
    table.add_column("operations", justify="right")
    for row in associations[:_MOST_ROWS]:
        table.add_row(
            _text(row, "number"),
            _text(row, "calling_ae_title"),
            _text(row, "peer_address"),
            duration(float(row.get("seconds", 0))),
            _text(row, "operations"),
        )
    return table


def _rejections(rejections: list[Figures]) -> Table:
    table = Table("time", "calling AE", "from", "why", title="last rejections")
    table.title_justify = "left"
    for row in rejections[-_MOST_ROWS:]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(row.get("time", 0))))
        table.add_row(
            when,
            _text(row, "calling_ae_title"),
            _text(row, "peer_address"),
            _text(row, "words"),
        )
    return table


def _conflicts(conflicts: list[Figures]) -> Table:
    keys = list(conflicts[0])
    table = Table(*(key.replace("_", " ") for key in keys), title="identity conflicts")
    table.title_justify = "left"
    for row in conflicts[:_MOST_ROWS]:
        table.add_row(*(_text(row, key) for key in keys))
    return table


def _text(row: Figures, key: str) -> Text:
    # Text, not str: what peers sent must not be read as Rich's markup.
    return Text(escape(str(row.get(key, "?"))))
