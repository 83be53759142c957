"""Signatures of a manifest: Ed25519 (RFC 8032), or detached CMS with an X.509 certificate.

A signature proves who made an export: someone who changes a file can compute every digest anew,
but has not the key. That holds as far as the key is known to be the right one; it comes with the
export, and is believed only on the word of whoever verifies.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from dicomnode.errors import UnusableKey
from dicomnode.integrity import cms
from dicomnode.integrity.findings import Differs, Kind, Signed

ED25519_SIGNATURE: Final = "SHA256SUMS.SIG"
CMS_SIGNATURE: Final = "SHA256SUMS.P7S"
SIGNATURES: Final = frozenset((ED25519_SIGNATURE, CMS_SIGNATURE))
# Of a signature, or of what is beside it: certificates are a few kilobytes each.
MAX_BYTES: Final = 1024 * 1024
_MAX_CHAIN: Final = 8
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
# What cryptography raises for keys and certificates that are none; some are no ValueErrors.
_Errors: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs manifests; with certificates, of which the first is the key's, as CMS."""

    key: PrivateKeyTypes
    certificates: tuple[x509.Certificate, ...] = ()

    @property
    def file_name(self) -> str:
        """What the signature's file is called."""
        return CMS_SIGNATURE if self.certificates else ED25519_SIGNATURE

    @property
    def public(self) -> bytes:
        """What goes with the export, in PEM form: the public key, or the certificates."""
        if self.certificates:
            return _pem(self.certificates)
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 (hex) of the public key in DER form."""
        return hashlib.sha256(_spki(self.key.public_key())).hexdigest()

    def sign(self, manifest: bytes) -> bytes:
        """Return the signature file."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(manifest)
        at = datetime.now(UTC).replace(microsecond=0)
        digest = hashlib.sha256(manifest).digest()
        attributes = cms.attributes(digest, at)
        if isinstance(self.key, rsa.RSAPrivateKey):
            value = self.key.sign(attributes, padding.PKCS1v15(), hashes.SHA256())
        else:
            assert isinstance(self.key, ec.EllipticCurvePrivateKey)
            value = self.key.sign(attributes, ec.ECDSA(hashes.SHA256()))
        return cms.message(self.certificates, digest, at, value)


