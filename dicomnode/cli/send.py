"""``send``: files, folders, ZIP files and studies of the store to a peer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomnode.cli.associating import perform_fast
from dicomnode.cli.common import EXIT_FAILED, explained, fail
from dicomnode.cli.peers import Called, Options, PeerArgument, called, settings_file, with_options
from dicomnode.cli.progress import Bar, bar
from dicomnode.cli.sending import NOT_SENT, Result, Sending
from dicomnode.cli.sources import Found, Item, Skipped, named
from dicomnode.dimse.command import Priority
from dicomnode.observe.words import duration, escape, size

# Objects that are looked for before those that were found are sent.
_BATCH: Final = 10_000
_MOST_TOLD: Final = 20
_WINDOW: Final = 16


@with_options()
def send(
    peer: PeerArgument,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE|FOLDER|ZIP]...", help="Folders are sent with all below."),
    ] = None,
    study: Annotated[
        list[str] | None,
        typer.Option("--study", metavar="UID", help="Send a study of the node's own store."),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option("--series", metavar="UID", help="Send a series of the node's own store."),
    ] = None,
    window: Annotated[
        int,
        typer.Option(
            "--window", metavar="N", min=1, max=256, help="Send so many at once if PEER grants it."
        ),
    ] = _WINDOW,
    priority: Annotated[
        str, typer.Option("--priority", metavar="low|medium|high", help="Asked of the peer.")
    ] = "medium",
    *,
    options: Options,
) -> None:
    """Send objects to a peer (C-STORE), each in its own transfer syntax where PEER takes it.

    An object that fails keeps none of the others. Exit code 1 when anything was not stored.
    """
    if not (paths or study or series):
        fail("name files, folders or ZIP files, or give --study or --series")
    if priority.upper() not in Priority.__members__:
        fail(f"--priority is low, medium or high, not {priority!r}")
    account = _Account(verbose=options.verbose or options.debug)
    with explained():
        target = called(peer, options)
        found = chain(
            *map(named, paths or ()),
            account.of_store(_held({"StudyInstanceUID": study or []}, options)),
            account.of_store(_held({"SeriesInstanceUID": series or []}, options)),
        )
        try:
            with bar(f"to {target.peer.title}") as shown:
                account.bar = shown
                course = _send(found, target, options, account, window, Priority[priority.upper()])
                perform_fast(course, target)
        except typer.Exit:
            # Broken off: what has been stored by then is worth knowing.
            if account.done:
                account.tell(target)
                _record(account, target, options)
            raise
    account.tell(target)
    _record(account, target, options)
    if account.failures or not account.total:
        raise typer.Exit(EXIT_FAILED)


def _held(unique_keys: dict[str, list[str]], options: Options) -> Found:
    if not any(unique_keys.values()):
        return
    from dicomnode.cli.held import held
    from dicomnode.settings import load_settings

    is_any = False
    for found in held(load_settings(settings_file(options)), unique_keys):
        is_any = True
        yield found
    if not is_any:
        wanted = ", ".join(chain(*unique_keys.values()))
        yield Skipped(wanted, "not in the store", is_wanted=True)


def _record(account: _Account, target: Called, options: Options) -> None:
    """Have the node record what of its store has been sent."""
    if not account.sent_of_store:
        return
    from dicomnode.cli.telling import tell_sent
    from dicomnode.settings import load_settings

    with explained():
        settings = load_settings(settings_file(options))
        tell_sent(settings, account.sent_of_store, target, "dicomnode send")


async def _send(
    found: Found,
    target: Called,
    options: Options,
    account: _Account,
    window: int,
    priority: Priority,
) -> None:
    sending = Sending(target, options, window=window, priority=priority, on_result=account.result)
    for batch in _batches(found, account):
        await sending.send(batch)


def _batches(found: Found, account: _Account) -> Iterator[list[Item]]:
    """Yield what is to be sent, in batches; what cannot be is entered into the account."""
    batch: list[Item] = []
    for one in found:
        if isinstance(one, Skipped):
            account.skipped(one)
            continue
        account.found()
        batch.append(one)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass
class _Account:
    """What was sent, what was not, and why."""

    verbose: bool
    bar: Bar | None = None
    total: int = 0
    done: int = 0
    stored: int = 0
    stored_bytes: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_reason: Counter[str] = field(default_factory=Counter)
    # Names, and what became of them.
    failed: list[tuple[str, str]] = field(default_factory=list)
    warned: list[tuple[str, str]] = field(default_factory=list)
    failures: int = 0
    warnings: int = 0
    # Paths of objects of the node's own store, and the UIDs of those that have been sent.
    store_paths: set[str] = field(default_factory=set)
    sent_of_store: list[str] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)

    def of_store(self, found: Found) -> Found:
        """Pass on what was found in the node's own store, to know it again."""
        for one in found:
            if isinstance(one, Item):
                self.store_paths.add(one.name)
            yield one

    def found(self) -> None:
        """One more is to be sent."""
        self.total += 1

    def skipped(self, one: Skipped) -> None:
        """Something is not sent."""
        if one.is_wanted:
            self.total += 1
            self.done += 1
            self.by_status[NOT_SENT] += 1
            self._fail(one.name, one.why)
        else:
            self.by_reason[one.why] += 1
            if self.verbose:
                typer.echo(f"skipped {escape(one.name)}: {escape(one.why)}", err=True)

    def result(self, result: Result) -> None:
        """One has been sent, or has failed."""
        is_of_store = result.item.name in self.store_paths
        self.store_paths.discard(result.item.name)
        self.done += 1
        self.by_status[result.summary] += 1
        if result.ok:
            self.stored += 1
            self.stored_bytes += result.item.size
            if is_of_store:
                self.sent_of_store.append(result.item.sop_instance_uid)
            if result.status:
                self._warn(result.item.name, result.words)
        else:
            self._fail(result.item.name, result.words)
        if self.bar is not None:
            self.bar.update(self.done, self.total, self.stored_bytes)

    def _warn(self, name: str, what: str) -> None:
        self.warnings += 1
        if self.verbose or len(self.warned) < _MOST_TOLD:
            self.warned.append((name, what))

    def _fail(self, name: str, why: str) -> None:
        self.failures += 1
        if self.verbose or len(self.failed) < _MOST_TOLD:
            self.failed.append((name, why))

    def tell(self, target: Called) -> None:
        """Print the summary."""
        _list("stored with a warning", self.warned)
        _list("failed", self.failed)
        told = len(self.warned) + len(self.failed)
        if (more := self.warnings + self.failures - told) > 0:
            typer.echo(f"and {more} more: -v names them all", err=True)
        for why, count in self.by_reason.most_common():
            typer.echo(f"skipped {count}: {escape(why)}", err=True)
        seconds = time.monotonic() - self.started_at
        rate = size(int(self.stored_bytes / max(seconds, 0.001)))
        typer.echo(
            f"{target.peer.title} stored {self.stored} of {self.total},"
            f" {size(self.stored_bytes)} in {duration(seconds)} ({rate}/s)"
        )
        if len(self.by_status) > 1 or self.failures:
            for summary, count in self.by_status.most_common():
                typer.echo(f"  {count}  {summary}")
        if not self.total:
            typer.echo("dicomnode: there was nothing to send", err=True)


def _list(what: str, named: list[tuple[str, str]]) -> None:
    """Print objects with what became of them, a reason that goes for many in a row once."""
    said = ""
    for name, why in named:
        typer.echo(f"{what} {escape(name)}: {'the same' if why == said else escape(why)}", err=True)
        said = why
