"""``scrub``: whether stored files are what was received."""

from __future__ import annotations

import dataclasses
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from dicomnode.cli.asking import call, moment, plain
from dicomnode.cli.common import EXIT_FAILED, ConfigOption, explained, fail
from dicomnode.cli.progress import Bar, bar
from dicomnode.errors import StoreLocked
from dicomnode.observe.words import duration, size
from dicomnode.settings import Settings, load_settings
from dicomnode.storage.paths import valid_uid

if TYPE_CHECKING:
    from dicomnode.services.scrub import Scrub

_MOST_ROWS = 100
_MOST_LISTED = 100_000
_POLL_SECONDS = 0.5
_STUDY_SECONDS = 24 * 3600.0


def scrub(
    report: Annotated[
        bool, typer.Option("--report", help="Show how far it is and what is not whole (default).")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Read all files once, now, at full speed; then report.")
    ] = False,
    study: Annotated[
        str, typer.Option(metavar="UID", help="Study Instance UID: only the files of this study.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON object.")] = False,
    config: ConfigOption = None,
) -> None:
    """Tell which stored files are not what was received, and when all of them were last read.

    Works while the node runs and while it does not. The exit code is 0 only when no file is
    known to be damaged, missing or unreadable.
    """
    if study and not valid_uid(study):
        fail(f"{study!r} is no UID")
    if now and report:
        fail("give --report or --now; --now ends with the report")
    with explained():
        settings = load_settings(config)
        if now:
            _read_all(settings, study)
        shown = _report(settings, study)
        if as_json:
            typer.echo(json.dumps(shown, indent=2))
        else:
            console = Console(highlight=False)
            for part in lines(shown):
                console.print(part, soft_wrap=True)
    if shown["files"]:
        raise typer.Exit(EXIT_FAILED)


def _report(settings: Settings, study: str) -> dict[str, Any]:
    """Return what the index keeps of the scrub; the node may run."""
    from sqlalchemy import func, select

    from dicomnode.cli.held import opened_index
    from dicomnode.index.schema import instance
    from dicomnode.index.schema import study as studies
    from dicomnode.index.scrubbing import ScrubReport

    with opened_index(settings) as backend:
        read = ScrubReport(backend.reader.connect, backend.byte_collation)
        going_on, ended = read.passes()
        with backend.reader.connect() as connection:
            total = connection.scalar(select(func.count()).select_from(instance))
            of_uid = select(studies.c.id).where(studies.c.study_instance_uid == study)
            if study and connection.scalar(of_uid) is None:
                fail(f"there is no study {study} in the archive")
        files = read.bad_files(_MOST_LISTED, study or None)
        return {
            "time": time.time(),
            "enabled": settings.scrub.enabled,
            "bytes_per_second": settings.scrub.bytes_per_second,
            "every_days": settings.scrub.every_days,
            "total_objects": total,
            "proven_since": read.proven_since(),
            "going_on": dataclasses.asdict(going_on) if going_on is not None else None,
            "ended": dataclasses.asdict(ended) if ended is not None else None,
            "study": study or None,
            "files": [dataclasses.asdict(each) for each in files],
        }


# -- reading now -----------------------------------------------------------------------------------


def _read_all(settings: Settings, study: str) -> None:
    from dicomnode.storage.files import FileStore

    storage = settings.storage
    if not storage.directory.is_dir():
        fail(f"there is no directory {storage.directory} (storage.directory)")
    files = FileStore(storage.directory, durability=storage.durability)
    try:
        files.open()
    except StoreLocked:
        _have_read(settings, study)
        return
    try:
        _read_here(settings, files, study)
    finally:
        files.close()


def _have_read(settings: Settings, study: str) -> None:
    """Have the running node read, and wait until it has."""
    if study:
        with Console(stderr=True).status(f"the node reads the files of {study}"):
            body = {"study": study}
            call(settings, "POST", "/api/scrub", body, timeout_seconds=_STUDY_SECONDS)
        return
    began_at = time.time()
    call(settings, "POST", "/api/scrub", {})
    with bar("reading") as shown:
        while True:
            figures = call(settings, "GET", "/api/scrub")["scrub"]
            if (figures["ended_began_at"] or 0.0) >= began_at:
                return
            if figures["at_full_speed"]:
                shown.update(figures["objects"], figures["total_objects"], figures["bytes"])
            time.sleep(_POLL_SECONDS)


