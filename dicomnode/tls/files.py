"""The files of TLS: which they are, what is wrong with them, and until when they are valid."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

from dicomnode.tls.revocation import NAME, Revocation, read_lists

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

ClientCertificates = Literal["none", "optional", "required"]
Profile = Literal["bcp195", "bcp195_modified"]

FileNames = tuple[str, str, str]
SETTINGS: Final[FileNames] = ("tls.certificate", "tls.key", "tls.ca")
"""What the files of certificate, key and CAs are called in the settings."""

WARNING_DAYS: Final = 30
"""So long before a certificate expires it is warned of."""


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files, and how they are used; ``names`` is what messages call the files.

    ``key`` None: the key is in the file of the certificate. ``ca`` None: peers that we call are
    verified with the system's CAs. ``revoked`` holds the revocation lists of those in ``ca``; None:
    nobody is asked whether a certificate has been revoked.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    client_certificates: ClientCertificates = "none"
    profile: Profile = "bcp195"
    names: FileNames = SETTINGS
    revoked: Path | None = None

    @property
    def key_file(self) -> Path | None:
        """Where the private key is."""
        return self.key or self.certificate


@dataclass(frozen=True, slots=True)
class Validity:
    """Until when a certificate is valid, in seconds since the epoch; whose it is."""

    subject: str
    not_before: float
    not_after: float

    @property
    def until(self) -> str:
        """The day on which it expires."""
        return f"{datetime.fromtimestamp(self.not_after, UTC):%Y-%m-%d %H:%M} UTC"

    def warning(self, now: float, name: str) -> str:
        """Say that it has expired, is not yet valid or expires soon; "" when all is well."""
        if now >= self.not_after:
            return f"{name} ({self.subject}) has expired: {self.until}. {_RENEW}"
        if now < self.not_before:
            since = f"{datetime.fromtimestamp(self.not_before, UTC):%Y-%m-%d %H:%M} UTC"
            return f"{name} ({self.subject}) is not valid before {since}: see the clock."
        days = int((self.not_after - now) // 86400)
        if days < WARNING_DAYS:
            when = "today or tomorrow" if days < 1 else f"in {days} days"
            return f"{name} ({self.subject}) expires {when}: {self.until}. {_RENEW}"
        return ""


_RENEW: Final = "Put a new one in its place and send SIGHUP to the node."


class TLSSection(Protocol):
    """``[tls]`` of the settings, as far as files go."""

    @property
    def certificate(self) -> Path | None: ...
    @property
    def key(self) -> Path | None: ...
    @property
    def ca(self) -> Path | None: ...
    @property
    def revoked(self) -> Path | None: ...
    @property
    def client_certificates(self) -> ClientCertificates: ...
    @property
    def profile(self) -> Profile: ...


def of(section: TLSSection) -> Files:
    """Return the files that the settings name."""
    return Files(
        section.certificate,
        section.key,
        section.ca,
        section.client_certificates,
        section.profile,
        revoked=section.revoked,
    )


def warnings(found: Mapping[str, Validity], now: float) -> list[str]:
    """Say which of ``validities`` end soon or have ended."""
    names = {"own": "tls.certificate", "ca": "a CA of tls.ca"}
    told = (validity.warning(now, names[which]) for which, validity in found.items())
    return [warning for warning in told if warning]


def validities(files: Files) -> dict[str, Validity]:
    """Return the validity of our certificate ("own") and of the CA that expires first ("ca").

    Raises OSError and ValueError for files that cannot be read.
    """
    found: dict[str, Validity] = {}
    if files.certificate is not None:
        found["own"] = _validity(_certificates(files.certificate.read_bytes())[0])
    if files.ca is not None:
        authorities = map(_validity, _certificates(files.ca.read_bytes()))
        found["ca"] = min(authorities, key=lambda each: each.not_after)
    return found


def revocation(files: Files) -> Revocation:
    """Return the revocation lists, none where they are not used.

    Raises OSError, and ValueError for files that cannot be used.
    """
    if files.revoked is None:
        return Revocation()
    authorities = _certificates(files.ca.read_bytes()) if files.ca is not None else []
    return read_lists(files.revoked, authorities)


def mistakes(files: Files) -> list[str]:
    """Say what is wrong with the files, a line for each; none when they can be used."""
    certificate_name, key_name, ca_name = files.names
    found: list[str] = []
    certificates = _read(certificate_name, files.certificate, found)
    if (files.ca is None or _read(ca_name, files.ca, found)) and (path := files.revoked):
        try:
            revocation(files)
        except OSError as error:
            found.append(f"{NAME}: {path}: cannot be read: {error.strerror}")
        except ValueError as error:
            found.append(f"{NAME}: {path}: {error}")
    if files.certificate is None:
        if files.key is not None:
            found.append(f"{key_name}: is given without {certificate_name}")
        return found
    name = key_name if files.key is not None else certificate_name
    trouble = _key_trouble(files.key_file, certificates[0] if certificates else None)
    if trouble and not (found and files.key is None):
        found.append(f"{name}: {files.key_file}: {trouble}")
    return found


Stamp = tuple[bytes | None, ...]
"""What tells the contents of files from others."""


def stamp_of(files: Files) -> Stamp:
    """Return the stamp of what is in the files now; of one that cannot be read it is None."""
    return tuple(
        _digest(path) if path is not None else None
        for path in (files.certificate, files.key_file, files.ca, files.revoked)
    )


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None


def openness(files: Files) -> str:
    """Say that others than its owner can read the key, "" when they cannot."""
    if (path := files.key_file) is None:
        return ""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return ""
    # A group of its own that may read keys is what Debian has.
    if not mode & (stat.S_IRWXO | stat.S_IWGRP):
        return ""
    return f"{path} is a private key that others can read or change (mode {mode:04o}): chmod 600 it"


def _read(name: str, path: Path | None, found: list[str]) -> list[Certificate]:
    if path is None:
        return []
    try:
        return _certificates(path.read_bytes())
    except OSError as error:
        found.append(f"{name}: {path}: cannot be read: {error.strerror}")
    except ValueError:
        found.append(f"{name}: {path}: holds no certificate in PEM form (BEGIN CERTIFICATE)")
    return []


def _certificates(data: bytes) -> list[Certificate]:
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(data)
    except InvalidVersion as error:  # which is no ValueError
        raise ValueError(str(error)) from None


def _key_trouble(path: Path | None, certificate: Certificate | None) -> str:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    assert path is not None
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except TypeError:
        return "the private key is encrypted: remove its passphrase, as nobody is there to type it"
    except (ValueError, UnsupportedAlgorithm):
        return "holds no private key in PEM form (BEGIN PRIVATE KEY)"
    if certificate is not None and certificate.public_key() != key.public_key():
        return "the private key does not belong to the certificate"
    return ""


def _validity(certificate: Certificate) -> Validity:
    return Validity(
        certificate.subject.rfc4514_string(),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )
