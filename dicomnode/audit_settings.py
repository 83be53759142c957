"""The settings of the audit trail: ``[audit]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from dicomnode import configuration
from dicomnode.value_types import Size

# PS3.15 §A.6 and §A.7; syslog over plain TCP has no port of its own (RFC 6587 §3.2).
_PORTS: Final = {"udp": 514, "tcp": 514, "tls": 6514}
_EXAMPLE: Final = 'must be like "udp://host:514", "tcp://host:514" or "tls://host:6514"'
_SITE: Final = re.compile(r"[^\x00-\x1f\x7f]{0,64}")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where syslog messages go; ``transport`` is udp, tcp or tls."""

    transport: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.transport}://{host}:{self.port}"


def read_destination(text: str) -> Destination:
    """Read ``"tls://audit.example:6514"``; the port may be left out. Raises ValueError."""
    parts = urlsplit(text.strip())
    if parts.scheme not in _PORTS or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(_EXAMPLE)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(_EXAMPLE) from None
    if not host or parts.username is not None or port == 0:
        raise ValueError(_EXAMPLE)
    return Destination(parts.scheme, configuration.host(host), port or _PORTS[parts.scheme])


def _destination(value: str) -> str:
    return str(read_destination(value)) if value else ""


def _site(value: str) -> str:
    if not _SITE.fullmatch(value):
        raise ValueError("must have 64 characters or fewer, none of them a control character")
    return value


class AuditSettings(BaseModel):
    """``[audit]``: whether and where audit messages of PS3.15 §A.5 are written.

    With ``destination`` they go to a syslog receiver, with ``file`` to a file, with both to both.
    ``spool_bytes`` bounds what is kept for each of them while it cannot be written.
    ``enterprise_site`` is the AuditEnterpriseSiteID. The ``tls_`` keys are for ``tls://``: whom to
    trust ("" is what the system trusts), and with what to say who we are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    destination: Annotated[str, AfterValidator(_destination)] = ""
    file: Path | None = None
    spool_bytes: Annotated[Size, Field(ge=1024 * 1024)] = 64 * 1024**2
    enterprise_site: Annotated[str, AfterValidator(_site)] = ""
    tls_ca_file: Path | None = None
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None
    # After what it needs, so that it can look at it.
    enabled: bool = False

    @field_validator("enabled")
    @classmethod
    def _has_somewhere_to_go(cls, value: bool, info: ValidationInfo) -> bool:
        # A key that is wrong is not there, and has been told of.
        given = info.data.get("destination", "?"), info.data.get("file", "?")
        if value and not any(given):
            raise ValueError("needs audit.destination or audit.file")
        return value
