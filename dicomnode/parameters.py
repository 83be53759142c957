"""Settings as the parts of a node want them."""

from __future__ import annotations

import os
from collections.abc import Callable

from dicomnode.audit.delivery import Target
from dicomnode.audit.file import AuditFile
from dicomnode.audit.messages import AuditSource
from dicomnode.audit.syslog import StreamReceiver, Tls, UdpReceiver
from dicomnode.audit.trail import FILE, SYSLOG, ourselves
from dicomnode.audit.trail import Options as AuditOptions
from dicomnode.audit_settings import read_destination
from dicomnode.descriptors import connection_shares
from dicomnode.index.backend import Synchronous
from dicomnode.net.acceptor import Listening
from dicomnode.net.ending import Deadlines
from dicomnode.observe.logs import Logger
from dicomnode.observe.trace import Trace, Tracing
from dicomnode.outbox.forwarding import Options
from dicomnode.outbox.rules import Rules as ForwardRules
from dicomnode.registry import Registry
from dicomnode.services.admission import Rules
from dicomnode.services.commitment_reports import ReportRules
from dicomnode.services.commitment_request import RequestRules
from dicomnode.services.identifier import Bounds
from dicomnode.services.query import QueryRules
from dicomnode.services.retrieve import Rules as RetrieveRules
from dicomnode.services.scrub import Rules as ScrubRules
from dicomnode.settings import Settings
from dicomnode.sync.fetching import Options as FetchingOptions
from dicomnode.sync.rules import make_rules as make_fetch_rules

_DAY_SECONDS = 86400.0


def audit_of(settings: Settings) -> AuditOptions | None:
    """Return where the audit trail goes; None when it is off."""
    audit = settings.audit
    if not audit.enabled:
        return None
    targets: dict[str, tuple[str, Target]] = {}
    if audit.destination:
        destination = read_destination(audit.destination)
        host, port = destination.host, destination.port
        tls = Tls(audit.tls_ca_file, audit.tls_certificate_file, audit.tls_key_file)
        targets[SYSLOG] = (
            str(destination),
            (
                UdpReceiver(host, port)
                if destination.transport == "udp"
                else StreamReceiver(host, port, tls if destination.transport == "tls" else None)
            ),
        )
    if audit.file is not None:
        targets[FILE] = str(audit.file), AuditFile(audit.file)
    node = settings.node
    return AuditOptions(
        node=ourselves(os.getpid(), (node.ae_title, *node.ae_title_aliases)),
        source=AuditSource(node.ae_title, audit.enterprise_site),
        spool_path=settings.storage.directory / "audit.sqlite",
        spool_bytes=audit.spool_bytes,
        targets=targets,
    )


def bounds_of(settings: Settings) -> Bounds:
    """Return what an identifier may hold."""
    limits = settings.limits
    return Bounds(limits.max_identifier_bytes, limits.max_list_values)


def deadlines_of(settings: Settings) -> Deadlines:
    """Return how long associations may wait."""
    timeouts = settings.timeouts
    return Deadlines(
        artim=timeouts.artim_seconds,
        pdu=timeouts.pdu_seconds,
        idle=timeouts.idle_seconds,
        write=timeouts.write_seconds,
        connect=timeouts.connect_seconds,
        response=timeouts.response_seconds,
    )


def forward_rules_of(settings: Settings, registry: Registry) -> ForwardRules:
    """Return which objects are forwarded, and where."""
    strict = settings.node.strict_ae_titles
    return ForwardRules(settings.forward, registry, strict=strict)


def forwarding_of(settings: Settings) -> Options:
    """Return how objects are forwarded."""
    return Options(
        settings=settings.forwarding,
        ae_title=settings.node.ae_title,
        strict_ae_titles=settings.node.strict_ae_titles,
        response_seconds=settings.timeouts.response_seconds,
        min_free_bytes=settings.storage.min_free_bytes,
    )


def fetching_of(settings: Settings) -> FetchingOptions:
    """Return what is fetched, and how."""
    return FetchingOptions(
        rules=make_fetch_rules(settings.fetch),
        ae_title=settings.node.ae_title,
        strict_ae_titles=settings.node.strict_ae_titles,
        response_seconds=settings.timeouts.response_seconds,
        pause=settings.forwarding.pause,
    )


def listening_of(settings: Settings, warn: Callable[[str], None]) -> Listening:
    """Return where connections are taken, and how many; ``warn`` is told if they are too few."""
    shares = connection_shares(settings.limits.max_associations)
    if shares.lacking:
        warn(shares.lacking)
    return Listening(
        settings.node.host,
        settings.node.port,
        maximum_pdu_bytes=settings.limits.maximum_pdu_bytes,
        max_connections=shares.total,
        max_connections_per_address=(
            settings.limits.max_connections_per_address or shares.per_address
        ),
    )


def query_rules_of(settings: Settings) -> QueryRules:
    """Return what a query may ask for and find."""
    limits = settings.limits
    return QueryRules(limits.max_matches, limits.max_identifier_bytes)


def report_rules_of(settings: Settings) -> ReportRules:
    """Return how storage commitment reports are delivered."""
    return ReportRules(
        retrieve_ae_title=settings.node.ae_title,
        strict_ae_titles=settings.node.strict_ae_titles,
        response_seconds=settings.timeouts.response_seconds,
        retries=settings.commitment,
    )


def request_rules_of(settings: Settings) -> RequestRules:
    """Return how storage commitment is asked of other nodes."""
    return RequestRules(
        ae_title=settings.node.ae_title,
        strict_ae_titles=settings.node.strict_ae_titles,
        response_seconds=settings.timeouts.response_seconds,
    )


def retrieve_rules_of(settings: Settings) -> RetrieveRules:
    """Return how objects are handed out."""
    return RetrieveRules(
        ae_title=settings.node.ae_title,
        strict_ae_titles=settings.node.strict_ae_titles,
        bounds=bounds_of(settings),
        response_seconds=settings.timeouts.response_seconds,
        min_free_bytes=settings.storage.min_free_bytes,
    )


def rules_of(settings: Settings) -> Rules:
    """Return who and what is admitted."""
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
        user_identity=settings.access.user_identity,
    )


def scrub_rules_of(settings: Settings) -> ScrubRules:
    """Return how fast stored files are read again, and how often."""
    scrub = settings.scrub
    return ScrubRules(scrub.bytes_per_second, scrub.every_days * _DAY_SECONDS, scrub.enabled)


def synchronous_of(settings: Settings) -> Synchronous:
    """Return how durable the index's commits are."""
    return "FULL" if settings.storage.durability == "full" else "OFF"


def tracing_of(settings: Settings, log: Logger, audited: Callable[[Trace], None]) -> Tracing:
    """Return what records associations when it is asked to; ``audited`` is told of it."""
    storage = settings.storage
    return Tracing(storage.directory, log, min_free_bytes=storage.min_free_bytes, audited=audited)
