"""A certification authority for tests: certificates of every kind, made when they are needed."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        loaded = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        return sha256(loaded.public_bytes(serialization.Encoding.DER)).hexdigest()

    def settings(self) -> dict[str, str]:
        """Return the keys of ``[tls]`` that name the files."""
        return {"certificate": str(self.certificate), "key": str(self.key)}


class Authority:
    """Issues certificates into ``directory``; its own is ``ca``."""

    def __init__(self, directory: Path, name: str = "Test CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            self._begun(self._name, self._key.public_key(), -1, 3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        name: str,
        *names: str,
        since_days: float = -1,
        days: float = 365,
        into: Issued | None = None,
    ) -> Issued:
        """Issue a certificate for the common name ``name`` and the host names ``names``.

        It is valid from ``since_days`` from now on until ``days`` from now; ``into`` are files to
        write over.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        begun = self._begun(subject, key.public_key(), since_days, days)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        begun = begun.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if names:
            alternatives = x509.SubjectAlternativeName(list(map(_general, names)))
            begun = begun.add_extension(alternatives, critical=False)
        certificate = begun.sign(self._key, hashes.SHA256())
        path = self.directory / f"{name}-{certificate.serial_number:x}"
        issued = into or Issued(path.with_suffix(".pem"), path.with_suffix(".key"))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        issued.key.chmod(0o600)
        issued.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return issued

    def revoke(self, *issued: Issued, days: float = 30, since_days: float = -1) -> bytes:
        """Return the list, in PEM, of certificates that are revoked; valid for ``days``."""
        now = datetime.now(UTC)
        begun = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now + since_days * DAY)
            .next_update(now + days * DAY)
        )
        for each in issued:
            number = x509.load_pem_x509_certificate(each.certificate.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(number)
            begun = begun.add_revoked_certificate(
                revoked.revocation_date(now + since_days * DAY).build()
            )
        signed = begun.sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def _begun(
        self, subject: x509.Name, key: Any, since_days: float, days: float
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + since_days * DAY)
            .not_valid_after(now + days * DAY)
        )


def _general(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ip_address(name))
    return x509.DNSName(name)


def of_version(pem: bytes, version: int) -> bytes:
    """Return one certificate or list as if it were of another version (RFC 5280 §4.1, §5.1)."""
    begin, *lines, end = pem.strip().splitlines()
    der = bytearray(base64.b64decode(b"".join(lines)))
    der[der.index(b"\x02\x01") + 2] = version
    return b"\n".join((begin, base64.b64encode(der), end, b""))


def node_tls(authority: Authority, **keys: Any) -> Mapping[str, Any]:
    """Return ``[tls]`` of a node at localhost, on any free port."""
    ours = authority.issue("node", "localhost", "127.0.0.1")
    return {"enabled": True, "port": 0, "ca": str(authority.ca), **ours.settings(), **keys}