def _read_here(settings: Settings, files: Any, study: str) -> None:
    """Read in this process: no node runs on the storage directory."""
    from prometheus_client import CollectorRegistry

    from dicomnode.archive import make_scrub
    from dicomnode.index.catalog import Catalog
    from dicomnode.index.custody import Custody
    from dicomnode.observe.logs import Log
    from dicomnode.parameters import synchronous_of
    from dicomnode.services.settling import restore
    from dicomnode.services.turns import Turns

    log = Log(settings.log)
    catalog = Catalog(settings.index_url, synchronous=synchronous_of(settings))
    catalog.open(partial(restore, files))
    log.start()
    try:
        if catalog.is_new:
            fail("the index lacks stored files: start the node, or run `dicomnode reindex`")
        custody = Custody(catalog) if settings.custody.enabled else None
        parts = catalog, Turns(), log.logger, CollectorRegistry(), custody
        made = make_scrub(settings, files, *parts)
        if study:
            if not made.look_at_study(study):
                fail(f"there is no object of the study {study}")
            return
        with bar("reading") as shown:
            _run_here(made, shown, catalog.counts().instances)
    finally:
        log.stop()
        catalog.close()


def _run_here(made: Scrub, shown: Bar, total: int) -> None:
    made.run_once(lambda scrub: shown.update(scrub.objects, total, scrub.bytes))


# -- the report ------------------------------------------------------------------------------------


def lines(shown: dict[str, Any]) -> list[Text]:
    """Lay out the report."""
    return [*_age(shown), *_runs(shown), *_files(shown)]


def _age(shown: dict[str, Any]) -> list[Text]:
    since = shown["proven_since"]
    if since is None:
        return [plain("There is no object in the archive.")]
    but = ", but for the files below" if shown["files"] else ""
    ago = _long(max(0.0, shown["time"] - since))
    words = f"Every object was proven whole within the last {ago}, since {moment(since)}{but}."
    return [plain(words)]


def _runs(shown: dict[str, Any]) -> list[Text]:
    parts: list[Text] = []
    if ended := shown["ended"]:
        took = duration(ended["ended_at"] - ended["began_at"])
        parts.append(
            plain(
                f"The last run through all files began {moment(ended['began_at'])}: "
                f"{ended['objects']:,} objects, {size(ended['bytes'])} in {took}."
            )
        )
        if unknown := ended["unknown_files"]:
            noun = "file" if unknown == 1 else "files"
            parts.append(
                plain(f"It met {unknown:,} {noun} below objects/ that the index does not know.")
            )
    else:
        parts.append(plain("No run through all files has ended yet."))
    if going_on := shown["going_on"]:
        parts.append(
            plain(
                f"One goes on since {moment(going_on['began_at'])}: {going_on['objects']:,} of"
                f" {shown['total_objects']:,} objects, {size(going_on['bytes'])}."
            )
        )
    rate = f"{size(shown['bytes_per_second'])}/s, begun every {shown['every_days']} days"
    parts.append(plain(f"Rate: {rate}." if shown["enabled"] else "scrub.enabled is false."))
    return parts


def _long(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:.1f} days" if days >= 2 else duration(seconds)


def _files(shown: dict[str, Any]) -> list[Text]:
    files, of = shown["files"], f" of study {shown['study']}" if shown["study"] else ""
    if not files:
        good = plain(f"No file{of} is known to be damaged, missing or unreadable.")
        good.stylize("green")
        return [good]
    noun = "file is" if len(files) == 1 else "files are"
    head = plain(f"{len(files):,} {noun} not whole{of}:")
    head.stylize("bold red")
    table = [
        plain(f"  {moment(each['found_at'])}  {each['words']}: {each['path']}")
        for each in files[:_MOST_ROWS]
    ]
    more = len(files) - _MOST_ROWS
    rest = [plain(f"and {more:,} more; --json lists them")] if more > 0 else []
    advice = plain(
        "Send these objects to the node again, or restore their files from a backup; then run"
        " dicomnode scrub --now --study UID. A file leaves the list once it has been read and is"
        " what was received."
    )
    return [head, *table, *rest, advice]
