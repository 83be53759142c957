"""``commit``: have another node confirm that it keeps what it was sent."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dicomnode.cli.asking import NodeUnavailable, Refused, call, moment, plain
from dicomnode.cli.common import EXIT_FAILED, ConfigOption, explained, fail
from dicomnode.settings import Settings, load_settings
from dicomnode.storage.paths import valid_uid

_POLL_SECONDS = 0.5
_MOST_ROWS = 50
_OPEN = ("asking", "waiting")


def commit(
    peer: Annotated[
        str, typer.Argument(metavar="PEER", help="AE title of the other node in ae.toml.")
    ] = "",
    study: Annotated[
        str, typer.Option(metavar="UID", help="Study Instance UID: all that is held of it.")
    ] = "",
    series: Annotated[
        str, typer.Option(metavar="UID", help="Series Instance UID: only this series of it.")
    ] = "",
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for the report.")
    ] = 60.0,
    show: Annotated[
        str, typer.Option(metavar="UID", help="Show an earlier request, by its Transaction UID.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object.")] = False,
    config: ConfigOption = None,
) -> None:
    """Ask another node to commit itself to keeping a study, and show its report.

    The running node asks, and takes the report whenever it comes. The exit code is 0 only when
    every object is committed.
    """
    if bool(show) == bool(peer):
        fail("give a PEER and --study, or --show with a Transaction UID")
    if peer and not study:
        fail("which study? give --study with its Study Instance UID")
    with explained():
        settings = load_settings(config)
        if show:
            shown = _request(settings, show)
        else:
            body = {"peer": peer, "study": study, "series": series}
            asked = call(settings, "POST", "/api/commitments", body)
            shown = _awaited(settings, asked, peer, wait)
        if as_json:
            typer.echo(json.dumps(shown, indent=2))
        else:
            for part in lines(shown):
                Console(highlight=False).print(part, soft_wrap=isinstance(part, Text))
    if shown["state"] != "committed":
        raise typer.Exit(EXIT_FAILED)


def _request(settings: Settings, transaction_uid: str) -> dict[str, Any]:
    if not valid_uid(transaction_uid):
        fail(f"{transaction_uid!r} is no UID")
    shown: dict[str, Any] = call(settings, "GET", f"/api/commitments/{transaction_uid}")
    return shown


def _awaited(
    settings: Settings, asked: dict[str, Any], peer: str, seconds: float
) -> dict[str, Any]:
    """Return the request once its report has come, and after ``seconds`` at the latest."""
    uid, deadline = asked["transaction_uid"], time.monotonic() + seconds
    console = Console(stderr=True)
    words = f"asked {peer} to commit {_objects(asked['total'])}, waiting for its report"
    try:
        with console.status(words):
            while True:
                shown = _request(settings, uid)
                left = deadline - time.monotonic()
                if shown["state"] not in _OPEN or left <= 0:
                    return shown
                time.sleep(min(_POLL_SECONDS, left))
    except (NodeUnavailable, Refused) as error:
        raise NodeUnavailable(f"{error}. The request stands. {_later(uid)}") from None
    except KeyboardInterrupt:
        console.print(Text(f"\nThe request stands. {_later(uid)}"), soft_wrap=True)
        sys.exit(130)


def lines(shown: dict[str, Any]) -> list[Text | Table]:
    """Lay out the object of /api/commitments/UID."""
    peer, uid = shown["peer"], shown["transaction_uid"]
    total = _objects(shown["total"])
    match shown["state"]:
        case "committed":
            return [plain(f"{peer} committed all {total}."), _transaction(shown)]
        case "refused":
            return [
                plain(f"{peer} was asked to commit {total}, but did not take the request:"),
                plain(shown["why"]),
                _transaction(shown),
            ]
        case "asking" | "waiting":
            has = "has not answered yet" if shown["state"] == "asking" else "has not reported yet"
            told = plain(f"{peer} was asked to commit {total}, and {has}.")
            return [told, plain(_later(uid)), _transaction(shown)]
        case _:
            told = plain(f"{peer} committed {shown['committed']:,} of {total}.")
            told.stylize("bold yellow")
            return [told, _failures(shown), *_more(shown), _transaction(shown)]


def _failures(shown: dict[str, Any]) -> Table:
    table = Table("not committed", "why")
    table.columns[0].overflow = "fold"
    for row in shown["failed_list"][:_MOST_ROWS]:
        table.add_row(plain(row["sop_instance_uid"]), plain(row["words"]))
    left = _MOST_ROWS - len(table.rows)
    for row in shown["not_mentioned_list"][:left]:
        table.add_row(plain(row["sop_instance_uid"]), "not mentioned in the report")
    return table


def _more(shown: dict[str, Any]) -> list[Text | Table]:
    """Say how many there are beside those of the table."""
    more = shown["failed"] + shown["not_mentioned"] - _MOST_ROWS
    if more <= 0:
        return []
    counts = f"{shown['failed']:,} failed, {shown['not_mentioned']:,} not mentioned in the report"
    return [plain(f"and {more:,} more: {counts}; --json lists up to 1,000 of each")]


def _transaction(shown: dict[str, Any]) -> Text:
    asked = moment(float(shown["asked_at"]))
    line = plain(f"transaction {shown['transaction_uid']}, asked {asked}")
    line.stylize("dim")
    return line


def _later(transaction_uid: str) -> str:
    return f"Look later with: dicomnode commit --show {transaction_uid}"


def _objects(number: int) -> str:
    return "1 object" if number == 1 else f"{number:,} objects"
