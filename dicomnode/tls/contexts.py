"""The ssl contexts of the node, after the TLS profiles of PS3.15 Annex B."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomnode.certificates import Binding, Form
from dicomnode.errors import ConfigurationError
from dicomnode.tls.files import Files, Profile, mistakes
from dicomnode.tls.revocation import check_lists

# PS3.15 §B.12 (BCP 195, RFC 8996 and 9325): the suites of RFC 9325 §4.2.
_BCP195: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
# PS3.15 §B.13 (Modified): what OpenSSL has of its further ones, CCM and ChaCha20 with ECDHE.
_MODIFIED: Final = (
    *_BCP195,
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES256-CCM8",
    "ECDHE-ECDSA-AES128-CCM8",
)
SUITES: Final[dict[Profile, tuple[str, ...]]] = {"bcp195": _BCP195, "bcp195_modified": _MODIFIED}
"""The TLS 1.2 suites of each profile, in OpenSSL's names. Those of TLS 1.3 are OpenSSL's own."""

_MOST_SESSIONS: Final = 128

_VERIFY: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


@dataclass(frozen=True, slots=True)
class ClientContexts:
    """Contexts for calling: ``named`` checks the host name too, ``bound`` leaves that to a binding.

    ``pinned`` verifies nothing: who is known by the whole of the certificate needs nobody to vouch
    for it. ``is_verified`` is false where a peer's certificate is not verified at all.
    """

    named: ssl.SSLContext
    bound: ssl.SSLContext
    pinned: ssl.SSLContext
    is_verified: bool = True


def server_context(files: Files) -> ssl.SSLContext:
    """Return the context for being called; blocks. Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _restrict(context, files)
    if files.certificate is None:
        raise ConfigurationError([f"{files.names[0]}: is missing; TLS needs a certificate"])
    context.verify_mode = _VERIFY[files.client_certificates]
    # A session that is resumed skips the certificates. Without tickets those of TLS 1.2 can be,
    # from the memory of this context alone: it must not be used for long (``is_worn``).
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def is_worn(server: ssl.SSLContext) -> bool:
    """Tell whether a context remembers so many sessions that another should take its place.

    OpenSSL keeps up to 20480 of them for two hours, of 10 KB each, and ssl has no switch for that.
    """
    return server.session_stats()["number"] >= _MOST_SESSIONS


def client_contexts(files: Files, *, verify: bool = True) -> ClientContexts:
    """Return the contexts for calling others; blocks. Raises ConfigurationError."""
    return ClientContexts(
        _client(files, verify, True),
        _client(files, verify, False),
        _client(files, False, False),
        verify,
    )


def fingerprint_of(pem: str) -> Binding:
    """Return the first certificate of ``pem`` as a binding; raises ValueError."""
    begin, end = ssl.PEM_HEADER, ssl.PEM_FOOTER
    first = begin + pem.partition(begin)[2].partition(end)[0] + end
    return Binding(Form.FINGERPRINT, hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest())


def _client(files: Files, verify: bool, checks_name: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = verify and checks_name
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    _restrict(context, files)
    if files.ca is None and verify:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _restrict(context: ssl.SSLContext, files: Files) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Level 2: keys of RSA 2048 bits, ECC 224 bits and more.
    context.set_ciphers(":".join((*SUITES[files.profile], "@SECLEVEL=2")))
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # Whatever stands in the file of the CAs is trusted, a device's own certificate too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key_file, password=_no_password)
        if files.ca is not None:
            context.load_verify_locations(_readable(files.ca))
        if files.revoked is not None:
            check_lists(files.revoked)
            context.load_verify_locations(files.revoked)
            # Of the certificate that is shown: a CA above it need not have a list here.
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or str(error)
        words = f"{files.names[0]}: {files.certificate or files.ca}: cannot be used: {reason}"
        raise ConfigurationError(mistakes(files) or [words]) from None


def _readable(path: Path) -> Path:
    path.open("rb").close()
    return path


def _no_password() -> str:
    """OpenSSL would ask at the terminal; nobody is there."""
    raise ValueError("the private key is encrypted")
