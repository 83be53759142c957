"""``custody``: what happened to an object, and whether the log of it is whole."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated

import typer

from dicomnode.cli.common import EXIT_FAILED, ConfigOption, explained, fail
from dicomnode.errors import CatalogError
from dicomnode.settings import Settings, load_settings
from dicomnode.storage.paths import valid_uid

if TYPE_CHECKING:
    from dicomnode.integrity.record import Fault

_UNANCHORED = (
    "That its end was not cut off, nor all of it written anew, only --expect shows, with a head"
    " that was noted elsewhere (the log has one of each day)."
)
_MOST_SHOWN = 20
_HEAD = re.compile(r"(\d{1,19}):([0-9a-fA-F]{64})", re.ASCII)


def custody(
    uid: Annotated[
        str, typer.Argument(metavar="UID", help="A Study, Series or SOP Instance UID.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Read the whole chain and say whether it is whole.")
    ] = False,
    head: Annotated[
        bool, typer.Option("--head", help="Print SEQ:HASH of the last record, to be noted.")
    ] = False,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect", metavar="SEQ:HASH", help="A head noted earlier, to be there (repeatable)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Tell what happened to a study, a series or an object, or check the log of it.

    Reads the index itself, whether the node runs or not. --check exits with 0 only when no record
    is missing, added or changed.
    """
    if [bool(uid), check, head].count(True) != 1:
        fail("give a UID, --check or --head")
    if expect and not check:
        fail("--expect goes with --check")
    if uid and not valid_uid(uid):
        fail(f"{uid!r} is no UID")
    expected = [_head_of(text) for text in expect or []]
    with explained():
        settings = load_settings(config)
        if check:
            _check(settings, expected, as_json=as_json)
        elif head:
            _show_head(settings, as_json=as_json)
        else:
            _tell(settings, uid, as_json=as_json)


def _head_of(text: str) -> tuple[int, str]:
    match = _HEAD.fullmatch(text.strip())
    if match is None:
        fail(f"{text!r} is no SEQ:HASH, such as `dicomnode custody --head` prints")
    return int(match[1]), match[2].lower()


def _show_head(settings: Settings, *, as_json: bool) -> None:
    from dicomnode.cli.held import custody_records

    with custody_records(settings) as records:
        sequence, own = records.head()
    typer.echo(json.dumps({"sequence": sequence, "hash": own}) if as_json else f"{sequence}:{own}")


def _check(settings: Settings, expected: list[tuple[int, str]], *, as_json: bool) -> None:
    from dicomnode.cli.held import custody_records
    from dicomnode.cli.progress import bar

    shown: list[Fault] = []
    count = 0
    with custody_records(settings) as records, bar("records") as progress:
        head = records.head()
        for fault in records.check(expected, progress.update):
            count += 1
            if len(shown) < _MOST_SHOWN:
                shown.append(fault)
    if as_json:
        faults = [{"sequence": fault.sequence, "words": fault.words} for fault in shown]
        found = {"whole": not count, "sequence": head[0], "hash": head[1], "fault_count": count}
        typer.echo(json.dumps(found | {"faults": faults}, indent=2))
    else:
        _show_check(head, count, shown, is_anchored=bool(expected))
    if count:
        raise typer.Exit(EXIT_FAILED)


def _show_check(
    head: tuple[int, str], count: int, shown: list[Fault], *, is_anchored: bool
) -> None:
    from dicomnode.cli.terminal import console, plain
    from dicomnode.observe.words import counted

    to = console()
    for fault in shown:
        to.print(plain(f"record {fault.sequence}: {fault.words}"), soft_wrap=True)
    if count:
        words = f"The chain of custody is NOT whole: {counted(count, 'fault', 'faults')}."
        to.print(plain(words), style="bold red")
    else:
        words = f"The chain of custody is whole: {counted(head[0], 'record', 'records')}."
        to.print(plain(words), style="green")
    to.print(plain(f"head {head[0]}:{head[1]}"), soft_wrap=True)
    if not count and not is_anchored:
        to.print(plain(_UNANCHORED), soft_wrap=True)


def _tell(settings: Settings, uid: str, *, as_json: bool) -> None:
    from dicomnode.cli.custody_story import story
    from dicomnode.cli.held import custody_records
    from dicomnode.cli.terminal import console
    from dicomnode.integrity.record import faults

    with custody_records(settings) as log:
        kind, records = log.of_any(uid)
    if not records:
        raise CatalogError(f"nothing is recorded of {uid}")
    found = list(faults(records))
    if as_json:
        typer.echo(json.dumps([record.to_json() for record in records], indent=2))
    else:
        for part in story(kind, uid, records):
            console().print(part, soft_wrap=isinstance(part, str))
    if found:
        lines = [f"record {fault.sequence}: {fault.words}" for fault in found[:_MOST_SHOWN]]
        fail("\n".join(["these records are not what was written:", *lines]))
