"""What a TLS connection failed of, and what to do about it."""

from __future__ import annotations

import ssl
from enum import StrEnum
from typing import Final


class Cause(StrEnum):
    """Why there is no TLS connection; the words are also metric labels."""

    NO_CERTIFICATE = "no certificate"
    EXPIRED = "certificate expired"
    NOT_YET_VALID = "certificate not yet valid"
    UNKNOWN_CA = "unknown CA"
    BAD_CERTIFICATE = "bad certificate"
    REVOKED = "certificate revoked"
    NO_REVOCATION_LIST = "no revocation list"
    WRONG_NAME = "wrong name"
    WRONG_VERSION = "wrong version"
    NO_SUITE = "no shared cipher suite"
    NOT_TLS = "not TLS"
    PLAIN_PORT = "TLS on the plain port"
    REFUSED_BY_PEER = "refused by peer"
    STALLED = "stalled"
    TOO_MANY = "too many handshakes"
    CLOSED = "closed by peer"
    TRUNCATED = "closed without close_notify"
    NOT_SET_UP = "not set up"
    BROKEN = "protocol error"


UNAUTHENTICATED: Final = frozenset(
    {
        Cause.EXPIRED,
        Cause.NOT_YET_VALID,
        Cause.UNKNOWN_CA,
        Cause.BAD_CERTIFICATE,
        Cause.REVOKED,
        Cause.NO_REVOCATION_LIST,
        Cause.WRONG_NAME,
    }
)
"""Of these a peer has not proved who it is."""


class TLSFault(Exception):
    """A TLS connection was not made, or broke; ``words`` and ``advice`` are for the log."""

    def __init__(self, cause: Cause, words: str, advice: str = "") -> None:
        super().__init__(words)
        self.cause = cause
        self.words = words
        self.advice = advice


class Side(StrEnum):
    """On which side of the handshake we are; the words are also metric labels."""

    SERVER = "server"
    CLIENT = "client"


# X509_V_ERR_* of OpenSSL.
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_UNKNOWN_CA: Final = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME: Final = frozenset({62, 64})
_HAS_EXPIRED: Final = "its certificate has expired"
_REVOKED: Final = 23
# None of the issuer, one that ends before or begins after now, one that the issuer has not signed.
_NO_LIST: Final = frozenset({3, 5, 8, 11, 12, 15, 16, 33, 35, 36, 44, 54})

_CLIENT_ADVICE: Final = {
    Cause.EXPIRED: "Renew the certificate of the peer; if it is not old, see the clocks.",
    Cause.NOT_YET_VALID: "See the clocks of both sides.",
    Cause.UNKNOWN_CA: "If the peer is who it should be, add the CA of its certificate, or the"
    " certificate itself, to tls.ca.",
    Cause.REVOKED: "Give the peer another certificate: its CA has taken this one back.",
    Cause.NO_REVOCATION_LIST: "Put the list that the CA of its certificate has now into the file"
    " tls.revoked and send SIGHUP to the node.",
    Cause.WRONG_NAME: "If the peer is who it should be, set tls_name to a name in its certificate,"
    " or certificate to one that it may show, in its entry of ae.toml.",
    Cause.BAD_CERTIFICATE: "Give the peer another certificate: RSA 2048 or ECC 256 bits or more,"
    " SHA-256, for server authentication.",
}
_SERVER_ADVICE: Final = _CLIENT_ADVICE | {
    Cause.UNKNOWN_CA: "If the peer may connect, add the CA of its certificate, or the certificate"
    " itself, to the file tls.ca and send SIGHUP to the node.",
    Cause.BAD_CERTIFICATE: "Give the peer another certificate: RSA 2048 or ECC 256 bits or more,"
    " SHA-256, for client authentication.",
}

_VERSIONS: Final = frozenset(
    {"UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "TLSV1_ALERT_PROTOCOL_VERSION", "UNKNOWN_PROTOCOL"}
)
_NOT_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"}
)
_SUITES: Final = frozenset({"NO_SHARED_CIPHER", "NO_CIPHERS_AVAILABLE"})
_NO_CERTIFICATE: Final = "PEER_DID_NOT_RETURN_A_CERTIFICATE"

