"""Makes the services of a node out of what they all rest on.

What is made here is started and stopped by ``node``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from dicomnode.archive import OpenArchive
from dicomnode.audit.events import Study
from dicomnode.audit.trail import Audit
from dicomnode.index.catalog import Catalog
from dicomnode.index.owners import owner_of
from dicomnode.index.steps import Steps
from dicomnode.index.worklist import WorklistItems
from dicomnode.net.requestor import Requestor
from dicomnode.observe.commitment_metrics import CommitmentMetrics
from dicomnode.observe.logs import Logger
from dicomnode.observe.metrics import Metrics
from dicomnode.outbox.forwarding import Forwarding, Outbox
from dicomnode.outbox.journal import Journal as ForwardingJournal
from dicomnode.parameters import (
    audit_of,
    bounds_of,
    fetching_of,
    forwarding_of,
    query_rules_of,
    report_rules_of,
    request_rules_of,
    retrieve_rules_of,
)
from dicomnode.registry import Registry
from dicomnode.removal import Removal, make_removal, reception_clock
from dicomnode.services.auditing import Auditing
from dicomnode.services.commitment import StorageCommitment
from dicomnode.services.commitment_journal import CommitmentJournal
from dicomnode.services.commitment_request import CommitmentRequester
from dicomnode.services.custody import Custodian
from dicomnode.services.custody_anchors import Anchors
from dicomnode.services.intake import Intake
from dicomnode.services.journal import Journal
from dicomnode.services.mpps import PerformedSteps
from dicomnode.services.query import Query
from dicomnode.services.query_archive import Archive
from dicomnode.services.quotas import Quotas
from dicomnode.services.retrieve import Retrieve
from dicomnode.services.scrub import Scrub
from dicomnode.services.verified_reads import VerifiedReads
from dicomnode.services.worklist import Worklist
from dicomnode.services.worklist_following import WorklistFollowing
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore
from dicomnode.sync.fetching import Fetching, Parts
from dicomnode.sync.journal import Journal as FetchJournal


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What services rest on; ``registry`` returns the one in force."""

    settings: Settings
    registry: Callable[[], Registry]
    log: Logger
    metrics: Metrics
    journal: Journal
    files: FileStore
    catalog: Catalog
    requestor: Requestor
    auditing: Auditing
    custodian: Custodian | None
    scrub: Scrub


def make_auditing(
    settings: Settings, log: Logger, metrics: Metrics, catalog: Callable[[], Catalog]
) -> Auditing:
    """Return what tells the audit trail what happens; ``catalog`` returns the open index."""

    def study(uid: str) -> Study | None:
        owner = owner_of(catalog(), uid)
        return Study(*owner) if owner is not None else None

    return Auditing(Audit(audit_of(settings), log, metrics.registry, study))


def make_intake(base: Base, archive: OpenArchive) -> Intake:
    """Return what every object comes in through, by whatever way it comes."""
    storage, threads = base.settings.storage, archive.threads
    return Intake(
        base.files,
        base.catalog,
        workers=threads.workers,
        group=threads.group,
        turns=threads.turns,
        settler=threads.settler,
        journal=base.journal,
        on_conflict=storage.on_conflict,
        min_free_bytes=storage.min_free_bytes,
        forwarding=archive.outbox,
        auditing=base.auditing,
        custodian=base.custodian,
        now=reception_clock(base.settings, base.catalog),
    )


def note_custody(
    archive: OpenArchive, log: Logger, auditing: Auditing
) -> AbstractAsyncContextManager[None]:
    """Return what notes the head of the chain of custody now and then, while it is entered."""
    if archive.custodian is None:
        return nullcontext()
    return Anchors(archive.custodian, log, auditing.custody_noted).running()


def make_quotas(base: Base) -> Quotas:
    """Return what counts the objects of AEs that may store so much."""
    strict = base.settings.node.strict_ae_titles
    quotas = Quotas(base.registry, base.catalog, strict_ae_titles=strict, now=time.monotonic)
    base.metrics.add_counts_source(
        "dicomnode_quota_stored_bytes",
        "Bytes held of AEs with max_stored_bytes.",
        "calling_aet",
        quotas.stored,
    )
    return quotas


