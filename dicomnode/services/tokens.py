"""JSON Web Tokens as user identity (PS3.7 §D.3.3.7, type 5; RFC 7519)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAlgorithmError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from dicomnode.errors import ConfigurationError, TokenRefused

# Signed tokens have a few hundred bytes; longer ones only take time to read.
_MOST_BYTES: Final = 16 * 1024
_MOST_NAME_CHARACTERS: Final = 128
_LEAST_SECRET_BYTES: Final = 32
_LEAST_RSA_BITS: Final = 2048
_WORDS: Final[tuple[tuple[type[PyJWTError], str], ...]] = (
    (ExpiredSignatureError, "it has expired"),
    (ImmatureSignatureError, "it is not valid yet"),
    (InvalidAudienceError, "its audience (aud) is not jwt.audience"),
    (InvalidIssuerError, "its issuer (iss) is not jwt.issuer"),
    (InvalidSignatureError, "its signature is not that of the key in jwt.key_file"),
    (InvalidAlgorithmError, "its algorithm is not jwt.algorithm"),
)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must be; ``user_claim`` names the claim that says who the user is."""

    algorithm: str
    issuer: str
    audience: str
    user_claim: str
    leeway_seconds: float


class Tokens:
    """Checks tokens with the issuer's key and the one algorithm that goes with it.

    Raises ConfigurationError where ``key`` is no key for it.
    """

    def __init__(self, rules: TokenRules, key: bytes) -> None:
        self._rules = rules
        self._key = _prepared(rules.algorithm, key)

    def user(self, token: bytes) -> str:
        """Return the user that ``token`` names. Raises TokenRefused."""
        rules = self._rules
        if len(token) > _MOST_BYTES:
            raise TokenRefused(f"it has more than {_MOST_BYTES} bytes")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[rules.algorithm],
                audience=rules.audience,
                issuer=rules.issuer,
                leeway=rules.leeway_seconds,
                options={"require": ["exp", "iss", "aud", rules.user_claim]},
            )
        except MissingRequiredClaimError as error:
            raise TokenRefused(f"it has no claim {error.claim!r}") from None
        except PyJWTError as error:
            words = next((words for kind, words in _WORDS if isinstance(error, kind)), None)
            raise TokenRefused(words or "it cannot be read") from None
        except (ValueError, TypeError, RecursionError, OverflowError):
            raise TokenRefused("it cannot be read") from None
        name = claims[rules.user_claim]
        is_name = isinstance(name, str) and 1 <= len(name) <= _MOST_NAME_CHARACTERS
        if not is_name or not name.isprintable():
            raise TokenRefused(f"its claim {rules.user_claim!r} is no name")
        return str(name)


def _prepared(algorithm: str, key: bytes) -> Any:
    """Return ``key`` as the algorithm takes it; a key of another kind is a mistake."""
    where = "jwt.key_file"
    if algorithm.startswith("HS"):
        key = key.rstrip(b"\r\n")
        if len(key) < _LEAST_SECRET_BYTES:
            words = f"{where}: a secret for {algorithm} has {_LEAST_SECRET_BYTES} bytes or more"
            raise ConfigurationError([words])
    if b"PRIVATE KEY" in key:
        words = f"{where}: is a private key, which belongs to the issuer alone; give the public one"
        raise ConfigurationError([words])
    try:
        prepared = get_default_algorithms()[algorithm].prepare_key(key)
    except (PyJWTError, ValueError, TypeError):
        words = f"{where}: is not the public key, in PEM, or the secret of an issuer that signs"
        raise ConfigurationError([f"{words} with jwt.algorithm {algorithm}"]) from None
    if getattr(prepared, "key_size", _LEAST_RSA_BITS) < _LEAST_RSA_BITS and algorithm[:2] in (
        "RS",
        "PS",
    ):
        raise ConfigurationError([f"{where}: an RSA key has {_LEAST_RSA_BITS} bits or more"])
    return prepared
