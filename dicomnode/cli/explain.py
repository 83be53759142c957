"""``explain``: what a running node refused or could not give, why, and what to change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from dicomnode.cli.asking import UrlOption, ask, moment, plain, url_of
from dicomnode.cli.common import ConfigOption, explained
from dicomnode.settings import load_settings

_NOTHING = (
    "Nothing to explain: since it started the node has refused nothing, every query and"
    " retrieval gave what was asked for, and what is forwarded reaches its destinations."
)


def explain(
    config: ConfigOption = None,
    url: UrlOption = None,
    last: Annotated[
        int, typer.Option("--last", "-n", metavar="N", min=1, help="Show so many at most.")
    ] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object.")] = False,
) -> None:
    """Explain the last empty queries, failed retrievals, refusals, and what is not forwarded.

    Newest first: when, who, what was asked, why it was not given, and what to change. What came
    again and again is told once.
    """
    with explained():
        told = ask(url or url_of(load_settings(config)), "/api/explain")
        entries = told.get("explanations", [])[:last]
        if as_json:
            typer.echo(json.dumps(told | {"explanations": entries}, indent=2))
            return
        console = Console(highlight=False)
        for line in lines(entries):
            # Not broken by us: a terminal wraps, and a pipe gets whole lines.
            console.print(line, soft_wrap=True)


def lines(entries: list[dict[str, Any]]) -> list[Text]:
    """Lay out the objects of /api/explain as lines."""
    if not entries:
        return [Text(_NOTHING)]
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
    return [head, answer, *reasons, *advice]


def _reason(reason: Mapping[str, Any]) -> Text:
    value = reason.get("patient_value")
    return plain(f"{reason.get('words', '?')}" + (f" ({value})" if value else ""))