def count_worklist(metrics: Metrics, items: WorklistItems, files: WorklistFollowing) -> None:
    """Have the metrics count the items of the worklist, and the files that are none."""
    metrics.add_counts_source(
        "dicomnode_worklist_items", "Worklist items by state.", "state", items.counts
    )
    metrics.add_counts_source(
        "dicomnode_worklist_files_left_out",
        "Worklist files that cannot be served, by reason.",
        "reason",
        files.reasons,
    )


def make_query(base: Base, items: WorklistItems) -> Query:
    """Return C-FIND, of the archive and of the worklist."""
    settings = base.settings
    bounds = bounds_of(settings)
    archive = Archive(base.catalog, base.files, settings.node.ae_title, bounds, base.registry)
    in_progress = settings.worklist.in_progress == "show"
    worklist = Worklist(items, bounds, base.registry, in_progress=in_progress)
    return Query((archive, worklist), base.journal, query_rules_of(settings), base.auditing)


def make_retrieve(base: Base) -> Retrieve:
    """Return C-GET and C-MOVE."""
    return Retrieve(
        base.catalog,
        base.files,
        base.requestor,
        base.registry,
        base.journal,
        base.log,
        retrieve_rules_of(base.settings),
        base.auditing,
        base.custodian,
        verified_reads(base),
    )


def verified_reads(base: Base) -> VerifiedReads:
    """Return what compares objects with their digests as they are handed out."""
    scrub = base.scrub
    return VerifiedReads(base.settings.storage.verify_on_read, scrub.wholeness, scrub.bad)


def make_performed_steps(base: Base, steps: Steps, outbox: Outbox) -> PerformedSteps:
    """Return MPPS."""
    most = base.settings.limits.max_identifier_bytes
    return PerformedSteps(steps, base.journal, most, base.registry, time.time, outbox)


def make_storage_commitment(base: Base) -> StorageCommitment:
    """Return storage commitment as SCP."""
    commitment = StorageCommitment(
        base.catalog,
        base.files,
        base.requestor,
        base.registry,
        CommitmentJournal(
            base.log,
            CommitmentMetrics(base.metrics.registry),
            base.journal.explanations,
            base.journal.internal_error,
        ),
        report_rules_of(base.settings),
        base.custodian,
        verified_reads(base),
    )
    base.metrics.add_counts_source(
        "dicomnode_commitments", "Storage commitments by state.", "state", commitment.counts
    )
    return commitment


def make_commitment_requester(base: Base) -> CommitmentRequester:
    """Return storage commitment as SCU."""
    requester = CommitmentRequester(
        base.catalog,
        base.requestor,
        base.registry,
        base.journal,
        base.journal.explanations,
        base.log,
        request_rules_of(base.settings),
        base.custodian,
    )
    base.metrics.add_counts_source(
        "dicomnode_commitment_requests",
        "Storage commitments asked of other nodes, by state.",
        "state",
        requester.requests.counts,
    )
    return requester


def removal_of(base: Base, archive: OpenArchive) -> Removal:
    """Return what takes objects out of the archive."""
    return make_removal(
        base.settings,
        base.log,
        base.metrics,
        base.journal.explanations,
        base.auditing,
        base.files,
        base.catalog,
        archive.threads.turns,
        base.custodian,
    )


def make_forwarding(
    base: Base, outbox: Outbox, removal: Removal, requester: CommitmentRequester
) -> Forwarding:
    """Return what sends on whatever is in ``outbox``."""
    journal = ForwardingJournal(
        base.log, base.metrics, base.journal.explanations, base.journal.peers
    )
    forwarding = Forwarding(
        outbox,
        base.files,
        base.requestor,
        base.registry,
        journal,
        forwarding_of(base.settings),
        auditing=base.auditing,
        verified=verified_reads(base),
    )
    forwarding.commit_with(requester, removal.remove_committed, journal)
    return forwarding


def make_fetching(base: Base, intake: Intake, forwarding: Forwarding) -> Fetching:
    """Return what fetches, into ``intake``, and sends by ``forwarding``."""
    parts = Parts(
        base.catalog,
        intake,
        base.requestor,
        base.registry,
        forwarding.send,
        FetchJournal(base.log, base.metrics.registry),
    )
    return Fetching(fetching_of(base.settings), parts)
