"""JSON Web Tokens: what is believed, and what is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from dicomnode.errors import ConfigurationError, TokenRefused
from dicomnode.services.tokens import TokenRules, Tokens

ISSUER = rsa.generate_private_key(65537, 2048)
STRANGER = rsa.generate_private_key(65537, 2048)
PUBLIC = ISSUER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
RULES = TokenRules("RS256", "https://issuer", "DICOMNODE", "sub", 30.0)


def claims(**changes: Any) -> dict[str, Any]:
    all_of_them = {
        "iss": "https://issuer",
        "aud": "DICOMNODE",
        "sub": "jane",
        "exp": time.time() + 600,
        **changes,
    }
    return {name: value for name, value in all_of_them.items() if value is not None}


def signed(key: Any = ISSUER, algorithm: str = "RS256", **changes: Any) -> bytes:
    return jwt.encode(claims(**changes), key, algorithm=algorithm).encode()


def encoded(part: dict[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")


def refusal(token: bytes, rules: TokenRules = RULES, key: bytes = PUBLIC) -> str:
    with pytest.raises(TokenRefused) as caught:
        Tokens(rules, key).user(token)
    return str(caught.value)


def test_a_token_of_the_issuer_names_its_user() -> None:
    tokens = Tokens(RULES, PUBLIC)
    assert tokens.user(signed()) == "jane"
    assert tokens.user(signed(aud=["OTHER", "DICOMNODE"])) == "jane"
    assert tokens.user(signed(exp=time.time() - 10)) == "jane", "within the leeway"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": time.time() - 60}, "expired"),
        ({"nbf": time.time() + 600}, "not valid yet"),
        ({"aud": "OTHER"}, "jwt.audience"),
        ({"iss": "https://other"}, "jwt.issuer"),
        ({"exp": None}, "no claim 'exp'"),
        ({"aud": None}, "no claim 'aud'"),
        ({"iss": None}, "no claim 'iss'"),
        ({"sub": None}, "no claim 'sub'"),
        ({"sub": ""}, "no name"),
        ({"sub": "x" * 200}, "no name"),
        ({"sub": "a\x1b[2J"}, "no name"),
        ({"exp": "soon"}, "cannot be read"),
    ],
)
def test_a_token_is_refused_for_its_claims(changes: dict[str, Any], why: str) -> None:
    assert why in refusal(signed(**changes))


def test_a_token_that_another_has_signed_is_refused() -> None:
    assert "signature" in refusal(signed(STRANGER))


def test_a_token_without_a_signature_is_refused() -> None:
    for name in ("none", "None", "NONE"):
        token = encoded({"alg": name, "typ": "JWT"}) + b"." + encoded(claims()) + b"."
        assert "algorithm" in refusal(token)


def test_the_public_key_is_no_secret_of_another_algorithm() -> None:
    """An attacker who has the public key signs with it as if it were the secret of HS256."""
    content = encoded({"alg": "HS256", "typ": "JWT"}) + b"." + encoded(claims())
    digest = hmac.new(PUBLIC, content, hashlib.sha256).digest()
    token = content + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")
    assert "algorithm" in refusal(token)
    with pytest.raises(ConfigurationError):
        Tokens(TokenRules("HS256", "i", "a", "sub", 0), PUBLIC)


def test_a_key_that_a_token_brings_along_is_not_used() -> None:
    public = jwt.algorithms.RSAAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True)
    token = jwt.encode(claims(), STRANGER, algorithm="RS256", headers={"jwk": public})
    assert "signature" in refusal(token.encode())


@pytest.mark.parametrize(
    "token", [b"", b"a.b.c", b"\xff" * 40, b"..", b"e30.e30.e30", signed() + b"x" * 20_000]
)
def test_what_is_no_token_is_refused(token: bytes) -> None:
    refusal(token)


def test_deep_and_huge_claims_end_in_a_refusal() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 8000).rstrip(b"=")
    refusal(deep + b"." + deep + b"." + deep)
    refusal(signed(exp=1e308 * 10))


@pytest.mark.parametrize("secret", [b"short", b""])
def test_a_short_secret_is_a_mistake(secret: bytes) -> None:
    with pytest.raises(ConfigurationError, match="32 bytes"):
        Tokens(TokenRules("HS256", "i", "a", "sub", 0), secret)


def test_a_secret_works_for_the_algorithms_with_one() -> None:
    rules = TokenRules("HS256", "https://issuer", "DICOMNODE", "sub", 0)
    assert Tokens(rules, b"s" * 32 + b"\n").user(signed("s" * 32, "HS256")) == "jane"


def test_a_key_of_another_kind_a_private_one_and_a_short_one_are_mistakes() -> None:
    curve = ec.generate_private_key(ec.SECP256R1())
    for_curve = curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    private = ISSUER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    short = rsa.generate_private_key(65537, 1024).public_key()
    small = short.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for key, words in (
        (for_curve, "is not the public key"),
        (b"nothing", "is not the public key"),
        (private, "is a private key"),
        (small, "2048 bits"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Tokens(RULES, key)
