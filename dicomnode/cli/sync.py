"""``sync``: what one side lacks of a peer's studies, or of the node's own, is moved over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Final

import typer
from rich.table import Table

from dicomnode.cli.associating import perform_fast
from dicomnode.cli.common import EXIT_FAILED, explained, fail
from dicomnode.cli.held import held, own_index
from dicomnode.cli.own_node import OwnNode, own_node
from dicomnode.cli.peers import Called, Options, PeerArgument, called, settings_file, with_options
from dicomnode.cli.progress import Bar, bar
from dicomnode.cli.queries import KeysOption
from dicomnode.cli.sending import Result, Sending
from dicomnode.cli.sources import Item
from dicomnode.cli.target import Target
from dicomnode.cli.telling import tell_sent
from dicomnode.cli.terminal import console, plain
from dicomnode.dimse.command import Priority
from dicomnode.observe.words import counted, duration, escape, size
from dicomnode.settings import Settings, load_settings
from dicomnode.sync.comparing import Difference
from dicomnode.sync.own import Study
from dicomnode.sync.syncing import Course, Mode, Summary, Syncing
from dicomnode.sync.wish import Direction, make_wish

_MOST_TOLD: Final = 20
_MOST_ROWS: Final = 200
_WINDOW: Final = 16


@with_options()
def sync(
    peer: PeerArgument,
    keys: KeysOption = None,
    date: Annotated[
        str | None,
        typer.Option(
            "--date", metavar="RANGE", help="Study Date: 20261101, 20261101-, 20261101-20261130."
        ),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option("--modality", metavar="CODE", help="Studies that have a series of it."),
    ] = None,
    pull: Annotated[
        bool, typer.Option("--pull", help="Bring what is missing here (the default).")
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="Send what PEER lacks.")] = False,
    both: Annotated[bool, typer.Option("--both", help="Do both.")] = False,
    mode: Annotated[
        str,
        typer.Option(
            "--mode",
            metavar="auto|get|move",
            help="How objects come here; auto is C-GET where PEER accepts it, else C-MOVE.",
        ),
    ] = Mode.AUTO.value,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is missing where, and move nothing.")
    ] = False,
    *,
    options: Options,
) -> None:
    """Compare studies with a peer's, and move over what is missing.

    Keys are of patients and studies. Broken off, the same command goes on where it was. Exit code
    1 when something could not be compared or moved.
    """
    direction = _direction(pull, push, both)
    if mode not in list(Mode):
        fail(f"--mode is one of {', '.join(Mode)}, not {mode!r}")
    try:
        wish = make_wish(keys or (), date or "", modality or "")
    except ValueError as error:
        fail(str(error))
    started_at = time.monotonic()
    account = _Account()
    with explained():
        settings = load_settings(settings_file(options))
        target = called(peer, options)
        course = _course(settings, target, options, direction, Mode(mode), dry_run, account)
        with (
            own_index(settings) as own,
            _told(account, target, direction, dry_run, started_at),
            bar(f"with {target.peer.title}") as account.bar,
        ):
            syncing = Syncing(Target(target, options), own, wish, course)
            account.summary = syncing.summary
            perform_fast(syncing.run(), target)
    if account.summary.incomplete and not (dry_run and not account.summary.problems):
        raise typer.Exit(EXIT_FAILED)


def _direction(pull: bool, push: bool, both: bool) -> Direction:
    if pull + push + both > 1:
        fail("--pull, --push and --both exclude each other")
    return Direction.BOTH if both else Direction.PUSH if push else Direction.PULL


class _Account:
    """What is shown of it, while it goes on and afterwards."""

    def __init__(self) -> None:
        self.bar: Bar | None = None
        self.summary = Summary()
        self.differences: list[Difference] = []
        self.more = 0

    def difference(self, difference: Difference) -> None:
        """A study is not the same on both sides."""
        if len(self.differences) < _MOST_ROWS:
            self.differences.append(difference)
        else:
            self.more += 1

    def progress(self, summary: Summary) -> None:
        """Something has moved."""
        if self.bar is not None:
            done = summary.pulled + summary.pushed + summary.failed
            self.bar.update(done, None, summary.pulled_bytes)


def _course(
    settings: Settings,
    target: Called,
    options: Options,
    direction: Direction,
    mode: Mode,
    dry_run: bool,
    account: _Account,
) -> Course:
    place: OwnNode | None = None
    if direction.pulls and not dry_run and mode is not Mode.MOVE:
        ours = options.calling or settings.node.ae_title
        place = OwnNode(settings, own_node(settings, ours), options)
    return Course(
        direction=direction,
        mode=mode,
        ae_title=settings.node.ae_title,
        away=_Sender(settings, target, options),
        place=place,
        take=place.receive if place is not None else None,
        dry_run=dry_run,
        on_difference=account.difference,
        on_progress=account.progress,
    )


class _Sender:
    """Sends objects of the node's own store by C-STORE: a ``syncing.Away``."""

    def __init__(self, settings: Settings, target: Called, options: Options) -> None:
        self._settings = settings
        self._target = target
        self._options = options

    async def send(self, objects: Mapping[str, str]) -> Mapping[str, str]:
        """Send objects; return those that were not sent, and why."""
        items = await asyncio.to_thread(self._items, objects)
        failed = dict.fromkeys(objects, "no longer in the store")

        def on_result(result: Result) -> None:
            uid = result.item.sop_instance_uid
            if result.ok:
                failed.pop(uid, None)
            else:
                failed[uid] = result.words

        sending = Sending(
            self._target,
            self._options,
            window=_WINDOW,
            priority=Priority.MEDIUM,
            on_result=on_result,
        )
        try:
            await sending.send(items)
        finally:
            sent = [uid for uid in objects if uid not in failed]
            await asyncio.to_thread(tell_sent, self._settings, sent, self._target, "dicomnode sync")
        return failed

    def _items(self, objects: Mapping[str, str]) -> list[Item]:
        found = held(self._settings, {"SOPInstanceUID": list(objects)})
        return [each for each in found if isinstance(each, Item)]


