"""``retention``."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from dicomnode.cli.archive_access import archive_of
from dicomnode.cli.asking import moment
from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.cli.terminal import console, plain
from dicomnode.observe.words import counted, size

_MOST_ROWS: Final = 200


def retention(
    config: ConfigOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is due, when and why; delete nothing.")
    ] = False,
    within: Annotated[
        int,
        typer.Option(
            "--within", metavar="DAYS", min=0, max=3650, help="With --dry-run: and in so many days."
        ),
    ] = 0,
    run: Annotated[bool, typer.Option("--run", help="Apply the rules now.")] = False,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="Say that this machine's clock is right.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how it stands with the retention rules, or what they would delete."""
    if dry_run + run + trust_clock > 1:
        fail("give one of --dry-run, --run and --trust-clock")
    if within and not dry_run:
        fail("--within goes with --dry-run")
    with explained(), archive_of(config) as archive:
        if dry_run:
            shown = archive.retention_plan(within)
        elif run:
            shown = archive.retention_run()
        else:
            if trust_clock:
                archive.trust_clock()
            shown = archive.retention()
    if as_json:
        typer.echo(json.dumps(shown, indent=2))
    elif dry_run:
        _show_plan(shown)
    else:
        _show(shown)


def _show(shown: dict[str, Any]) -> None:
    if not shown["rules"]:
        typer.echo("there are no retention rules: nothing is deleted by itself")
        return
    if shown["clock"]:
        typer.echo(f"nothing is deleted: {shown['clock']}")
    table = Table("rule", "last run")
    for heading in ("deleted", "bytes", "held back"):
        table.add_column(heading, justify="right")
    table.add_column("for example")
    for row in shown["rules"]:
        table.add_row(
            plain(row["name"]),
            moment(row["last_run"]) if row["last_run"] else "never",
            f"{row['deleted']:,}",
            size(row["deleted_bytes"]),
            f"{row['held_back']:,}",
            plain(row["last_error"]),
        )
    console().print(table)
    if shown["running"]:
        typer.echo("the rules are being applied now")


def _show_plan(shown: dict[str, Any]) -> None:
    if shown["clock"]:
        typer.echo(f"nothing would be deleted: {shown['clock']}")
    listed = shown["listed"]
    if listed:
        table = Table("when", "received", "study", "rule")
        for heading in ("objects", "bytes"):
            table.add_column(heading, justify="right")
        table.add_column("why")
        for row in listed[:_MOST_ROWS]:
            table.add_row(
                _when(row, shown["now"]),
                moment(row["received_at"]),
                plain(row["study_instance_uid"]),
                plain(row["rule"]),
                f"{row['objects']:,}",
                size(row["bytes"]),
                plain(row["why"] if not row["held"] else f"stays: {row['held_why']}"),
            )
        console().print(table)
    if (more := len(listed) - min(len(listed), _MOST_ROWS) + shown["unlisted"]) > 0:
        typer.echo(f"and {counted(more, 'more', 'more')}: see --json")
    going = shown["going"]
    typer.echo(
        f"due now: {counted(going['studies'], 'study', 'studies')},"
        f" {counted(going['objects'], 'object', 'objects')}, {size(going['bytes'])};"
        f" free: {size(shown['free_bytes'])}"
    )


def _when(row: dict[str, Any], now: float) -> str:
    if row["goes"]:
        return "now"
    return (
        "held back"
        if row["due_at"] <= now
        else time.strftime("%Y-%m-%d", time.localtime(row["due_at"]))
    )
