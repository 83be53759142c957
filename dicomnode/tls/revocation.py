"""Lists of the certificates that CAs have revoked (RFC 5280 §5): what is wrong with them, and until
when they are valid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, CertificateRevocationList

NAME: Final = "tls.revoked"
"""What the file of the lists is called in the settings."""

_ONE: Final = re.compile(b"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_CERTIFICATE: Final = re.compile(b"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----")
# A list is warned of when less than this part of its time is left: some last a day, some a year.
_LEFT: Final = 0.25
_RENEW: Final = "Put the list that this CA has now into the file and send SIGHUP to the node."
_DER: Final = "openssl crl -inform DER -in FILE -out FILE.pem makes PEM of the other form"


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The list of one CA: whose, and its times in seconds since the epoch (None: it never ends)."""

    issuer: str
    not_before: float
    not_after: float | None

    def warning(self, now: float) -> str:
        """Say that it has ended, has not begun or ends soon; "" when all is well."""
        whose = f"the list of {self.issuer} in {NAME}"
        shut_out = "Whoever shows a certificate of this CA is refused."
        if now < self.not_before:
            return f"{whose} is not valid before {_moment(self.not_before)}. {shut_out}"
        if self.not_after is None:
            return ""
        if now >= self.not_after:
            return f"{whose} has ended: {_moment(self.not_after)}. {shut_out} {_RENEW}"
        if self.not_after - now < _LEFT * (self.not_after - self.not_before):
            return f"{whose} ends soon: {_moment(self.not_after)}. {_RENEW}"
        return ""


@dataclass(frozen=True, slots=True)
class Revocation:
    """The lists in force, and the CAs that have none."""

    lists: tuple[RevocationList, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def ends_at(self) -> float | None:
        """When the first of them ends, in seconds since the epoch."""
        ends = [each.not_after for each in self.lists if each.not_after is not None]
        return min(ends, default=None)

    def warnings(self, now: float) -> list[str]:
        """Say what keeps certificates from being accepted, or soon will."""
        missing = [
            f"{NAME} has no list of {issuer}, which is in tls.ca: certificates that it has issued"
            " are refused"
            for issuer in self.without
        ]
        return [*missing, *filter(None, (each.warning(now) for each in self.lists))]


def read_lists(path: Path, authorities: Sequence[Certificate]) -> Revocation:
    """Read the lists at ``path``, in PEM, of ``authorities``.

    Raises OSError, and ValueError with what is wrong.
    """
    lists = _lists(check_lists(path))
    of: dict[bytes, list[Certificate]] = {}
    for authority in authorities:
        of.setdefault(authority.subject.public_bytes(), []).append(authority)
    for each in lists:
        issuers = of.get(each.issuer.public_bytes(), [])
        if issuers and not any(_has_signed(issuer, each) for issuer in issuers):
            name = each.issuer.rfc4514_string()
            raise ValueError(f"{name}, as it stands in tls.ca, has not signed the list of its name")
    named = {each.issuer.public_bytes() for each in lists}
    without = [some[0].subject.rfc4514_string() for name, some in of.items() if name not in named]
    return Revocation(tuple(map(_described, lists)), tuple(without))


def check_lists(path: Path) -> bytes:
    """Return what is at ``path``, which must be lists alone.

    Raises OSError, and ValueError for anything else: OpenSSL would trust a certificate in it.
    """
    data = path.read_bytes()
    if _CERTIFICATE.search(data):
        raise ValueError("holds a certificate; those to trust belong into tls.ca")
    if not _ONE.search(data):
        raise ValueError(f"holds no revocation list in PEM form (BEGIN X509 CRL); {_DER}")
    return data


def _lists(data: bytes) -> list[CertificateRevocationList]:
    from cryptography.x509 import InvalidVersion, load_pem_x509_crl

    try:
        return [load_pem_x509_crl(one) for one in _ONE.findall(data)]
    except InvalidVersion as error:  # which is no ValueError
        raise ValueError(str(error)) from None


def _has_signed(issuer: Certificate, each: CertificateRevocationList) -> bool:
    try:
        return each.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except TypeError:
        return False  # a key of a kind that signs no lists


def _described(each: CertificateRevocationList) -> RevocationList:
    ends = each.next_update_utc
    return RevocationList(
        each.issuer.rfc4514_string(),
        each.last_update_utc.timestamp(),
        ends.timestamp() if ends is not None else None,
    )


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