@contextmanager
def _told(
    account: _Account, target: Called, direction: Direction, dry_run: bool, started_at: float
) -> Iterator[None]:
    """Tell what was done, also of a synchronization that ends early."""
    is_done = False
    try:
        yield
        is_done = True
    finally:
        if is_done or account.summary.compared.studies:
            _tell(account, target.peer.title, direction, dry_run, time.monotonic() - started_at)


def _tell(
    account: _Account, title: str, direction: Direction, dry_run: bool, seconds: float
) -> None:
    summary = account.summary
    compared = summary.compared
    if dry_run and account.differences:
        console().print(_table(account.differences, title))
        if account.more:
            typer.echo(f"and {account.more} more studies")
    _tell_problems(summary)
    typer.echo(
        f"{counted(compared.studies, 'study', 'studies')} compared with {title},"
        f" {compared.looked_into} looked into:"
        f" {_missing(summary, direction, dry_run)}"
    )
    if compared.junk:
        typer.echo(f"{compared.junk} answers of {title} without the UIDs they must have", err=True)
    if compared.undated_left_out:
        typer.echo(
            f"{title} tells of so many studies only by dates: those without a Study Date were not"
            " asked for",
            err=True,
        )
    if dry_run:
        return
    done = [f"{summary.pulled} received"] if direction.pulls else []
    done += [f"{summary.pushed} sent"] if direction.pushes else []
    rate = f", {size(summary.pulled_bytes)}" if summary.pulled_bytes else ""
    typer.echo(f"{', '.join(done)}{rate} in {duration(seconds)}, {summary.failed} failed")


def _missing(summary: Summary, direction: Direction, dry_run: bool) -> str:
    here = [f"{counted(summary.missing_here, 'object', 'objects')} missing here"]
    there = [f"{counted(summary.missing_there, 'object', 'objects')} missing there"]
    told = here * (dry_run or direction.pulls) + there * (dry_run or direction.pushes)
    return ", ".join(told)


def _tell_problems(summary: Summary) -> None:
    for uid, why in list(summary.problems.items())[:_MOST_TOLD]:
        typer.echo(f"{escape(uid)}: {escape(why)}", err=True)
    told = min(len(summary.problems), _MOST_TOLD)
    if (more := summary.failed + len(summary.compared.failed) - told) > 0:
        typer.echo(f"and {more} more", err=True)
    for words, count in summary.refusals.most_common(_MOST_TOLD):
        times = f" ({count} times)" if count > 1 else ""
        typer.echo(f"{words}{times}", err=True)


def _table(differences: list[Difference], title: str) -> Table:
    table = Table("Study Instance UID", "date")
    for heading in ("here", f"at {title}", "missing here", f"missing at {title}"):
        table.add_column(heading, justify="right")
    for each in differences:
        told = each.there or each.here
        table.add_row(
            plain(each.uid),
            plain(told.date if told is not None else ""),
            _objects(each.here),
            _objects(each.there),
            str(each.missing_here or ""),
            str(each.missing_there or ""),
        )
    return table


def _objects(study: Study | None) -> str:
    if study is None:
        return "0"
    return "?" if study.instances is None else str(study.instances)
