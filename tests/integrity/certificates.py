"""Signers with certificates of an authority of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

from dicomnode.integrity.signature import Signer

_START = datetime(2026, 1, 1, tzinfo=UTC)


def issue(
    name: str,
    key: CertificateIssuerPrivateKeyTypes,
    issuer: tuple[x509.Certificate, CertificateIssuerPrivateKeyTypes] | None = None,
    *,
    ca: bool = False,
    path_length: int | None = None,
    start: datetime = _START,
    days: int = 3650,
    usage: x509.KeyUsage | None = None,
) -> x509.Certificate:
    """Return a certificate, signed by itself without ``issuer``."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above, above_key = issuer or (None, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.subject if above is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    )
    if usage is not None:
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(above_key, hashes.SHA256())


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def ec_signer() -> Signer:
    """Return a signer with an EC key, whose certificate is signed by itself."""
    key = ec_key()
    return Signer(key, (issue("Archive", key),))


def rsa_signer() -> Signer:
    """Return the same with an RSA key."""
    key = rsa.generate_private_key(65537, 2048)
    return Signer(key, (issue("Archive", key),))
