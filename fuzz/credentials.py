"""What says who a user is or is not: tokens (RFC 7519), revocation lists (RFC 5280), users."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt

from dicomnode.errors import ConfigurationError, TokenRefused
from dicomnode.services.tokens import TokenRules, Tokens
from dicomnode.tls.revocation import read_lists
from dicomnode.users import hash_passcode, load_users
from tests.authority import Authority

_SECRET = b"a secret of more than thirty-two bytes"
_TOKENS = Tokens(TokenRules("HS256", "issuer", "DICOMNODE", "sub", 30), _SECRET)


def _token(data: bytes) -> None:
    with contextlib.suppress(TokenRefused):
        assert _TOKENS.user(data).isprintable()


def _claims(data: bytes) -> None:
    """Read a token whose signature is right, whatever it says."""
    _token(jwt.api_jws.encode(data, _SECRET, algorithm="HS256").encode())


def _lists(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(ValueError):
        file.write(data)
        file.flush()
        read_lists(Path(file.name), ()).warnings(0.0)


def _users(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file, contextlib.suppress(ConfigurationError):
        file.write(data)
        file.flush()
        load_users(Path(file.name))


_READERS: tuple[Callable[[bytes], None], ...] = (_token, _claims, _lists, _users)


def seeds() -> Iterator[bytes]:
    """Yield one of each."""
    claims = {"sub": "jane", "iss": "issuer", "aud": "DICOMNODE", "exp": 1 << 32}
    yield b"\0" + jwt.encode(claims, _SECRET, algorithm="HS256").encode()
    yield b'\1{"sub": "jane", "iss": "issuer", "aud": ["DICOMNODE"], "exp": 4294967296, "nbf": 0}'
    with tempfile.TemporaryDirectory() as scratch:
        authority = Authority(Path(scratch))
        yield b"\2" + authority.revoke(authority.issue("node"))
    yield b'\3[[user]]\nname = "jane"\npasscode = "%s"\n' % hash_passcode(b"secret").encode()


def one(data: bytes) -> None:
    """Read it, or refuse it."""
    if data:
        _READERS[data[0] % len(_READERS)](data[1:])
