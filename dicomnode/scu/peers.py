"""Whom to call: an AE title with its address, as it is written or as the registry has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from dicomnode.errors import ConnectionFailed
from dicomnode.ul.titles import ae_title

# IANA's port for DICOM without TLS, where a peer is written without one (PS3.8 §9.1.1).
DEFAULT_PORT: Final = 104
# An IPv6 address stands in brackets.
_WRITTEN: Final = re.compile(r"(?P<title>[^@]+)@(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d+))?")


class Entity(Protocol):
    """An application entity and where it is reached, such as one of the registry."""

    @property
    def title(self) -> str:
        """Its AE title."""

    @property
    def host(self) -> str | None:
        """Its host name or IP address; None when it cannot be called."""

    @property
    def port(self) -> int:
        """Its TCP port."""


class Directory(Protocol):
    """Where titles are looked up, such as the registry."""

    def lookup(self, title: str) -> Entity | None:
        """Return the entity with ``title``, or None."""


@dataclass(frozen=True, slots=True)
class Peer:
    """An application entity that can be called."""

    title: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}"


def peer_of(written: str | Entity, directory: Directory | None = None) -> Peer:
    """Return the peer that is meant by ``TITLE@host:port``, a title of ``directory``, or an entity.

    Raises ValueError for what is none of them, ConnectionFailed for one without an address.
    """
    entity: Entity | None
    if isinstance(written, str):
        if "@" in written:
            return _parse(written)
        entity = directory.lookup(written) if directory is not None else None
        if entity is None:
            where = "is not in the registry" if directory is not None else "has no address"
            raise ValueError(f"{written!r} {where}; write it as TITLE@host:port")
    else:
        entity = written
    if entity.host is None:
        raise ConnectionFailed(f"{entity.title} has no host in the registry")
    return Peer(entity.title, entity.host, entity.port)


def named_title(written: str) -> str:
    """Return an AE title without its outer spaces; raises ValueError, which names it."""
    try:
        return ae_title(written)
    except ValueError as error:
        raise ValueError(f"{written!r} {error}") from None


def _parse(written: str) -> Peer:
    match = _WRITTEN.fullmatch(written.strip())
    if match is None:
        raise ValueError(f"{written!r} is not of the form TITLE@host:port")
    title, host = named_title(match["title"]), match["host"].strip("[]")
    port = int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"{port} is no port: 1 to 65535")
    return Peer(title, host, port)
