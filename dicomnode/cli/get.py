"""``get``: objects of a peer into a folder, or into the node's own store (C-GET)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomnode.cli.associating import perform_fast
from dicomnode.cli.common import EXIT_FAILED, SeriesOption, StudyOption, explained, fail
from dicomnode.cli.folder import Folder
from dicomnode.cli.peers import Called, Options, PeerArgument, called, settings_file, with_options
from dicomnode.cli.progress import bar
from dicomnode.cli.queries import KeysOption, add_keys, keys_of
from dicomnode.cli.target import Target
from dicomnode.observe.words import duration, escape, size
from dicomnode.scu.keys import Keys, vr_of
from dicomnode.sync.bringing import Report
from dicomnode.sync.getting import Getting, Taker

_MOST_TOLD: Final = 20
# Query/Retrieve Level: objects are looked for at all of them.
_LEVEL: Final = (0x0008_0052,)


@with_options()
def get(
    peer: PeerArgument,
    keys: KeysOption = None,
    study: StudyOption = None,
    series: SeriesOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output-directory",
            "-od",
            metavar="FOLDER",
            help="Where files go: <Study>/<Series>/<SOP Instance UID>.dcm. [default: .]",
        ),
    ] = None,
    into_store: Annotated[
        bool,
        typer.Option("--into-store", help="Bring them to the running node of the settings."),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare digests with those of PEER, which has to be a dicomnode."
        ),
    ] = False,
    *,
    options: Options,
) -> None:
    """Retrieve objects from a peer (C-GET): those that are not there yet.

    Keys may be of any level. Broken off, the same command goes on where it was. Exit code 1 when
    anything is missing in the end.
    """
    if into_store and output is not None:
        fail("--into-store and -od exclude each other")
    query = keys_of(study, series)
    add_keys(query, keys)
    _check(query)
    started_at = time.monotonic()
    with explained():
        target = called(peer, options)
        place = _own_node(options) if into_store else _folder(output or Path(), target)
        with bar(f"from {target.peer.title}") as shown:

            def progress(report: Report) -> None:
                shown.update(report.received, report.found - report.there, report.received_bytes)

            getting = Getting(Target(target, options), place, verify=verify, on_progress=progress)
            try:
                perform_fast(getting.get(query), target)
            except typer.Exit:
                if count := getting.report.received:
                    typer.echo(f"{count} received; the same command goes on from there", err=True)
                raise
    _tell(getting.report, target, time.monotonic() - started_at, verify)


def _check(query: Keys) -> None:
    """End the command over keys that would not narrow what is retrieved."""
    given = [path for path in query.paths if query.text(path) and path != _LEVEL]
    if any(vr_of(path[0]) == "SQ" for path in given):
        fail("-k: by what is in a sequence nothing is retrieved")
    if not given:
        fail("say what to get: --study UID, or -k with a key and its value")


def _folder(root: Path, target: Called) -> Taker:
    return Folder(root, target.peer.title)


def _own_node(options: Options) -> Taker:
    # Late: it takes the index.
    from dicomnode.cli.own_node import OwnNode, own_node
    from dicomnode.settings import load_settings

    settings = load_settings(settings_file(options))
    ours = options.calling or settings.node.ae_title
    return OwnNode(settings, own_node(settings, ours), options)


def _tell(report: Report, target: Called, seconds: float, verify: bool) -> None:
    title = target.peer.title
    for uid in report.differ:
        typer.echo(f"differs from what {title} holds: {escape(uid)}", err=True)
    for uid, why in list(report.missing.items())[:_MOST_TOLD]:
        typer.echo(f"missing {escape(uid)}: {escape(why)}", err=True)
    if (more := len(report.missing) - _MOST_TOLD) > 0:
        typer.echo(f"and {more} more", err=True)
    for words, count in report.refusals.items():
        times = f" ({count} times)" if count > 1 else ""
        typer.echo(f"{words}{times}", err=True)
    if not report.found:
        fail(f"{title} has nothing that matches")
    rate = size(int(report.received_bytes / max(seconds, 0.001)))
    typer.echo(
        f"{title} has {report.found}: {report.there} were here, {report.received} received,"
        f" {size(report.received_bytes)} in {duration(seconds)} ({rate}/s),"
        f" {len(report.missing)} missing"
    )
    if verify:
        _tell_verified(report, title)
    if report.missing or report.differ:
        raise typer.Exit(EXIT_FAILED)


def _tell_verified(report: Report, title: str) -> None:
    if not report.tells_digests:
        fail(f"--verify: {title} is no dicomnode, and tells no digests")
    here = report.there + report.received
    typer.echo(f"verified {report.verified} of {here}, {len(report.differ)} differ")
    if (converted := here - report.verified - len(report.differ)) > 0:
        typer.echo(f"{converted} cannot be compared: converted on the way, or deflated")
