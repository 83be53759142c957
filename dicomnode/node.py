"""Builds the node from its settings, starts it, drains it and stops it.

Nothing else constructs the parts; everything that a part needs is handed to it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, __version__
from dicomnode.dimse.command import CEchoRQ, CFindRQ, CGetRQ, CMoveRQ, CStoreRQ, Request
from dicomnode.errors import ConfigurationError, DicomnodeError
from dicomnode.index.catalog import Catalog
from dicomnode.net.acceptor import Acceptor, Listening
from dicomnode.net.buffers import BufferPool
from dicomnode.net.ending import Deadlines
from dicomnode.net.requestor import Requestor
from dicomnode.observe.http import OK, HTTPServer, build_app
from dicomnode.observe.logs import Log
from dicomnode.observe.metrics import Metrics
from dicomnode.registry import Registry, load_registry
from dicomnode.services.admission import Admission, Rules
from dicomnode.services.dispatch import Dispatcher, Service
from dicomnode.services.explanations import Explanations
from dicomnode.services.identifier import Bounds
from dicomnode.services.intake import Intake
from dicomnode.services.journal import Journal
from dicomnode.services.query import Query, QueryRules
from dicomnode.services.recovery import reconcile
from dicomnode.services.retrieve import Retrieve
from dicomnode.services.retrieve import Rules as RetrieveRules
from dicomnode.services.settling import Settler, restore
from dicomnode.services.storage import Storage
from dicomnode.services.turns import Turns
from dicomnode.services.verification import Verification
from dicomnode.services.workers import GroupWorker, Workers
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore

# As many objects wait for the disk at once; more threads would only wait for the interpreter.
_WORKERS = 4
_LISTED_CONFLICTS = 100
# Whoever is asked for objects has taken or refused the A-ABORT by then.
_CLOSE_SECONDS = 1.0
# The interpreter's 5 ms would be what a worker waits for the loop, and the loop for a worker.
_SWITCH_INTERVAL_SECONDS = 0.002


class Node:
    """One DICOM node: storage, index, acceptor and HTTP of one process."""

    def __init__(self, settings: Settings, registry_path: Path) -> None:
        self._settings = settings
        self._registry_path = registry_path
        self._started_at = time.monotonic()
        self._draining = False
        self._log = Log(settings.log)
        self._registry: Registry
        self._metrics: Metrics
        self._journal: Journal
        self._files: FileStore
        self._catalog: Catalog
        self._workers: Workers
        self._group: GroupWorker
        self._turns = Turns()
        self._settler: Settler
        self._pool: BufferPool
        self._admission: Admission
        self._requestor: Requestor
        self._acceptor: Acceptor
        self._http: HTTPServer | None = None

    @property
    def dicom_address(self) -> tuple[str, int]:
        """The host and port that modalities can connect to."""
        return self._acceptor.address

    @property
    def http_address(self) -> tuple[str, int] | None:
        """The host and port of /metrics and the rest, when HTTP is on."""
        return self._http.address if self._http else None

    # -- start ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover the store, then listen.

        Raises ConfigurationError, StoreLocked, CatalogError or OSError; nothing is left behind.
        """
        async with contextlib.AsyncExitStack() as undo:
            self._registry = load_registry(
                self._registry_path, self._settings.node.strict_ae_titles
            )
            self._log.start()
            undo.callback(self._log.stop)
            self._metrics = Metrics(
                known_title=lambda title: self._registry.lookup(title) is not None
            )
            explanations = Explanations(
                lambda: self._registry,
                patient_data=self._settings.log.patient_data,
                now=time.time,
            )
            self._journal = Journal(self._log.logger, self._metrics, explanations)
            await self._open_archive(undo)
            await self._listen(undo)
            self._undo = undo.pop_all()

    async def _open_archive(self, undo: contextlib.AsyncExitStack) -> None:
        storage = self._settings.storage
        log = self._log.logger
        self._files = FileStore(storage.directory, durability=storage.durability)
        await asyncio.to_thread(self._files.open)
        undo.callback(self._files.close)
        if storage.durability == "relaxed":
            log.warning(
                "storage.durability is relaxed: nothing is flushed, a power loss can lose objects"
                " that were answered with Success"
            )
        self._catalog = Catalog(
            self._settings.index_url,
            synchronous="FULL" if storage.durability == "full" else "OFF",
        )
        await asyncio.to_thread(self._catalog.open, partial(restore, self._files))
        undo.push_async_callback(asyncio.to_thread, self._catalog.close)
        report = await asyncio.to_thread(reconcile, self._files, self._catalog, log=log)
        log.info(f"store and index agree: {report}")
        self._metrics.set_archive_source(self._archive_figures)
        self._metrics.set_log_source(lambda: self._log.dropped)
        self._start_threads(undo)

    def _start_threads(self, undo: contextlib.AsyncExitStack) -> None:
        """Start what works on the archive; it ends in the opposite order, with nothing undone."""

        def fault(error: BaseException) -> None:
            self._journal.internal_error("a worker thread", error)

        self._settler = Settler(
            self._files, self._catalog, turns=self._turns, journal=self._journal
        )
        self._workers = Workers(_WORKERS, fault)
        self._group = GroupWorker(self._catalog.grouped, fault)
        for start, stop in (
            (self._settler.start, self._settler.close),
            (self._workers.start, self._workers.stop),
            (self._group.start, self._group.stop),
        ):
            start()
            undo.push_async_callback(asyncio.to_thread, stop)

    async def _listen(self, undo: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        self._open_network(undo)
        if settings.http.enabled:
            app = build_app(
                self._metrics, self.ready, self.status, self._journal.explanations.listed
            )
            self._http = HTTPServer(app, settings.http.host, settings.http.port)
            await self._http.start()
            undo.push_async_callback(self._http.stop)
            self._log.logger.info("http on {}:{}".format(*self._http.address))
        await self._acceptor.start()
        host, port = self._acceptor.address
        self._log.logger.info(f"{settings.node.ae_title} listening on {host}:{port}")

    def _open_network(self, undo: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        limits, deadlines, numbers = settings.limits, _deadlines(settings), itertools.count(1)
        self._pool = BufferPool(
            asyncio.get_running_loop(),
            block_bytes=max(256 * 1024, 2 * limits.maximum_pdu_bytes),
            limit_bytes=limits.receive_buffer_bytes,
        )
        self._metrics.set_receive_buffer_source(
            lambda: (self._pool.in_use_bytes, self._pool.limit_bytes)
        )
        self._requestor = Requestor(
            numbers=numbers,
            maximum_pdu_bytes=limits.maximum_pdu_bytes,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            pool=self._pool,
            deadlines=deadlines,
            observer=self._journal,
        )
        undo.push_async_callback(self._requestor.close, _CLOSE_SECONDS)
        self._admission = Admission(_rules(settings), self._registry)
        self._acceptor = Acceptor(
            Listening(
                settings.node.host,
                settings.node.port,
                maximum_pdu_bytes=limits.maximum_pdu_bytes,
                max_connections=2 * limits.max_associations + 64,
            ),
            numbers=numbers,
            pool=self._pool,
            deadlines=deadlines,
            admission=self._admission,
            provider=Dispatcher(self._services(undo), self._journal),
            observer=self._journal,
            on_connection=self._journal.connected,
        )

    def _services(self, undo: contextlib.AsyncExitStack) -> dict[type[Request], Service]:
        query, retrieve = self._query(), self._retrieve()
        undo.push_async_callback(asyncio.to_thread, query.close)
        undo.push_async_callback(retrieve.close)
        return {
            CEchoRQ: Verification(),
            CStoreRQ: self._storage(),
            CFindRQ: query,
            CGetRQ: retrieve,
            CMoveRQ: retrieve,
        }

    def _storage(self) -> Storage:
        storage = self._settings.storage
        intake = Intake(
            self._files,
            self._catalog,
            workers=self._workers,
            group=self._group,
            turns=self._turns,
            settler=self._settler,
            journal=self._journal,
            on_conflict=storage.on_conflict,
            min_free_bytes=storage.min_free_bytes,
        )
        return Storage(intake)

    def _query(self) -> Query:
        settings = self._settings
        rules = QueryRules(
            ae_title=settings.node.ae_title,
            max_matches=settings.limits.max_matches,
            bounds=_bounds(settings),
        )
        return Query(self._catalog, self._files, self._journal, rules, lambda: self._registry)

    def _retrieve(self) -> Retrieve:
        settings = self._settings
        return Retrieve(
            self._catalog,
            self._files,
            self._requestor,
            lambda: self._registry,
            self._journal,
            self._log.logger,
            RetrieveRules(
                ae_title=settings.node.ae_title,
                strict_ae_titles=settings.node.strict_ae_titles,
                bounds=_bounds(settings),
                response_seconds=settings.timeouts.response_seconds,
                min_free_bytes=settings.storage.min_free_bytes,
            ),
        )

    # -- while running ---------------------------------------------------------------------------

    async def reload_registry(self) -> None:
        """Take the registry file anew as a whole, or keep the old one and say why."""
        log = self._log.logger
        strict = self._settings.node.strict_ae_titles
        try:
            registry = await asyncio.to_thread(load_registry, self._registry_path, strict)
        except (ConfigurationError, OSError) as error:
            problems = error.problems if isinstance(error, ConfigurationError) else [str(error)]
            log.error("registry not reloaded, the old one stays in force")
            for problem in problems:
                log.error(problem)
            return
        self._registry = self._admission.registry = registry
        log.info(f"registry reloaded: {len(registry.titles)} AEs")

    def _archive_figures(self) -> dict[str, int]:
        counts = self._catalog.counts()
        return {
            "patients": counts.patients,
            "studies": counts.studies,
            "series": counts.series,
            "instances": counts.instances,
            "bytes": counts.bytes,
            "identity_conflicts": counts.identity_conflicts,
            "unsettled": counts.unsettled,
            "unsettled_bytes": counts.unsettled_bytes,
            "free_bytes": self._files.free_bytes(),
        }

    def _identity_conflicts(self) -> list[dict[str, object]]:
        """Return the latest identity conflicts; patients are named only if logs may name them."""
        conflicts = self._catalog.identity_conflicts()[-_LISTED_CONFLICTS:]
        figures = [dataclasses.asdict(conflict) for conflict in conflicts]
        if self._settings.log.patient_data:
            return figures
        told = ("study_instance_uid", "sop_instance_uid", "source_ae", "noticed_at")
        return [{key: conflict[key] for key in told} for conflict in figures]

    async def ready(self) -> dict[str, str]:
        """Return what each readiness check says: "ok", or what is wrong (/readyz)."""
        return {
            "storage": await asyncio.to_thread(self._check, self._files.check_writable),
            "index": await asyncio.to_thread(self._check, self._catalog.check),
            "draining": "the node is shutting down" if self._draining else OK,
        }

    @staticmethod
    def _check(check: Callable[[], None]) -> str:
        try:
            check()
        except (DicomnodeError, OSError) as error:
            return str(error)
        return OK

    async def status(self) -> dict[str, Any]:
        """Return the summary that /api/status shows."""
        archive = await asyncio.to_thread(self._archive_figures)
        conflicts = await asyncio.to_thread(self._identity_conflicts)
        host, port = self._acceptor.address
        return {
            "version": __version__,
            "ae_title": self._settings.node.ae_title,
            "host": host,
            "port": port,
            "uptime_seconds": time.monotonic() - self._started_at,
            "durability": self._settings.storage.durability,
            "draining": self._draining,
            "archive": archive,
            "identity_conflict_list": conflicts,
            **self._journal.figures(),
        }

    # -- stop ------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop accepting, let associations finish within ``timeouts.drain_seconds``, close all."""
        self._draining = self._admission.draining = True
        seconds = self._settings.timeouts.drain_seconds
        self._log.logger.info(
            f"stopping: {len(self._journal.associations)} associations have {seconds:g} s to finish"
        )
        await self._acceptor.stop(seconds)
        await self._undo.aclose()

    def abort_all(self) -> None:
        """Abort every association now, so that ``stop`` need not wait for them."""
        self._acceptor.abort_all()


def _bounds(settings: Settings) -> Bounds:
    limits = settings.limits
    return Bounds(limits.max_identifier_bytes, limits.max_list_values)


def _deadlines(settings: Settings) -> Deadlines:
    timeouts = settings.timeouts
    return Deadlines(
        artim=timeouts.artim_seconds,
        pdu=timeouts.pdu_seconds,
        idle=timeouts.idle_seconds,
        write=timeouts.write_seconds,
        connect=timeouts.connect_seconds,
        response=timeouts.response_seconds,
    )


def _rules(settings: Settings) -> Rules:
    node, limits = settings.node, settings.limits
    return Rules(
        ae_titles=frozenset((node.ae_title, *node.ae_title_aliases)),
        strict_ae_titles=node.strict_ae_titles,
        admit_unknown=settings.access.unknown_ae == "allow",
        accept_unknown_storage=settings.storage.accept_unknown_storage,
        maximum_pdu_bytes=limits.maximum_pdu_bytes,
        max_operations=limits.max_operations,
        max_associations=limits.max_associations,
        max_associations_per_ae=limits.max_associations_per_ae,
        max_associations_per_address=limits.max_associations_per_address,
    )


def run(settings: Settings, registry_path: Path) -> int:
    """Run the node until SIGTERM or SIGINT; return the exit code.

    The first signal drains, a second one stops at once; SIGHUP reloads the registry.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    os.umask(0o077)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings, registry_path))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's, or asyncio's own where there is no uvloop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return cast(Callable[[], asyncio.AbstractEventLoop], uvloop.new_event_loop)


async def _serve(settings: Settings, registry_path: Path) -> int:
    loop = asyncio.get_running_loop()
    node = Node(settings, registry_path)
    asked = asyncio.Event()
    asked_again = asyncio.Event()

    def stop() -> None:
        (asked_again if asked.is_set() else asked).set()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop)
    # The registry is being read anyway; the signal must only not end the process.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    try:
        await node.start()
    except (DicomnodeError, OSError) as error:
        print(f"dicomnode: cannot start: {error}", file=sys.stderr)
        return 1
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(node.reload_registry())
        reloads.add(task)  # the loop itself keeps no hold of it
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    await asked.wait()
    draining = asyncio.create_task(node.stop())
    again = asyncio.create_task(asked_again.wait())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not draining.done():
        node.abort_all()
    await draining
    return 0
