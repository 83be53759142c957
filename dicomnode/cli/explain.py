"""``explain``: what a running node refused or could not give, why, and what to change."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from dicomnode.cli.asking import UrlOption, ask, moment, plain, url_of
from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.settings import load_settings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NOT_SELECTED = "Nothing to explain of that time and AE."
_NOTHING = (
    "Nothing to explain: since it started the node has refused nothing, every query and"
    " retrieval gave what was asked for, and what is forwarded reaches its destinations."
)


def explain(
    config: ConfigOption = None,
    url: UrlOption = None,
    last: Annotated[
        str | None,
        typer.Option("--last", metavar="TIME", help="Only of the last 90s, 15m, 1h or 2d."),
    ] = None,
    ae: Annotated[
        str | None, typer.Option("--ae", metavar="TITLE", help="Only what concerns this AE.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="N", min=1, help="Show so many at most.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object.")] = False,
) -> None:
    """Explain empty queries, failed operations, refusals, retries, and what is not forwarded.

    Newest first: when, who, what was asked, what was received, why it was not given, what to
    change, and where that stands. What came again and again is told once.
    """
    with explained():
        seconds = _seconds(last) if last is not None else None
        told = ask(url or url_of(load_settings(config)), "/api/explain")
        since = float(told.get("time", time.time())) - seconds if seconds is not None else 0.0
        entries = [
            entry
            for entry in told.get("explanations", [])
            if float(entry.get("time", 0)) >= since and (ae is None or _concerns(entry, ae))
        ][:limit]
        if as_json:
            typer.echo(json.dumps(told | {"explanations": entries}, indent=2))
            return
        console = Console(highlight=False)
        for line in lines(entries, selected=last is not None or ae is not None):
            # Not broken by us: a terminal wraps, and a pipe gets whole lines.
            console.print(line, soft_wrap=True)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,9})\s*([smhd])", text.strip().lower())
    if found is None:
        fail(f"--last must be a time such as 90s, 15m, 1h or 2d, not {text!r}; -n says how many")
    return int(found[1]) * _UNITS[found[2]]


def _concerns(entry: Mapping[str, Any], title: str) -> bool:
    """Tell whether an AE asked, or what was asked is about it."""
    wanted = title.strip().casefold()
    if str(entry.get("calling_ae_title", "")).strip().casefold() == wanted:
        return True
    return (
        re.search(
            rf"(?<![\w-]){re.escape(wanted)}(?![\w-])", str(entry.get("asked", "")).casefold()
        )
        is not None
    )


def lines(entries: list[dict[str, Any]], *, selected: bool = False) -> list[Text]:
    """Lay out the objects of /api/explain as lines; ``selected``: there may be others."""
    if not entries:
        return [Text(_NOT_SELECTED if selected else _NOTHING)]
    shown: list[Text] = []
    for entry in entries:
        shown += [*_paragraph(entry), Text()]
    return shown[:-1]


def _paragraph(entry: Mapping[str, Any]) -> list[Text]:
    head = Text(moment(float(entry.get("time", 0))), style="dim")
    who = f"{entry.get('calling_ae_title', '?')}"
    if address := entry.get("peer_address", "?"):  # none when there is no association any more
        who += f" ({address})"
    head.append_text(plain(f"  {who}: {entry.get('asked', '?')}")).stylize("bold", 19)
    answer = Text("    ")
    answer.append_text(plain(entry.get("answer", "?"))).stylize("yellow")
    if (count := int(entry.get("count", 1))) > 1:
        answer.append(f", {count} times since {moment(float(entry.get('first_time', 0)))}")
    reasons = [Text("    why: ").append_text(_reason(each)) for each in entry.get("reasons", [])]
    advice = [
        Text("    do:  ", style="green").append_text(plain(sentence))
        for sentence in entry.get("advice", [])
    ]
    received = (
        [Text("    got: ").append_text(plain(words))] if (words := entry.get("received")) else []
    )
    places = [
        Text("    at:  ", style="cyan").append_text(plain(place_in_words(place)))
        for place in entry.get("configuration", [])
    ]
    return [head, answer, *received, *reasons, *advice, *places]


def place_in_words(place: Mapping[str, Any]) -> str:
    """Say where something is configured, what it is now, or what to write."""
    where, key, title = place.get("where", "?"), place.get("key"), place.get("title")
    of = f" of {title}" if title else ""
    if key is None:
        return f"{where}: " + (f"write {place['write']}" if place.get("write") else f"[[ae]]{of}")
    if place.get("is_set"):
        return f"{where}: {key} = {place.get('value')}{of}"
    value = place.get("value")
    now = f" is not set, so it is {value}" if value is not None else f"{of} is not set"
    return f"{where}: {key}{now}; write {place.get('write', 'it there')}"


def _reason(reason: Mapping[str, Any]) -> Text:
    value = reason.get("patient_value")
    return plain(f"{reason.get('words', '?')}" + (f" ({value})" if value else ""))
