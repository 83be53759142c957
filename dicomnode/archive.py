"""Opens the archive of a node: files and index, made to agree, and the threads of both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from dicomnode.index.catalog import Catalog
from dicomnode.index.custody import Custody
from dicomnode.index.scrubbing import ScrubRecords
from dicomnode.index.steps import Steps
from dicomnode.index.worklist import WorklistItems
from dicomnode.observe.custody_metrics import CustodyMetrics
from dicomnode.observe.logs import Log, Logger
from dicomnode.observe.metrics import Metrics
from dicomnode.observe.scrub_metrics import ScrubMetrics
from dicomnode.outbox.forwarding import Outbox
from dicomnode.parameters import forward_rules_of, scrub_rules_of, synchronous_of
from dicomnode.registry import Registry
from dicomnode.services.bad_files import BadFiles
from dicomnode.services.custody import Custodian
from dicomnode.services.custody_recorder import Recorder
from dicomnode.services.explanations import Explanations
from dicomnode.services.holdings import Holdings
from dicomnode.services.journal import Journal
from dicomnode.services.recovery import reconcile
from dicomnode.services.scrub import Scrub
from dicomnode.services.settling import Settler, restore
from dicomnode.services.turns import Turns
from dicomnode.services.wholeness import Wholeness
from dicomnode.services.workers import GroupWorker, Workers
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore

# As many objects wait for the disk at once; more threads would only wait for the interpreter.
_WORKERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenArchive:
    """Files, index, and what the services share of both."""

    files: FileStore
    catalog: Catalog
    outbox: Outbox
    items: WorklistItems
    steps: Steps
    holdings: Holdings
    threads: ArchiveThreads
    scrub: Scrub
    custodian: Custodian | None

    def custody_figures(self) -> dict[str, Any]:
        """Return what /api/status shows of the custody log; blocks. Raises CatalogError."""
        return self.custodian.figures() if self.custodian is not None else {"enabled": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveThreads:
    """What works on files and index off the event loop."""

    turns: Turns
    settler: Settler
    workers: Workers
    group: GroupWorker


async def open_archive(
    settings: Settings,
    registry: Registry,
    log: Logger,
    metrics: Metrics,
    journal: Journal,
    undo: contextlib.AsyncExitStack,
) -> OpenArchive:
    """Open files and index and make them agree; ``undo`` closes them, with nothing undone.

    Raises StoreLocked, CatalogError or OSError.
    """
    files = await _open_files(settings, log, undo)
    catalog = Catalog(settings.index_url, synchronous=synchronous_of(settings))
    await asyncio.to_thread(catalog.open, partial(restore, files))
    undo.push_async_callback(asyncio.to_thread, catalog.close)
    custodian = _start_custody(settings, catalog, log, metrics, undo)
    rules = forward_rules_of(settings, registry)
    outbox = await asyncio.to_thread(Outbox, catalog, rules, custodian)
    report = await asyncio.to_thread(
        reconcile, files, catalog, log=log, forwarding=outbox, custodian=custodian
    )
    log.info(f"store and index agree: {report}")
    items = WorklistItems(catalog)
    steps = await asyncio.to_thread(Steps, catalog, items)
    holdings = Holdings(catalog, files, settings.log.patient_data)
    metrics.set_archive_source(holdings.figures)
    metrics.add_counts_source(
        "dicomnode_performed_steps",
        "Modality performed procedure steps held.",
        "status",
        steps.counts,
    )
    threads = _start_threads(files, catalog, journal, undo)
    scrub = await asyncio.to_thread(
        make_scrub,
        settings,
        files,
        catalog,
        threads.turns,
        log,
        metrics.registry,
        custodian.custody if custodian is not None else None,
        journal.explanations,
    )
    undo.push_async_callback(asyncio.to_thread, scrub.close)
    return OpenArchive(
        files=files,
        catalog=catalog,
        outbox=outbox,
        items=items,
        steps=steps,
        holdings=holdings,
        threads=threads,
        custodian=custodian,
        scrub=scrub,
    )


def make_scrub(
    settings: Settings,
    files: FileStore,
    catalog: Catalog,
    turns: Turns,
    log: Logger,
    registry: CollectorRegistry,
    custody: Custody | None,
    explanations: Explanations | None = None,
) -> Scrub:
    """Return what reads stored files again; blocks. Raises CatalogError."""
    metrics, records = ScrubMetrics(registry), ScrubRecords(catalog)
    bad = BadFiles(records, log, metrics, explanations, custody)
    scrub = Scrub(
        files,
        catalog,
        Wholeness(files, catalog, turns),
        bad,
        records,
        metrics,
        scrub_rules_of(settings),
        log,
    )
    metrics.follow(scrub.age_seconds, scrub.unknown_files, bad.counts)
    return scrub


def _start_custody(
    settings: Settings,
    catalog: Catalog,
    log: Logger,
    metrics: Metrics,
    undo: contextlib.AsyncExitStack,
) -> Custodian | None:
    """Start what records what happens to objects; None when that is off."""
    if not settings.custody.enabled:
        return None
    custodian = _custodian(catalog, log, CustodyMetrics(metrics.registry))
    custodian.recorder.start()
    undo.push_async_callback(asyncio.to_thread, custodian.recorder.stop)
    metrics.add_counts_source(
        "dicomnode_custody_records",
        "Custody records: recorded (the last sequence), and waiting to be.",
        "state",
        custodian.counts,
    )
    return custodian


@contextlib.contextmanager
def recording(settings: Settings, catalog: Catalog) -> Iterator[Custodian | None]:
    """Record what a command does to the archive of a node that is not running.

    None when that is off.
    """
    if not settings.custody.enabled:
        yield None
        return
    log = Log(settings.log)
    log.start()
    custodian = _custodian(catalog, log.logger, CustodyMetrics(CollectorRegistry()))
    custodian.recorder.start()
    try:
        yield custodian
    finally:
        custodian.recorder.stop()
        log.stop()


def _custodian(catalog: Catalog, log: Logger, metrics: CustodyMetrics) -> Custodian:
    custody = Custody(catalog)
    return Custodian(custody, Recorder(custody.append, log, metrics), catalog)


async def _open_files(
    settings: Settings, log: Logger, undo: contextlib.AsyncExitStack
) -> FileStore:
    storage = settings.storage
    files = FileStore(storage.directory, durability=storage.durability)
    await asyncio.to_thread(files.open)
    undo.callback(files.close)
    if storage.durability == "relaxed":
        log.warning(
            "storage.durability is relaxed: nothing is flushed, a power loss can lose objects"
            " that were answered with Success"
        )
    return files


def _start_threads(
    files: FileStore, catalog: Catalog, journal: Journal, undo: contextlib.AsyncExitStack
) -> ArchiveThreads:
    """Start what works on the archive; it ends in the opposite order."""

    def fault(error: BaseException) -> None:
        journal.internal_error("a worker thread", error)

    turns = Turns()
    threads = ArchiveThreads(
        turns=turns,
        settler=Settler(files, catalog, turns=turns, journal=journal),
        workers=Workers(_WORKERS, fault),
        group=GroupWorker(catalog.grouped, fault),
    )
    for start, stop in (
        (threads.settler.start, threads.settler.close),
        (threads.workers.start, threads.workers.stop),
        (threads.group.start, threads.group.stop),
    ):
        start()
        undo.push_async_callback(asyncio.to_thread, stop)
    return threads
