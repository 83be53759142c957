"""Who may use the HTTP interface."""

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dicomnode.api.access import Access

LOCAL, CONFIGURED = "local-token-of-this-run", "token-of-the-settings"


def request(*authorization: str) -> Request:
    headers = [(b"authorization", value.encode("latin-1")) for value in authorization]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers})


@pytest.mark.parametrize("token", [LOCAL, CONFIGURED])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_either_token_is_enough(token: str, scheme: str) -> None:
    Access((CONFIGURED, LOCAL)).require(request(f"{scheme} {token}"))


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {LOCAL[:-1]}",
        f"Bearer {LOCAL}x",
        f"Basic {LOCAL}",
        "Bearer t\xf6ken",
    ],
)
def test_any_other_token_is_refused_with_what_to_do(shown: str) -> None:
    with pytest.raises(HTTPException) as refused:
        Access(("", LOCAL)).require(request(shown))
    assert refused.value.status_code == 401
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}
    assert "the token is not valid" in refused.value.detail
    assert "http.token" in refused.value.detail


def test_a_request_without_a_token_is_refused_with_what_to_do() -> None:
    with pytest.raises(HTTPException, match="this needs a token"):
        Access((LOCAL,)).require(request())


def test_without_any_token_nobody_may_do_anything() -> None:
    with pytest.raises(HTTPException):
        Access(("",)).require(request("Bearer "))