# First bytes of what finds its way to a TLS port and is none (PS3.8 §9.3.1: A-ASSOCIATE-RQ).
_STRANGERS: Final = (
    (b"\x01\x00", "peer speaks DICOM without TLS on the TLS port"),
    *(
        (verb, "peer speaks HTTP on the TLS port")
        for verb in (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTIONS ")
    ),
    (b"SSH-", "peer speaks SSH on the TLS port"),
)
_HANDSHAKE: Final = 0x16


def stranger(first: bytes) -> TLSFault | None:
    """Return the fault of a client whose first bytes are no TLS, None where they may be."""
    if first[:1] == bytes([_HANDSHAKE]):
        return None
    words = next((words for prefix, words in _STRANGERS if first.startswith(prefix)), None)
    return TLSFault(
        Cause.NOT_TLS,
        words or "peer does not speak TLS on the TLS port",
        "Switch TLS on at the peer, or let it call node.port, which is without TLS.",
    )


def fault_of(error: ssl.SSLError, side: Side) -> TLSFault:
    """Word what OpenSSL says of a handshake or a connection."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _unverified(error, side)
    if isinstance(error, ssl.SSLEOFError) or reason == "UNEXPECTED_EOF_WHILE_READING":
        return closed(side)
    if reason == _NO_CERTIFICATE:
        return TLSFault(
            Cause.NO_CERTIFICATE,
            "peer showed no certificate (tls.client_certificates is required)",
            "Give the peer a certificate of a CA in tls.ca, or set tls.client_certificates to"
            " optional and restart the node.",
        )
    if reason in _VERSIONS:
        return TLSFault(
            Cause.WRONG_VERSION,
            "peer speaks neither TLS 1.2 nor 1.3",
            "Switch TLS 1.2 or 1.3 on at the peer: older ones must not be used (PS3.15 §B.12).",
        )
    if reason in _SUITES:
        return TLSFault(
            Cause.NO_SUITE,
            "peer proposes no cipher suite of the profile, or none for the kind of our key",
            "Switch ECDHE with AES-GCM on at the peer (PS3.15 §B.12); see tls.profile.",
        )
    if "ALERT" in reason:
        return _alert(reason, side)
    if reason in _NOT_TLS and side is Side.CLIENT:
        return TLSFault(
            Cause.NOT_TLS,
            "peer does not speak TLS on this port",
            "Call the port on which it takes TLS, or call it without.",
        )
    said = (reason or str(error)).replace("_", " ").lower()
    return TLSFault(Cause.BROKEN, f"TLS failed: {said}", "See the log of the peer.")


def _unverified(error: ssl.SSLCertVerificationError, side: Side) -> TLSFault:
    match error.verify_code:
        case code if code == _EXPIRED:
            cause, words = Cause.EXPIRED, _HAS_EXPIRED
        case code if code == _NOT_YET_VALID:
            cause, words = Cause.NOT_YET_VALID, "its certificate is not yet valid"
        case code if code in _UNKNOWN_CA:
            cause = Cause.UNKNOWN_CA
            words = f"its certificate is of no CA that we trust ({error.verify_message})"
        case code if code == _REVOKED:
            cause, words = Cause.REVOKED, "its certificate has been revoked"
        case code if code in _NO_LIST:
            cause = Cause.NO_REVOCATION_LIST
            said = error.verify_message
            words = f"whether its certificate has been revoked cannot be told ({said})"
        case code if code in _WRONG_NAME or "match" in error.verify_message:
            cause, words = Cause.WRONG_NAME, f"its certificate is another's: {error.verify_message}"
        case _:
            cause = Cause.BAD_CERTIFICATE
            words = f"its certificate cannot be accepted: {error.verify_message}"
    advice = (_SERVER_ADVICE if side is Side.SERVER else _CLIENT_ADVICE)[cause]
    return TLSFault(cause, words.rstrip("."), advice)


# The end of OpenSSL's names for the alerts of RFC 8446 §6.2 → what the peer means, what to do.
_ALERTS: Final = (
    ("UNKNOWN_CA", "it does not know the CA of our certificate", "Give the peer our CA."),
    (
        "CERTIFICATE_EXPIRED",
        "our certificate has expired for it",
        "Renew our certificate (tls.certificate); if it is not old, see the clocks.",
    ),
    (
        "CERTIFICATE_REVOKED",
        "our certificate has been revoked",
        "Give the node another certificate (tls.certificate).",
    ),
    (
        "CERTIFICATE_REQUIRED",
        "it wants a certificate of ours",
        "Give a certificate and key of ours: tls.certificate and tls.key.",
    ),
    (
        "BAD_CERTIFICATE",
        "it does not accept our certificate",
        "See the log of the peer, and whether it knows the CA of our certificate.",
    ),
    (
        "CERTIFICATE_UNKNOWN",
        "it does not accept our certificate",
        "See the log of the peer, and whether it knows the CA of our certificate.",
    ),
    (
        "HANDSHAKE_FAILURE",
        "it finds nothing that both sides accept, or wants a certificate of ours",
        "See which versions and cipher suites the peer has, and whether tls.certificate is given.",
    ),
    ("ACCESS_DENIED", "it denies us access", "See the log of the peer."),
)


def _alert(reason: str, side: Side) -> TLSFault:
    for ending, means, advice in _ALERTS:
        if reason.endswith(ending):
            words = f"peer refused with a TLS alert: {means}"
            return TLSFault(Cause.REFUSED_BY_PEER, words, advice)
    said = reason.partition("ALERT_")[2].replace("_", " ").lower()
    return TLSFault(
        Cause.REFUSED_BY_PEER,
        f"peer refused with a TLS alert: {said}",
        "See the log of the peer.",
    )


def closed(side: Side) -> TLSFault:
    """Return the fault of a peer that ends the connection within the handshake."""
    if side is Side.SERVER:
        advice = "See the log of the peer: it may not know the CA of our certificate."
    else:
        advice = "See the log of the peer, and whether it takes TLS on this port."
    return TLSFault(Cause.CLOSED, "peer closed the connection within the TLS handshake", advice)


def expired(side: Side) -> TLSFault:
    """Return the fault of a peer whose certificate has ended."""
    advice = (_SERVER_ADVICE if side is Side.SERVER else _CLIENT_ADVICE)[Cause.EXPIRED]
    return TLSFault(Cause.EXPIRED, _HAS_EXPIRED, advice)


def truncated(side: Side) -> TLSFault:
    """Return the fault of a connection that ended without the peer's close_notify."""
    advice = "See the log of the peer, and whether the network cut the connection."
    if side is Side.CLIENT:
        advice += " It may want a certificate of ours, or another one (tls.certificate)."
    return TLSFault(Cause.TRUNCATED, "connection closed without TLS close_notify", advice)


def stalled(seconds: float, setting: str) -> TLSFault:
    """Return the fault of a handshake that took too long."""
    return TLSFault(
        Cause.STALLED,
        f"TLS handshake not finished within {seconds:g} s ({setting})",
        "See whether the peer hangs, or a firewall is in the way.",
    )
