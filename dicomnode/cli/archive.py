"""``reindex``."""

from __future__ import annotations

from functools import partial

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dicomnode.cli.common import ConfigOption, explained, fail
from dicomnode.errors import StoreLocked
from dicomnode.settings import Settings, load_settings


def reindex(config: ConfigOption = None) -> None:
    """Build the index anew from the stored files.

    The node must not be running.
    """
    with explained():
        settings = load_settings(config)
        directory = settings.storage.directory
        if not directory.is_dir():
            fail(f"there is no directory {directory} (storage.directory), so nothing to index")
        try:
            _rebuild(settings)
        except StoreLocked:
            fail(f"a node is running on {directory}; stop it, then run reindex again")


def _rebuild(settings: Settings) -> None:
    # Here, since the other commands are quicker without SQLAlchemy.
    from dicomnode.archive import recording
    from dicomnode.index.catalog import Catalog
    from dicomnode.services.recovery import rebuild
    from dicomnode.services.settling import restore
    from dicomnode.storage.files import FileStore

    storage = settings.storage
    files = FileStore(storage.directory, durability=storage.durability)
    files.open()
    try:
        catalog = Catalog(
            settings.index_url,
            synchronous="FULL" if storage.durability == "full" else "OFF",
        )
        catalog.open(partial(restore, files))
        try:
            with recording(settings, catalog) as custodian, _bar() as bar:
                task = bar.add_task("indexing", total=None)
                report = rebuild(
                    files,
                    catalog,
                    lambda done, total: bar.update(task, completed=done, total=total),
                    custodian=custodian,
                )
            counts = catalog.counts()
        finally:
            catalog.close()
    finally:
        files.close()
    for problem in report.problems:
        typer.echo(problem, err=True)
    typer.echo(str(report))
    typer.echo(
        f"the index holds: patients {counts.patients}, studies {counts.studies},"
        f" series {counts.series}, objects {counts.instances}"
    )


def _bar() -> Progress:
    # On standard error, so that a script gets the summary alone.
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
