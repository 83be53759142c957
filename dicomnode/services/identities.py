"""User identity negotiation (PS3.7 §D.3.3.7): who a requestor says its user is, and the proof."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from dicomnode.dimse.channel import Refused
from dicomnode.errors import TokenRefused
from dicomnode.services.attempts import Attempts, TooManyAttempts
from dicomnode.ul.items import UserIdentityKind, UserIdentityRQ
from dicomnode.ul.pdu import Rejection
from dicomnode.users import Users, is_passcode

Mode = Literal["ignore", "optional", "required"]

NOT_ACCEPTED: Final = "User identity not accepted"
"""Why a requestor is refused whose user is not, or cannot be, known."""

# One: passcodes are made to take long, and whoever tries many must not take the processor.
_THREADS: Final = 1
_RELOAD: Final = "then send SIGHUP to the node"
_MODE: Final = "access.user_identity"
_WITHOUT_TLS: Final = "access.credentials_without_tls"
_USERS: Final = "users.toml"
_TOKEN: Final = "jwt"  # noqa: S105  the name of a section
_SHOWN_CHARACTERS: Final = 64
_WORDS: Final = {
    UserIdentityKind.KERBEROS: "a Kerberos ticket",
    UserIdentityKind.SAML: "a SAML assertion",
}


class Tokens(Protocol):
    """Checks JSON Web Tokens."""

    def user(self, token: bytes) -> str:
        """Return the user that ``token`` names. Raises TokenRefused."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What identities are checked against; ``tokens`` is None where no issuer's key is set.

    ``note`` says what is allowed but may not be meant, "" for nothing.
    """

    users: Users = field(default_factory=Users)
    tokens: Tokens | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Identified:
    """The user is ``user``; "" where none was named and none is needed."""

    user: str = ""


Verdict = Identified | Refused


@dataclass(frozen=True, slots=True)
class Requestor:
    """Who sends an identity, and how; ``where`` is how its mode is set."""

    ae_title: str
    address: str
    is_encrypted: bool
    where: str


class Identities:
    """Decides over user identities; ``without_tls`` lets secrets come where others can read them.

    ``credentials`` may be replaced while running. ``close`` ends the thread.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        without_tls: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._without_tls = without_tls
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="user-identity")
        self._attempts = Attempts(self._threads, now)

    def replace(self, credentials: Credentials) -> None:
        """Check against ``credentials`` from now on."""
        self._credentials = credentials
        self._attempts.forget()

    def close(self) -> None:
        """End the thread; what waits for it is not checked any more. Blocks."""
        self._threads.shutdown(cancel_futures=True)

    def judge(
        self, identity: UserIdentityRQ | None, mode: Mode, requestor: Requestor
    ) -> Verdict | Callable[[], Awaitable[Verdict]]:
        """Decide over an identity at once, or return what decides when it is awaited."""
        if mode == "ignore":
            return Identified()
        if identity is None:
            return Identified() if mode == "optional" else _missing(requestor)
        match identity.kind:
            case UserIdentityKind.USERNAME:
                return self._named(identity, requestor)
            case UserIdentityKind.USERNAME_AND_PASSCODE | UserIdentityKind.JSON_WEB_TOKEN:
                if not (requestor.is_encrypted or self._without_tls):
                    return _readable(identity.kind, requestor)
                if identity.kind == UserIdentityKind.JSON_WEB_TOKEN:
                    return self._token(identity, requestor)
                return lambda: self._passcode(identity, requestor)
            case kind:
                words = _WORDS.get(kind, f"an identity of type {kind}")  # type: ignore[call-overload]
                return _refused(
                    _MODE,
                    f"{requestor.ae_title} identifies its user by {words}, which is not supported",
                    f"Let {requestor.ae_title} send username and passcode or a JSON Web Token, or"
                    f" set {requestor.where} where no user is needed.",
                )

    def _named(self, identity: UserIdentityRQ, requestor: Requestor) -> Verdict:
        """Believe a name alone only where users.toml says so."""
        name = _text(identity.primary)
        user = self._credentials.users.lookup(name)
        if user is None:
            return _unknown(name)
        if user.passcode is not None:
            return _refused(
                _USERS,
                f"user {name!r} has a passcode, and {requestor.ae_title} sent none",
                f"Let {requestor.ae_title} send the passcode as well.",
            )
        return Identified(name)

    async def _passcode(self, identity: UserIdentityRQ, requestor: Requestor) -> Verdict:
        name, passcode = _text(identity.primary), identity.secondary
        user = self._credentials.users.lookup(name)
        hashed = user.passcode if user is not None else None
        # The length keeps apart what two claims have on either side of the border.
        claim = b"%d " % len(identity.primary) + identity.primary + passcode
        try:
            is_right = await self._attempts.is_right(
                requestor.address, claim, lambda: is_passcode(passcode, hashed)
            )
        except TooManyAttempts:
            return Refused(
                Rejection.TEMPORARY_CONGESTION,
                f"too many passcodes from {requestor.address} wait to be compared",
                rule=_USERS,
                advice=f"Look for what keeps sending wrong passcodes from {requestor.address}.",
            )
        if user is None or self._credentials.users.lookup(name) is None:
            return _unknown(name)
        # It may have waited for seconds, and SIGHUP may have brought other users meanwhile.
        is_right = is_right and self._credentials.users.lookup(name) == user
        if hashed is None:
            return _refused(
                _USERS,
                f"user {name!r} has no passcode in users.toml, and {requestor.ae_title} sent one",
                f"dicomnode user add gives {name!r} a passcode, {_RELOAD}.",
            )
        if not is_right:
            return _refused(
                _USERS,
                f"wrong passcode of user {name!r}",
                f"Correct it at {requestor.ae_title}; dicomnode user add sets a new one,"
                f" {_RELOAD}.",
            )
        return Identified(name)

    def _token(self, identity: UserIdentityRQ, requestor: Requestor) -> Verdict:
        tokens = self._credentials.tokens
        if tokens is None:
            return _refused(
                _TOKEN,
                f"{requestor.ae_title} sent a JSON Web Token, and jwt.key_file is not set",
                f"Set key_file, issuer and audience under [jwt], {_RELOAD}.",
            )
        try:
            return Identified(tokens.user(identity.primary))
        except TokenRefused as error:
            return _refused(
                _TOKEN,
                f"JSON Web Token of {requestor.ae_title} refused: {error}",
                f"Let {requestor.ae_title} get a token that fits the section [jwt].",
            )


