"""Settings as the parts of a node want them."""

from __future__ import annotations

from dicomnode.net.ending import Deadlines
from dicomnode.outbox.forwarding import Options
from dicomnode.outbox.rules import Rules as ForwardRules
from dicomnode.registry import Registry
from dicomnode.services.admission import Rules
from dicomnode.services.commitment_reports import ReportRules
from dicomnode.services.commitment_request import RequestRules
from dicomnode.services.identifier import Bounds
from dicomnode.settings import Settings


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


def report_rules_of(settings: Settings) -> ReportRules:
    """Return how storage commitments are reported."""
    return ReportRules(
        retrieve_ae_title=settings.node.ae_title,
        strict_ae_titles=settings.node.strict_ae_titles,
        response_seconds=settings.timeouts.response_seconds,
        retry_seconds=settings.commitment.retry_seconds,
        max_retry_seconds=settings.commitment.max_retry_seconds,
        give_up_seconds=settings.commitment.give_up_seconds,
    )


def request_rules_of(settings: Settings) -> RequestRules:
    """Return how others are asked for storage commitment."""
    return RequestRules(
        ae_title=settings.node.ae_title,
        strict_ae_titles=settings.node.strict_ae_titles,
        response_seconds=settings.timeouts.response_seconds,
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
    )
