"""Builds the node from its settings, starts it, drains it and stops it.

Nothing else constructs the parts; everything that a part needs is handed to it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import Any

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, __version__
from dicomnode.api.token import LocalToken, new_token, remove_token, write_token
from dicomnode.archive import OpenArchive, open_archive
from dicomnode.assembly import (
    Base,
    count_worklist,
    make_auditing,
    make_commitment_requester,
    make_fetching,
    make_forwarding,
    make_intake,
    make_performed_steps,
    make_query,
    make_quotas,
    make_retrieve,
    make_storage_commitment,
    note_custody,
    removal_of,
)
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
from dicomnode.errors import CatalogError
from dicomnode.interface import Served, routes_of
from dicomnode.net.acceptor import Acceptor
from dicomnode.net.buffers import BufferPool
from dicomnode.net.requestor import Requestor
from dicomnode.observe.http import OK, HTTPServer, build_app
from dicomnode.observe.logs import Log, Logger
from dicomnode.observe.loop_lag import noted_loop_lag
from dicomnode.observe.metrics import Metrics
from dicomnode.observe.refusals import Refusals
from dicomnode.outbox.desk import Desk
from dicomnode.outbox.forwarding import Forwarding
from dicomnode.parameters import (
    deadlines_of,
    forward_rules_of,
    listening_of,
    rules_of,
    tracing_of,
)
from dicomnode.reload import Configuration, Reloading
from dicomnode.removal import Removal, retention_rules_of
from dicomnode.security import TransportSecurity
from dicomnode.services.admission import Admission
from dicomnode.services.auditing import Auditing
from dicomnode.services.commitment import StorageCommitment
from dicomnode.services.commitment_request import CommitmentRequester
from dicomnode.services.dispatch import Dispatcher, Service
from dicomnode.services.explanations import Explanations
from dicomnode.services.identities import Identities
from dicomnode.services.journal import Journal
from dicomnode.services.quotas import Quotas
from dicomnode.services.storage import Storage
from dicomnode.services.verification import Verification
from dicomnode.services.worklist_desk import WorklistDesk
from dicomnode.services.worklist_following import WorklistFollowing
from dicomnode.services.worklist_intake import WorklistIntake
from dicomnode.settings import receive_block_bytes
from dicomnode.sync.fetching import Fetching
from dicomnode.whereabouts import Whereabouts

# A worklist directory on a file server that does not answer must not hold up the start.
_FIRST_LOOK_SECONDS = 10.0
# Whoever is asked for objects has taken or refused the A-ABORT by then.
_CLOSE_SECONDS = 1.0


class Node:
    """One DICOM node: storage, index, acceptor and HTTP of one process."""

    def __init__(self, configuration: Configuration) -> None:
        self._settings = settings = configuration.settings
        self._started_at = time.monotonic()
        self._draining = False
        self._log = Log(settings.log)
        self._registry = configuration.registry
        self._credentials = configuration.credentials
        self._whereabouts = Whereabouts(settings, configuration.file)
        self._reloading = Reloading(configuration, self._take, self._log.logger)
        self._metrics: Metrics
        self._auditing: Auditing
        self._journal: Journal
        self._archive: OpenArchive
        self._worklist_intake: WorklistIntake
        self._worklist_files: WorklistFollowing
        self._pool: BufferPool
        self._identities: Identities
        self._admission: Admission
        self._quotas: Quotas
        self._requestor: Requestor
        self._commitment: StorageCommitment
        self._commitment_requester: CommitmentRequester
        self._acceptor: Acceptor
        self._forwarding: Forwarding
        self._removal: Removal
        self._outbox_desk: Desk
        self._fetching: Fetching
        self._http: HTTPServer | None = None

    @property
    def log(self) -> Logger:
        """The log, for what is said of the whole process."""
        return self._log.logger

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

        Raises StoreLocked, CatalogError or OSError; nothing is left behind.
        """
        async with contextlib.AsyncExitStack() as undo:
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
            self._auditing = make_auditing(
                self._settings, self.log, self._metrics, lambda: self._archive.catalog
            )
            self._metrics.set_log_source(lambda: self._log.dropped)
            self._journal = Journal(self.log, self._metrics, explanations, self._auditing)
            self._archive = await open_archive(
                self._settings, self._registry, self.log, self._metrics, self._journal, undo
            )
            await undo.enter_async_context(self._auditing.audit.running())
            noting = note_custody(self._archive, self.log, self._auditing)
            await undo.enter_async_context(noting)
            await self._listen(undo)
            await undo.enter_async_context(noted_loop_lag(self._metrics.registry))
            self._undo = undo.pop_all()

    async def _listen(self, undo: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        self._security = TransportSecurity(settings, self._log.logger, self._metrics.tls)
        await self._security.start(self._registry)
        undo.callback(self._security.stop)
        base = self._open_network(undo)
        await asyncio.to_thread(self._quotas.follow)
        await self._commitment.start()
        await asyncio.to_thread(self._commitment_requester.recover)
        await self._follow_worklist(undo)
        await self._forward(base, undo)
        if settings.http.enabled:
            await self._serve_http(undo)
        await self._acceptor.start()
        # What is asked for by C-MOVE comes in at once.
        await self._fetching.start()
        self._archive.scrub.start()
        host, port = self._acceptor.address
        self._log.logger.info(f"{settings.node.ae_title} listening on {host}:{port}")
        self._security.started(self._acceptor)

    async def _forward(self, base: Base, undo: contextlib.AsyncExitStack) -> None:
        self._removal = removal_of(base, self._archive)
        await asyncio.to_thread(self._removal.start)
        undo.push_async_callback(asyncio.to_thread, self._removal.stop)
        self._forwarding = make_forwarding(
            base, self._archive.outbox, self._removal, self._commitment_requester
        )
        await self._forwarding.start()
        undo.push_async_callback(self._forwarding.stop, _CLOSE_SECONDS)
        self._outbox_desk = Desk(self._forwarding, self._commitment)
        self._metrics.set_outbox_source(self._outbox_desk.waiting)
        self._fetching = make_fetching(base, self._intake, self._forwarding)
        undo.push_async_callback(self._fetching.stop, _CLOSE_SECONDS)

    async def _serve_http(self, undo: contextlib.AsyncExitStack) -> None:
        settings, directory = self._settings.http, self._settings.storage.directory
        token = new_token()
        app = build_app(
            self._metrics,
            self.ready,
            self.status,
            self._whereabouts.on(self._journal.explanations.listed),
            routes_of(self._served(), (settings.token, token)),
        )
        self._http = HTTPServer(app, settings.host, settings.port, self._metrics.registry)
        await self._http.start()
        undo.push_async_callback(self._http.stop)
        undo.callback(self._tracing.close)
        host, port = self._http.address
        await asyncio.to_thread(write_token, directory, LocalToken(token, port))
        undo.push_async_callback(asyncio.to_thread, remove_token, directory)
        self._log.logger.info(f"http on {host}:{port}")

    def _served(self) -> Served:
        return Served(
            worklist=WorklistDesk(self._worklist_intake, self._archive.steps),
            outbox=self._outbox_desk,
            requester=self._commitment_requester,
            journal=self._journal,
            tracing=self._tracing,
            removal=self._removal,
            custodian=self._archive.custodian,
            auditing=self._auditing,
            catalog=self._archive.catalog,
            scrub=self._archive.scrub,
        )

    async def _follow_worklist(self, undo: contextlib.AsyncExitStack) -> None:
        settings = self._settings.worklist
        self._worklist_intake = WorklistIntake(self._archive.items, self._archive.steps)
        self._worklist_files = WorklistFollowing(
            settings.directory, settings.poll_seconds, self._worklist_intake, self._log.logger
        )
        undo.push_async_callback(asyncio.to_thread, self._worklist_files.stop)
        await asyncio.to_thread(self._worklist_files.start, _FIRST_LOOK_SECONDS)
        count_worklist(self._metrics, self._archive.items, self._worklist_files)

    def _open_network(self, undo: contextlib.AsyncExitStack) -> Base:
        settings = self._settings
        limits, deadlines, numbers = settings.limits, deadlines_of(settings), itertools.count(1)
        self._pool = BufferPool(
            asyncio.get_running_loop(),
            block_bytes=receive_block_bytes(limits.maximum_pdu_bytes),
            limit_bytes=limits.receive_buffer_bytes,
        )
        self._metrics.set_receive_buffer_source(
            lambda: (self._pool.in_use_bytes, self._pool.limit_bytes)
        )
        self._tracing = tracing_of(settings, self.log, self._auditing.traced)
        self._requestor = Requestor(
            numbers=numbers,
            maximum_pdu_bytes=limits.maximum_pdu_bytes,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
            pool=self._pool,
            deadlines=deadlines,
            observer=self._journal,
            secure=self._security.client,
            taps=self._tracing,
        )
        undo.push_async_callback(self._requestor.close, _CLOSE_SECONDS)
        base = self._base()
        if self._credentials.note:
            self.log.warning(self._credentials.note)
        self._identities = Identities(
            self._credentials, without_tls=settings.access.credentials_without_tls
        )
        undo.push_async_callback(asyncio.to_thread, self._identities.close)
        self._admission = Admission(rules_of(settings), self._registry, self._identities)
        self._acceptor = Acceptor(
            self._security.listening(listening_of(settings, self.log.warning), self._journal),
            numbers=numbers,
            pool=self._pool,
            deadlines=deadlines,
            admission=self._admission,
            provider=Dispatcher(self._services(base, undo), self._journal),
            observer=self._journal,
            on_connection=self._journal.connected,
            on_refused=Refusals(
                self.log,
                self._metrics.registry,
                self._journal.explanations.connection_refused,
            ).refused,
            taps=self._tracing,
        )
        return base

    def _base(self) -> Base:
        return Base(
            settings=self._settings,
            registry=lambda: self._registry,
            log=self.log,
            metrics=self._metrics,
            journal=self._journal,
            files=self._archive.files,
            catalog=self._archive.catalog,
            requestor=self._requestor,
            auditing=self._auditing,
            custodian=self._archive.custodian,
            scrub=self._archive.scrub,
        )

    def _services(
        self, base: Base, undo: contextlib.AsyncExitStack
    ) -> dict[type[Request], tuple[Service, ...]]:
        query, retrieve = make_query(base, self._archive.items), make_retrieve(base)
        undo.push_async_callback(asyncio.to_thread, query.close)
        undo.push_async_callback(retrieve.close)
        self._commitment = make_storage_commitment(base)
        undo.push_async_callback(self._commitment.close)
        self._commitment_requester = make_commitment_requester(base)
        undo.push_async_callback(self._commitment_requester.close)
        performed = make_performed_steps(base, self._archive.steps, self._archive.outbox)
        undo.push_async_callback(asyncio.to_thread, performed.close)
        return {
            CEchoRQ: (Verification(),),
            CStoreRQ: (self._storage(base),),
            CFindRQ: (query,),
            CGetRQ: (retrieve,),
            CMoveRQ: (retrieve,),
            NActionRQ: (self._commitment,),
            NEventReportRQ: (self._commitment_requester.results,),
            NCreateRQ: (performed,),
            NSetRQ: (performed,),
            NGetRQ: (performed.retrieval,),
        }

    def _storage(self, base: Base) -> Storage:
        self._intake = make_intake(base, self._archive)
        self._quotas = make_quotas(base)
        return Storage(self._intake, self._quotas)

    # -- while running ---------------------------------------------------------------------------

    async def reload(self) -> bool:
        """Take settings, registry, users and certificates anew, as a whole or not at all.

        What is wrong is logged; returns whether they were taken.
        """
        if not await self._reloading.reload():
            return False
        self._fetching.registry_reloaded()
        await self._commitment.registry_reloaded()
        self._forwarding.registry_reloaded()
        await self._follow_quotas()
        # Looked at with the settings above; what broke since is told of by itself.
        return await self._security.reload(self._registry)

    def _take(self, configuration: Configuration) -> None:
        settings, registry = configuration.settings, configuration.registry
        rules = forward_rules_of(settings, registry)
        self._registry = self._admission.registry = registry
        self._identities.replace(configuration.credentials)
        self._whereabouts.settings = settings
        self._log.set_level(settings.log.level)
        self._forwarding.follow(rules)
        self._removal.retention.follow(retention_rules_of(settings))

    async def _follow_quotas(self) -> None:
        try:
            await asyncio.to_thread(self._quotas.follow)
        except CatalogError as error:
            self.log.error(f"max_stored_bytes is not kept for AEs that are new to it: {error}")

    def touch_index(self) -> None:
        """Return once the index's writer has come to this; blocks. Raises CatalogError."""
        self._archive.catalog.transact(lambda cursor: None)

    async def ready(self) -> dict[str, str]:
        """Return what each readiness check says: "ok", or what is wrong (/readyz)."""
        return {
            "storage": await asyncio.to_thread(self._archive.holdings.check_storage),
            "index": await asyncio.to_thread(self._archive.holdings.check_index),
            "draining": "the node is shutting down" if self._draining else OK,
        }

    async def status(self) -> dict[str, Any]:
        """Return the summary that /api/status shows."""
        archive = await asyncio.to_thread(self._archive.holdings.figures)
        conflicts = await asyncio.to_thread(self._archive.holdings.identity_conflicts)
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
            "worklist": await asyncio.to_thread(
                lambda: {"items": self._archive.items.counts(), **self._worklist_files.figures()}
            ),
            "performed_steps": self._archive.steps.counts(),
            "outbox": await asyncio.to_thread(self._outbox_desk.figures),
            "fetch": self._fetching.figures(),
            "commitments": await self._commitment.figures(),
            "commitment_requests": await asyncio.to_thread(requester.requests.counts),
            "scrub": await asyncio.to_thread(self._archive.scrub.figures),
            "tls": self._security.figures(self._acceptor),
            "audit": self._auditing.audit.figures(),
            **await asyncio.to_thread(self._removal.figures),
            "custody": await asyncio.to_thread(self._archive.custody_figures),
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
        # What a peer sends us by C-MOVE would keep its association open.
        await self._fetching.stop(_CLOSE_SECONDS)
        await self._acceptor.stop(seconds)
        await self._undo.aclose()

    def abort_all(self) -> None:
        """Abort every association now, so that ``stop`` need not wait for them."""
        self._acceptor.abort_all()
