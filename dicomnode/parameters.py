"""Settings as the parts of a node want them."""

from __future__ import annotations

from pathlib import Path

from dicomnode.errors import ConfigurationError
from dicomnode.net.acceptor import Listening
from dicomnode.net.ending import Deadlines
from dicomnode.outbox.forwarding import Options
from dicomnode.outbox.rules import Rules as ForwardRules
from dicomnode.registry import Registry
from dicomnode.services.admission import Rules
from dicomnode.services.identifier import Bounds
from dicomnode.services.identities import Credentials, Tokens
from dicomnode.settings import JwtSettings, Settings
from dicomnode.users import load_users, users_path


def bounds_of(settings: Settings) -> Bounds:
    """Return what an identifier may hold."""
    limits = settings.limits
    return Bounds(limits.max_identifier_bytes, limits.max_list_values)


def credentials_of(settings: Settings, registry_path: Path) -> Credentials:
    """Read what user identities are checked against; blocks. Raises ConfigurationError."""
    return Credentials(load_users(users_path(registry_path)), _tokens(settings.jwt))


def _tokens(settings: JwtSettings) -> Tokens | None:
    if settings.key_file is None:
        return None
    # Late: whoever takes no tokens starts faster.
    from dicomnode.services.tokens import TokenRules
    from dicomnode.services.tokens import Tokens as Checker

    try:
        key = settings.key_file.read_bytes()
    except OSError as error:
        words = f"jwt.key_file: {settings.key_file} cannot be read: {error.strerror}"
        raise ConfigurationError([words]) from None
    return Checker(
        TokenRules(
            algorithm=settings.algorithm,
            issuer=settings.issuer,
            audience=settings.audience,
            user_claim=settings.user_claim,
            leeway_seconds=settings.leeway_seconds,
        ),
        key,
    )


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


def listening_of(settings: Settings) -> Listening:
    """Return where and how to listen."""
    node, limits = settings.node, settings.limits
    # More than associations: those who are rejected, or have not asked yet, take one too.
    connections = 2 * limits.max_associations + 64
    return Listening(
        node.host,
        node.port,
        maximum_pdu_bytes=limits.maximum_pdu_bytes,
        max_connections=connections,
        max_connections_per_address=limits.max_connections_per_address or connections // 2,
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
