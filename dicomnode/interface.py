"""What a node serves over HTTP beside its own health: put together from ``api``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.routing import BaseRoute

from dicomnode.api.access import Access
from dicomnode.api.activity import activity_routes
from dicomnode.api.commitment import commitment_routes
from dicomnode.api.custody import custody_routes
from dicomnode.api.deletion import deletion_routes
from dicomnode.api.integrity import integrity_routes
from dicomnode.api.outbox import outbox_routes
from dicomnode.api.retention import retention_routes
from dicomnode.api.trace import trace_routes
from dicomnode.api.worklist import worklist_routes
from dicomnode.index.catalog import Catalog
from dicomnode.observe.trace import Tracing
from dicomnode.outbox.desk import Desk
from dicomnode.removal import Removal
from dicomnode.services.auditing import Auditing
from dicomnode.services.commitment_request import CommitmentRequester
from dicomnode.services.custody import Custodian
from dicomnode.services.journal import Journal
from dicomnode.services.scrub import Scrub
from dicomnode.services.worklist_desk import WorklistDesk


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The parts of a node that something is served of."""

    worklist: WorklistDesk
    outbox: Desk
    requester: CommitmentRequester
    journal: Journal
    tracing: Tracing
    removal: Removal
    custodian: Custodian | None
    auditing: Auditing
    catalog: Catalog
    scrub: Scrub


def routes_of(served: Served, tokens: Iterable[str]) -> list[BaseRoute]:
    """Return the routes of /api; most of them need one of ``tokens``."""
    access = Access(tokens)
    return [
        *worklist_routes(served.worklist, access),
        *outbox_routes(served.outbox, access),
        *commitment_routes(served.requester, access),
        *activity_routes(served.journal, served.outbox),
        *trace_routes(served.tracing, access),
        *deletion_routes(served.removal.deleting, access),
        *retention_routes(served.removal.retention, access),
        *custody_routes(served.custodian, served.catalog, served.auditing, access),
        *integrity_routes(served.catalog, served.scrub, access),
    ]
