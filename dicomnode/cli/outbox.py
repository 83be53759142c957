"""``outbox list``, ``retry`` and ``drop``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicomnode.cli.asking import call, moment, plain
from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.observe.words import duration
from dicomnode.settings import load_settings

_MOST_ROWS = 200
# Of a pipe, which has no width of its own.
_PIPE_COLUMNS = 200

outbox = typer.Typer(
    help="Show what waits to be sent on, send it again, or drop it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

DestinationOption = Annotated[
    str | None,
    typer.Option("--destination", metavar="TITLE", help="Only what goes to this AE title."),
]


@outbox.command("list")
def list_objects(
    config: ConfigOption = None,
    destination: DestinationOption = None,
    dead: Annotated[
        bool, typer.Option("--dead", help="List what has been set aside, and why.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the destinations: what waits for each, since when, and why."""
    with explained():
        settings = load_settings(config)
        if dead:
            query = f"?destination={quote(destination)}" if destination else ""
            shown = call(settings, "GET", f"/api/outbox/dead{query}")["objects"]
        else:
            shown = call(settings, "GET", "/api/outbox")["destinations"]
            shown = [each for each in shown if destination in (None, each["destination"])]
        if as_json:
            typer.echo(json.dumps(shown, indent=2))
            return
        if not shown:
            typer.echo("nothing has been set aside" if dead else "nothing is sent on")
            return
        console = Console()
        if not console.is_terminal:
            console = Console(width=_PIPE_COLUMNS)
        console.print((_dead_objects if dead else _destinations)(shown[:_MOST_ROWS]))
        if (more := len(shown) - _MOST_ROWS) > 0:
            typer.echo(f"and {more} more: use --destination or --json")


@outbox.command()
def retry(config: ConfigOption = None, destination: DestinationOption = None) -> None:
    """Send now what waits for a time or has been set aside.

    What has been set aside is tried as often as if it were new.
    """
    with explained():
        settings = load_settings(config)
        told = call(settings, "POST", "/api/outbox/retry", {"destination": destination})
        _tell("sent again now", told["retried"])


@outbox.command()
def drop(
    config: ConfigOption = None,
    destination: DestinationOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Drop what still waits as well, not the dead alone.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Forget what has been set aside: it is not sent any more.

    Objects and performed steps themselves stay in the archive.
    """
    what = "all that waits" if everything else "what has been set aside"
    where = f"for {destination}" if destination else "for every destination"
    if not yes:
        if not sys.stdin.isatty():
            fail(f"this drops {what} {where}; give --yes")
        typer.confirm(f"Drop {what} {where}?", abort=True)
    with explained():
        settings = load_settings(config)
        body = {"destination": destination, "dead_only": not everything}
        told = call(settings, "POST", "/api/outbox/drop", body)
        _tell("dropped", told["dropped"])


def _tell(done: str, counts: Mapping[str, int]) -> None:
    for title, count in counts.items():
        if count:
            typer.echo(f"{title}: {count:,} {done}")
    if not any(counts.values()):
        typer.echo(f"nothing {done}")


def _destinations(rows: list[dict[str, Any]]) -> Table:
    table = Table("destination")
    for heading in ("waiting", "for their study", "to be committed", "reports", "dead"):
        table.add_column(heading, justify="right")
    for heading in ("oldest", "state", "last error"):
        table.add_column(heading)
    for row in rows:
        objects, reports = row["objects"], row["reports"]
        waiting = objects["ready"] + objects["paused"]
        dead = objects["dead"] + reports["dead"]
        counts = (waiting, objects["unsettled"], objects["sent"], reports["waiting"], dead)
        table.add_row(
            plain(row["destination"]),
            *(f"{count:,}" if count else "" for count in counts),
            _age(row["oldest"]),
            _state(row),
            plain(row["last_error"]),
        )
    return table


def _state(row: Mapping[str, Any]) -> Text:
    if row["down_since"] is None:
        return Text("ok", style="green")
    pause = max(row["next_attempt"] - time.time(), 0.0)
    return Text(f"down for {_age(row['down_since'])}, tried in {duration(pause)}", style="red")


def _dead_objects(rows: list[dict[str, Any]]) -> Table:
    table = Table("destination", "what", "UID", "rule", "queued", "attempts", "last error")
    for row in rows:
        table.add_row(
            plain(row["destination"]),
            plain(row["what"]),
            plain(row.get("sop_instance_uid") or row.get("transaction_uid", "")),
            plain(row["rule"]),
            moment(row["queued_at"]),
            str(row["attempts"]),
            plain(row["last_error"]),
        )
    return table


def _age(since: float | None) -> str:
    return "" if since is None else duration(max(time.time() - since, 0.0))