def load_signer(key: Path, certificate: Path | None, password: bytes | None = None) -> Signer:
    """Read what to sign with. Raises UnusableKey, TypeError for a key that needs a password."""
    data = _content(key)
    try:
        loaded = load_pem_private_key(data, password)
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey(f"{key}: no private key in PEM form, or a wrong password") from None
    if certificate is None:
        if not isinstance(loaded, ed25519.Ed25519PrivateKey):
            raise UnusableKey(
                f"{key}: no Ed25519 key; an RSA or EC key needs its certificate (--certificate)"
            )
        return Signer(loaded)
    certificates = load_certificates(certificate)
    if not isinstance(loaded, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise UnusableKey(f"{key}: with a certificate the key must be an RSA or EC key")
    if _spki(loaded.public_key()) != _spki(certificates[0].public_key()):
        raise UnusableKey(f"{certificate}: the first certificate is not that of the key {key}")
    return Signer(loaded, certificates)


def load_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Read a file of certificates in PEM form. Raises UnusableKey."""
    try:
        return tuple(x509.load_pem_x509_certificates(_content(path)))
    except ValueError:
        raise UnusableKey(f"{path}: no certificates in PEM form") from None


def load_public_key(path: Path) -> PublicKeyTypes:
    """Read a public key, or that of the first certificate, in PEM form. Raises UnusableKey."""
    data = _content(path)
    if _CERTIFICATE in data:
        return load_certificates(path)[0].public_key()
    try:
        return load_pem_public_key(data)
    except _Errors:
        raise UnusableKey(f"{path}: no public key in PEM form") from None


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UnusableKey(f"{path}: too long for a key or certificates")
    return data


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures are relied on: the key's, or those that an authority vouches for."""

    public_key: PublicKeyTypes | None = None
    authorities: tuple[x509.Certificate, ...] = ()

    @property
    def is_asked_for(self) -> bool:
        """Whether there has to be a signature."""
        return self.public_key is not None or bool(self.authorities)


def check(name: str, signature: bytes, manifest: bytes, signer: bytes, trust: Trust) -> Signed:
    """Check the signature file ``name``; ``signer`` is the file of the key or certificates.

    Raises Differs.
    """
    try:
        # What is odd about a certificate is told by warnings, such as a serial number below zero.
        with warnings.catch_warnings(action="error"):
            if name == CMS_SIGNATURE:
                return _check_cms(signature, manifest, signer, trust)
            return _check_ed25519(signature, manifest, signer, trust)
    except InvalidSignature:
        raise Differs(Kind.SIGNATURE, "it was not made of this manifest by this key") from None
    except (*_Errors, Warning) as error:
        raise Differs(Kind.SIGNATURE, f"it cannot be read: {error}") from None


def _check_ed25519(signature: bytes, manifest: bytes, signer: bytes, trust: Trust) -> Signed:
    key = load_pem_public_key(signer)
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise Differs(Kind.SIGNATURE, "the key beside it is no Ed25519 key")
    key.verify(signature, manifest)
    return _vouched_by_key(key, trust)


def _vouched_by_key(key: PublicKeyTypes, trust: Trust, subject: str = "", at: str = "") -> Signed:
    vouched = ""
    if trust.public_key is not None:
        if _spki(key) != _spki(trust.public_key):
            raise Differs(Kind.SIGNATURE, "it was made with another key than the one given")
        vouched = "the public key given"
    elif trust.authorities and not subject:
        raise Differs(Kind.SIGNATURE, "it has no certificate that an authority could vouch for")
    return Signed(hashlib.sha256(_spki(key)).hexdigest(), vouched, subject, at)


def _check_cms(signature: bytes, manifest: bytes, signer: bytes, trust: Trust) -> Signed:
    certificates = x509.load_pem_x509_certificates(signer)
    found = cms.find(signature)
    digest = hashlib.sha256(manifest).digest()
    if cms.message(certificates, digest, found.at, found.value) != signature:
        raise Differs(Kind.SIGNATURE, "it is not of this manifest, or not as it was written")
    attributes = cms.attributes(digest, found.at)
    match certificates[0].public_key():
        case rsa.RSAPublicKey() as key:
            key.verify(found.value, attributes, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePublicKey() as key:
            key.verify(found.value, attributes, ec.ECDSA(hashes.SHA256()))
        case _:
            raise Differs(Kind.SIGNATURE, "its certificate has neither an RSA nor an EC key")
    subject = certificates[0].subject.rfc4514_string() or "no name"
    at = found.at.isoformat().replace("+00:00", "Z")
    if trust.public_key is None and trust.authorities:
        authority = _authority(certificates, trust.authorities, found.at)
        fingerprint = hashlib.sha256(_spki(certificates[0].public_key())).hexdigest()
        return Signed(fingerprint, authority, subject, at)
    return _vouched_by_key(certificates[0].public_key(), trust, subject, at)


# -- certificates (RFC 5280 §6, of which as much as a signature of a document needs) ---------------


def _authority(
    certificates: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    at: datetime,
) -> str:
    """Return the name of the authority that vouches for the first certificate at a time.

    Raises Differs when none does. Revocation is not looked into.
    """
    leaf, *others = certificates
    if not _may_sign(leaf):
        raise Differs(Kind.SIGNATURE, "its certificate is not for signing")
    current = leaf
    for depth in range(_MAX_CHAIN):
        if not current.not_valid_before_utc <= at <= current.not_valid_after_utc:
            who = current.subject.rfc4514_string()
            raise Differs(Kind.SIGNATURE, f"the certificate of {who} was not valid at that time")
        if current in authorities:
            return current.subject.rfc4514_string()
        above = _issuer(current, authorities, depth)
        if above is not None:
            if not above.not_valid_before_utc <= at <= above.not_valid_after_utc:
                break
            return above.subject.rfc4514_string()
        above = _issuer(current, others, depth)
        if above is None:
            break
        current = above
    raise Differs(Kind.SIGNATURE, "no authority that was given vouches for its certificate")


def _issuer(
    certificate: x509.Certificate, candidates: Iterable[x509.Certificate], depth: int
) -> x509.Certificate | None:
    for each in candidates:
        try:
            if _is_authority(each, depth):
                certificate.verify_directly_issued_by(each)
                return each
        except (*_Errors, InvalidSignature):
            continue
    return None


def _is_authority(certificate: x509.Certificate, depth: int) -> bool:
    """Tell whether a certificate may vouch for one that has ``depth`` others below it."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return basic.ca and (basic.path_length is None or depth <= basic.path_length)


def _may_sign(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.digital_signature or usage.content_commitment


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def _spki(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
