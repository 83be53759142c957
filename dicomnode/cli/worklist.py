"""``worklist add``, ``list``, ``show``, ``remove`` and ``query``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.cli.worklist_access import worklist_of
from dicomnode.cli.worklist_query import query
from dicomnode.cli.worklist_source import (
    Described,
    described_item,
    file_item,
    file_key,
    new_key,
)
from dicomnode.cli.worklist_tables import item_view, listing, written_moment
from dicomnode.settings import load_settings

_MOST_ROWS = 200
# Of a pipe, which has no width of its own.
_PIPE_COLUMNS = 200

worklist = typer.Typer(
    help="Show and change the worklist of the node, whether it runs or not, and query others.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _option(help: str, *names: str, metavar: str = "TEXT") -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, metavar=metavar, help=help)
    return option


@worklist.command()
def add(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Worklist files: DICOM, or *.json (PS3.18 F)."),
    ] = None,
    config: ConfigOption = None,
    patient_name: Annotated[str, _option("As in DICOM: Family^Given.")] = "",
    patient_id: Annotated[str, _option("Patient ID.")] = "",
    birth_date: Annotated[str, _option("Such as 1970-01-31.")] = "",
    sex: Annotated[str, _option("M, F or O.")] = "",
    accession: Annotated[str, _option("Accession number.")] = "",
    modality: Annotated[str, _option("Such as CT.")] = "",
    station: Annotated[str, _option("AE title of the modality; several with commas.")] = "",
    start: Annotated[str, _option('Such as "2026-11-21 09:30".')] = "",
    description: Annotated[str, _option("What is to be done.")] = "",
    physician: Annotated[str, _option("Who is to perform it.")] = "",
    called: Annotated[
        str, _option("Show it only to who calls this title of ours.", "--called-ae-title")
    ] = "",
    key: Annotated[str, _option("The item's key; an item that has it already is replaced.")] = "",
) -> None:
    """Add items: from files, or one as the options describe it.

    What identifies study and step is made where it is missing.
    """
    described = Described(
        patient_name=patient_name,
        patient_id=patient_id,
        birth_date=birth_date,
        sex=sex,
        accession=accession,
        modality=modality,
        station=station,
        start=start,
        description=description,
        physician=physician,
    )
    if files and not described.is_empty:
        fail("give files, or options that describe an item, not both")
    if files and len(files) > 1 and key:
        fail("--key is for one item; give one file")
    with explained():
        settings = load_settings(config)
        if files:
            entries = [(key or file_key(path), file_item(path)) for path in files]
        else:
            entries = [(key or new_key(accession), described_item(described))]
        with worklist_of(settings) as access:
            for entry, value in entries:
                is_new = access.put(entry, value, called)
                typer.echo(f"{'added' if is_new else 'replaced'} {entry}")


@worklist.command("list")
def list_items(
    config: ConfigOption = None,
    station: Annotated[str, _option("Only steps scheduled for this AE title.")] = "",
    date: Annotated[
        str, _option('Only steps that start on this day: 2026-11-21, or "today".', metavar="DATE")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List the items, the earliest first."""
    wanted = time.strftime("%Y%m%d") if date == "today" else date.replace("-", "")
    with explained():
        with worklist_of(load_settings(config)) as access:
            items = [
                item
                for item in access.listed()
                if (not station or station in item["station_ae_titles"])
                and (not wanted or item["start_date"] == wanted)
            ]
        items.sort(key=lambda item: (item["start_date"], item["start_time"], item["key"]))
        if as_json:
            typer.echo(json.dumps(items, indent=2, ensure_ascii=False))
            return
        if not items:
            typer.echo(_nothing(station, wanted))
            return
        _console().print(listing(items[:_MOST_ROWS]))
        if (more := len(items) - _MOST_ROWS) > 0:
            typer.echo(f"and {more} more: use --date, --station or --json")


@worklist.command()
def show(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `worklist list` has it.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an item: where it stands, its performed steps, and all its attributes."""
    with explained():
        with worklist_of(load_settings(config)) as access:
            item = access.show(key)
        if as_json:
            typer.echo(json.dumps(item, indent=2, ensure_ascii=False))
            return
        _console().print(item_view(item))


@worklist.command()
def remove(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="As `worklist list` has it.")],
    config: ConfigOption = None,
) -> None:
    """Remove items.

    Items of files go with their files.
    """
    with explained(), worklist_of(load_settings(config)) as access:
        for key in keys:
            access.remove(key)
            typer.echo(f"removed {key}")


worklist.command("query")(query)


def _nothing(station: str, date: str) -> str:
    scheduled = [
        f"for {station}" if station else "",
        f"on {written_moment(date, '')}" if date else "",
    ]
    words = " ".join(["scheduled", *filter(None, scheduled)]) if station or date else "there"
    return f"no worklist item is {words}"


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_COLUMNS)
