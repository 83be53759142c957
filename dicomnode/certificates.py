"""Certificates as rules see them: whose one is, and to which one an AE is bound.

Nothing here reads a file or speaks TLS.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

_MOST_CHARACTERS = 200
# As RFC 4514 has them.
_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "countryName": "C",
}
_FORMS = '"CN=CT_1", "DNS:ct1.example.org", "IP:10.0.0.9" or "SHA256:" and 64 hexadecimal digits'


class Form(StrEnum):
    """By what a certificate is told from others."""

    COMMON_NAME = "CN="
    DNS_NAME = "DNS:"
    IP_ADDRESS = "IP:"
    FINGERPRINT = "SHA256:"


@dataclass(frozen=True, slots=True)
class Binding:
    """One certificate that an AE may show: by a name in it, or by the SHA-256 of all of it."""

    form: Form
    value: str

    def __str__(self) -> str:
        return f"{self.form}{self.value}"


def binding(written: object) -> Binding:
    """Read a binding as ``ae.toml`` has it; raises ValueError."""
    if isinstance(written, Binding):
        return written
    text = written.strip() if isinstance(written, str) else ""
    form = next((each for each in Form if text.upper().startswith(each)), None)
    value = text[len(form) :].strip() if form else ""
    if form is None or not value:
        raise ValueError(f"must be a certificate such as {_FORMS}")
    match form:
        case Form.COMMON_NAME:
            return Binding(form, value)
        case Form.DNS_NAME:
            return Binding(form, value.lower())
        case Form.IP_ADDRESS:
            try:
                return Binding(form, str(ip_address(value)))
            except ValueError:
                raise ValueError('must have an IP address, as in "IP:10.0.0.9"') from None
        case Form.FINGERPRINT:
            digits = value.replace(":", "").lower()
            if not re.fullmatch("[0-9a-f]{64}", digits):
                raise ValueError('must have 64 hexadecimal digits after "SHA256:"')
            return Binding(form, digits)


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate that a peer showed; its names count only where it was verified."""

    bindings: frozenset[Binding]
    subject: str

    @property
    def words(self) -> str:
        """Say whose it is, for logs: the subject, and what else it can be bound by."""
        names = sorted(str(each) for each in self.bindings if each.form is not Form.FINGERPRINT)
        prints = [str(each) for each in self.bindings if each.form is Form.FINGERPRINT]
        return ", ".join([*names, *prints])[: 2 * _MOST_CHARACTERS]

    def is_one_of(self, allowed: tuple[Binding, ...]) -> bool:
        """Tell whether this is one of the certificates that an AE may show."""
        return not self.bindings.isdisjoint(allowed)


def certificate_of(encoded: bytes, decoded: Mapping[str, Any]) -> PeerCertificate:
    """Return the certificate ``encoded`` (DER), whose verified content the ssl module decoded."""
    bindings = {Binding(Form.FINGERPRINT, hashlib.sha256(encoded).hexdigest())}
    parts = [pair for part in decoded.get("subject", ()) for pair in part]
    bindings |= {Binding(Form.COMMON_NAME, value) for name, value in parts if name == "commonName"}
    for kind, value in decoded.get("subjectAltName", ()):
        if kind == "DNS":
            bindings.add(Binding(Form.DNS_NAME, value.lower()))
        elif kind == "IP Address":
            with contextlib.suppress(ValueError):  # OpenSSL has words for one that is none
                bindings.add(Binding(Form.IP_ADDRESS, str(ip_address(value.strip()))))
    subject = ", ".join(f"{_SHORT.get(name, name)}={value}" for name, value in parts)
    return PeerCertificate(frozenset(bindings), subject[:_MOST_CHARACTERS])


@dataclass(frozen=True, slots=True)
class Secured:
    """How a connection is secured: TLS version, cipher suite, and whom the peer showed to be."""

    version: str
    cipher_suite: str
    certificate: PeerCertificate | None = None

    @property
    def words(self) -> str:
        """Say it for the log."""
        subject = self.certificate.subject if self.certificate else ""
        return f"over {self.version}" + (f" as {subject}" if subject else "")


@dataclass(frozen=True, slots=True)
class Expected:
    """Whom we expect to reach over TLS: a host name, or one of ``bindings`` instead.

    Without a ``name`` it is the host that is called.
    """

    name: str | None = None
    bindings: tuple[Binding, ...] = ()
