"""Builds the node from its settings, starts it, drains it and stops it.

Nothing else constructs the parts; everything that a part needs is handed to it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from pathlib import Path
from typing import Any

from starlette.routing import BaseRoute

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, __version__
from dicomnode.api.access import Access
from dicomnode.api.commitment import commitment_routes
from dicomnode.api.outbox import outbox_routes
from dicomnode.api.token import LocalToken, new_token, remove_token, write_token
from dicomnode.api.worklist import worklist_routes
from dicomnode.dimse.command import (
    CEchoRQ,
    CFindRQ,
    CGetRQ,
    CMoveRQ,
    CStoreRQ,
    NActionRQ,
    NCreateRQ,
    NEventReportRQ,
    NGetRQ,
    NSetRQ,
    Request,
)
from dicomnode.errors import ConfigurationError
from dicomnode.index.catalog import Catalog
from dicomnode.index.steps import Steps
from dicomnode.index.worklist import WorklistItems
from dicomnode.net.acceptor import Acceptor
from dicomnode.net.buffers import BufferPool
from dicomnode.net.requestor import Requestor
from dicomnode.observe.commitment_metrics import CommitmentMetrics
from dicomnode.observe.http import OK, HTTPServer, build_app
from dicomnode.observe.logs import Log
from dicomnode.observe.metrics import Metrics
from dicomnode.outbox.forwarding import Forwarding, Outbox
from dicomnode.outbox.journal import Journal as ForwardingJournal
from dicomnode.parameters import (
    bounds_of,
    deadlines_of,
    forward_rules_of,
    forwarding_of,
    report_rules_of,
    request_rules_of,
    rules_of,
)
from dicomnode.registry import Registry, load_registry
from dicomnode.security import TransportSecurity
from dicomnode.services.admission import Admission
from dicomnode.services.commitment import StorageCommitment
from dicomnode.services.commitment_journal import CommitmentJournal
from dicomnode.services.commitment_request import CommitmentRequester
from dicomnode.services.dispatch import Dispatcher, Service
from dicomnode.services.explanations import Explanations
from dicomnode.services.holdings import Holdings
from dicomnode.services.intake import Intake
from dicomnode.services.journal import Journal
from dicomnode.services.mpps import PerformedSteps
from dicomnode.services.query import Query, QueryRules
from dicomnode.services.query_archive import Archive
from dicomnode.services.recovery import reconcile
from dicomnode.services.retrieve import Retrieve
from dicomnode.services.retrieve import Rules as RetrieveRules
from dicomnode.services.storage import Storage
from dicomnode.services.verification import Verification
from dicomnode.services.workers import Workers
from dicomnode.services.worklist import Worklist
from dicomnode.services.worklist_desk import WorklistDesk
from dicomnode.services.worklist_following import WorklistFollowing
from dicomnode.services.worklist_intake import WorklistIntake
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore

# As many objects wait for the disk at once; more threads would only wait for the interpreter.
_WORKERS = 4
# A worklist directory on a file server that does not answer must not hold up the start.
_FIRST_LOOK_SECONDS = 10.0
# Whoever is asked for objects has taken or refused the A-ABORT by then.
_CLOSE_SECONDS = 1.0


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
        self._items: WorklistItems
        self._steps: Steps
        self._worklist_intake: WorklistIntake
        self._worklist_files: WorklistFollowing
        self._workers: Workers
        self._pool: BufferPool
        self._admission: Admission
        self._requestor: Requestor
        self._commitment: StorageCommitment
        self._commitment_requester: CommitmentRequester
        self._acceptor: Acceptor
        self._outbox: Outbox
        self._forwarding: Forwarding
        self._http: HTTPServer | None = None

    @property
    def dicom_address(self) -> tuple[str, int]:
        """The host and port that modalities can connect to."""
        return self._acceptor.address

    @property
    def tls_address(self) -> tuple[str, int] | None:
        """The host and port for TLS, when that is on."""
        return self._acceptor.secure_address

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
        await asyncio.to_thread(self._catalog.open)
        undo.push_async_callback(asyncio.to_thread, self._catalog.close)
        rules = forward_rules_of(self._settings, self._registry)
        self._outbox = await asyncio.to_thread(Outbox, self._catalog, rules)
        report = await asyncio.to_thread(
            reconcile, self._files, self._catalog, log=log, forwarding=self._outbox
        )
        log.info(f"store and index agree: {report}")
        self._items = WorklistItems(self._catalog)
        self._steps = await asyncio.to_thread(Steps, self._catalog, self._items)
        self._holdings = Holdings(self._catalog, self._files, self._settings.log.patient_data)
        self._metrics.set_archive_source(self._holdings.figures)
        self._metrics.add_counts_source(
            "dicomnode_performed_steps",
            "Modality performed procedure steps held.",
            "status",
            self._steps.counts,
        )
        self._metrics.set_log_source(lambda: self._log.dropped)
        self._workers = Workers(
            _WORKERS, lambda error: self._journal.internal_error("a worker thread", error)
        )
        self._workers.start()
        undo.push_async_callback(asyncio.to_thread, self._workers.stop)

    async def _listen(self, undo: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        self._security = TransportSecurity(settings, self._log.logger, self._metrics.tls)
        await self._security.start(self._registry)
        undo.callback(self._security.stop)
        self._open_network(undo)
        await self._commitment.start()
        await asyncio.to_thread(self._commitment_requester.recover)
        await self._follow_worklist(undo)
        await self._forward(undo)
        if settings.http.enabled:
            await self._serve_http(undo)
        await self._acceptor.start()
        host, port = self._acceptor.address
        self._log.logger.info(f"{settings.node.ae_title} listening on {host}:{port}")
        self._security.started(self._acceptor)

    async def _forward(self, undo: contextlib.AsyncExitStack) -> None:
        journal = ForwardingJournal(self._log.logger, self._metrics)
        options = forwarding_of(self._settings)
        self._forwarding = Forwarding(
            self._outbox, self._files, self._requestor, lambda: self._registry, journal, options
        )
        self._forwarding.commit_with(self._commitment_requester, self._placer.remove, journal)
        await self._forwarding.start()
        undo.push_async_callback(self._forwarding.stop, _CLOSE_SECONDS)
        self._metrics.set_outbox_source(self._forwarding.waiting)

    async def _serve_http(self, undo: contextlib.AsyncExitStack) -> None:
        settings, directory = self._settings.http, self._settings.storage.directory
        token = new_token()
        app = build_app(
            self._metrics,
            self.ready,
            self.status,
            self._journal.explanations.listed,
            self._routes(Access((settings.token, token))),
        )
        self._http = HTTPServer(app, settings.host, settings.port)
        await self._http.start()
        undo.push_async_callback(self._http.stop)
        host, port = self._http.address
        await asyncio.to_thread(write_token, directory, LocalToken(token, port))
        undo.push_async_callback(asyncio.to_thread, remove_token, directory)
        self._log.logger.info(f"http on {host}:{port}")

    def _routes(self, access: Access) -> list[BaseRoute]:
        """Return what is served over HTTP to whoever has a token."""
        return [
            *worklist_routes(WorklistDesk(self._worklist_intake, self._steps), access),
            *outbox_routes(self._forwarding, access),
            *commitment_routes(self._commitment_requester, access),
        ]

    async def _follow_worklist(self, undo: contextlib.AsyncExitStack) -> None:
        settings = self._settings.worklist
        self._worklist_intake = WorklistIntake(self._items, self._steps)
        self._worklist_files = WorklistFollowing(
            settings.directory, settings.poll_seconds, self._worklist_intake, self._log.logger
        )
        undo.push_async_callback(asyncio.to_thread, self._worklist_files.stop)
        await asyncio.to_thread(self._worklist_files.start, _FIRST_LOOK_SECONDS)
        self._metrics.add_counts_source(
            "dicomnode_worklist_items", "Worklist items by state.", "state", self._items.counts
        )
        self._metrics.add_counts_source(
            "dicomnode_worklist_files_left_out",
            "Worklist files that cannot be served, by reason.",
            "reason",
            self._worklist_files.reasons,
        )

    def _open_network(self, undo: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        limits, deadlines, numbers = settings.limits, deadlines_of(settings), itertools.count(1)
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
            secure=self._security.client,
        )
        undo.push_async_callback(self._requestor.close, _CLOSE_SECONDS)
        self._admission = Admission(rules_of(settings), self._registry)
        self._acceptor = Acceptor(
            self._security.listening(self._journal),
            numbers=numbers,
            pool=self._pool,
            deadlines=deadlines,
            admission=self._admission,
            provider=Dispatcher(self._services(undo), self._journal),
            observer=self._journal,
            on_connection=self._journal.connected,
        )

    def _services(
        self, undo: contextlib.AsyncExitStack
    ) -> dict[type[Request], tuple[Service, ...]]:
        query, retrieve = self._query(), self._retrieve()
        undo.push_async_callback(asyncio.to_thread, query.close)
        undo.push_async_callback(retrieve.close)
        self._commitment = self._storage_commitment()
        undo.push_async_callback(self._commitment.close)
        self._commitment_requester = self._requester_of_commitment()
        undo.push_async_callback(self._commitment_requester.close)
        performed = self._performed_steps()
        undo.push_async_callback(asyncio.to_thread, performed.close)
        return {
            CEchoRQ: (Verification(),),
            CStoreRQ: (self._storage(),),
            CFindRQ: (query,),
            CGetRQ: (retrieve,),
            CMoveRQ: (retrieve,),
            NActionRQ: (self._commitment,),
            NEventReportRQ: (self._commitment_requester.results,),
            NCreateRQ: (performed,),
            NSetRQ: (performed,),
            NGetRQ: (performed.retrieval,),
        }

    def _storage(self) -> Storage:
        storage = self._settings.storage
        intake = Intake(
            self._files,
            self._catalog,
            workers=self._workers,
            journal=self._journal,
            on_conflict=storage.on_conflict,
            min_free_bytes=storage.min_free_bytes,
            forwarding=self._outbox,
        )
        self._placer = intake.placer
        return Storage(intake)

    def _query(self) -> Query:
        settings = self._settings
        bounds = bounds_of(settings)
        archive = Archive(
            self._catalog, self._files, settings.node.ae_title, bounds, lambda: self._registry
        )
        rules = QueryRules(settings.limits.max_matches, bounds.max_identifier_bytes)
        worklist = Worklist(
            self._items,
            bounds,
            lambda: self._registry,
            in_progress=settings.worklist.in_progress == "show",
        )
        return Query((archive, worklist), self._journal, rules)

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
                bounds=bounds_of(settings),
                response_seconds=settings.timeouts.response_seconds,
                min_free_bytes=settings.storage.min_free_bytes,
            ),
        )

    def _performed_steps(self) -> PerformedSteps:
        return PerformedSteps(
            self._steps,
            self._journal,
            self._settings.limits.max_identifier_bytes,
            lambda: self._registry,
            time.time,
        )

    def _storage_commitment(self) -> StorageCommitment:
        settings = self._settings
        commitment = StorageCommitment(
            self._catalog,
            self._files,
            self._requestor,
            lambda: self._registry,
            CommitmentJournal(
                self._log.logger,
                CommitmentMetrics(self._metrics.registry),
                self._journal.explanations,
                self._journal.internal_error,
            ),
            report_rules_of(settings),
        )
        self._metrics.add_counts_source(
            "dicomnode_commitments", "Storage commitments by state.", "state", commitment.counts
        )
        return commitment

    def _requester_of_commitment(self) -> CommitmentRequester:
        requester = CommitmentRequester(
            self._catalog,
            self._requestor,
            lambda: self._registry,
            self._journal,
            self._journal.explanations,
            self._log.logger,
            request_rules_of(self._settings),
        )
        self._metrics.add_counts_source(
            "dicomnode_commitment_requests",
            "Storage commitments asked of other nodes, by state.",
            "state",
            requester.requests.counts,
        )
        return requester

    # -- while running ---------------------------------------------------------------------------

    async def reload(self) -> None:
        """Take the registry and the TLS files anew: each as a whole, or not at all."""
        await self.reload_registry()
        await self._security.reload(self._registry)

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
        await self._commitment.registry_reloaded()

    async def ready(self) -> dict[str, str]:
        """Return what each readiness check says: "ok", or what is wrong (/readyz)."""
        return {
            "storage": await asyncio.to_thread(self._holdings.check_storage),
            "index": await asyncio.to_thread(self._holdings.check_index),
            "draining": "the node is shutting down" if self._draining else OK,
        }

    async def status(self) -> dict[str, Any]:
        """Return the summary that /api/status shows."""
        archive = await asyncio.to_thread(self._holdings.figures)
        conflicts = await asyncio.to_thread(self._holdings.identity_conflicts)
        host, port = self._acceptor.address
        requester = self._commitment_requester
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
            "worklist": await asyncio.to_thread(self._worklist_figures),
            "performed_steps": self._steps.counts(),
            "commitments": await self._commitment.figures(),
            "commitment_requests": await asyncio.to_thread(requester.requests.counts),
            "tls": self._security.figures(self._acceptor),
            **self._journal.figures(),
        }

    def _worklist_figures(self) -> dict[str, Any]:
        return {"items": self._items.counts(), **self._worklist_files.figures()}

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