def _missing(requestor: Requestor) -> Refused:
    return _refused(
        _MODE,
        f"{requestor.ae_title} sent no user identity, which is required",
        f"Let {requestor.ae_title} send one, or set {requestor.where}.",
    )


def _readable(kind: int, requestor: Requestor) -> Refused:
    what = "a passcode" if kind == UserIdentityKind.USERNAME_AND_PASSCODE else "a JSON Web Token"
    return _refused(
        _WITHOUT_TLS,
        f"{requestor.ae_title} sent {what} without TLS, where others can read it",
        f"Let {requestor.ae_title} use TLS; where the network is trusted,"
        f" {_WITHOUT_TLS} = true takes it without, after a restart. What was sent may have been"
        " read: change it.",
    )


def _unknown(name: str) -> Refused:
    return _refused(
        _USERS,
        f"user {name[:_SHOWN_CHARACTERS]!r} is not in users.toml",
        f"If the user may call: dicomnode user add, {_RELOAD}.",
    )


def _refused(rule: str, why: str, advice: str) -> Refused:
    """Refuse as PS3.7 §D.3.3.7 has it: rejected-permanent, ACSE related, no reason given."""
    named = why if rule in why else f"{why} ({rule})"
    return Refused(
        Rejection.PROVIDER_NO_REASON_GIVEN, named, reason=NOT_ACCEPTED, rule=rule, advice=advice
    )


def _text(name: bytes) -> str:
    """Read a name in UTF-8; what is none matches no user, and is shown as far as it can be."""
    return name.decode("utf-8", "backslashreplace")
