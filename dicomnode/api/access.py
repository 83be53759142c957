"""Who may use the HTTP interface: whoever shows a token (RFC 6750), and nobody else."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request

_SCHEME = "bearer"
_HOW = (
    "send the header Authorization: Bearer TOKEN with the token of http.token in dicomnode.toml, "
    "or use the dicomnode command on the node's own machine"
)


class Access:
    """Knows the tokens that are valid; empty ones are none."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [token.encode() for token in tokens if token]

    def require(self, request: Request) -> None:
        """Let a request pass that shows a valid token; else raises HTTPException 401."""
        header = request.headers.get("authorization")
        if header is None:
            raise _refusal(f"this needs a token: {_HOW}")
        scheme, _, token = header.partition(" ")
        if scheme.lower() != _SCHEME or not self._is_valid(token.strip()):
            raise _refusal(f"the token is not valid: {_HOW}")

    def _is_valid(self, token: str) -> bool:
        # Each is compared in constant time, so that the time of the answer tells nothing of it.
        shown = token.encode("latin-1", "replace")
        return any([hmac.compare_digest(shown, valid) for valid in self._tokens])


def _refusal(words: str) -> HTTPException:
    return HTTPException(401, words, headers={"WWW-Authenticate": "Bearer"})
