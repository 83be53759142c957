"""How commands ask a running node to do something."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dicomnode.api.token import LocalToken, write_token
from dicomnode.cli.asking import NodeUnavailable, Refused, call
from dicomnode.settings import HttpSettings, Settings, StorageSettings

TOKEN = "token-of-the-settings"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


class Handler(BaseHTTPRequestHandler):
    """Answers /api/… with what it was asked, /refused with a sentence, the rest with no JSON."""

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        shown: dict[str, Any] = {
            "path": self.path,
            "authorization": self.headers.get("Authorization"),
            "body": json.loads(body) if body else None,
        }
        if self.path == "/refused":
            self.answer(409, json.dumps({"error": "it is a file's"}).encode())
        elif self.path.startswith("/api"):
            self.answer(200, json.dumps(shown).encode())
        else:
            self.answer(500, b"<html>")

    def do_DELETE(self) -> None:
        self.answer(204, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def settings(directory: Path, port: int, token: str = TOKEN) -> Settings:
    return Settings(
        storage=StorageSettings(directory=directory), http=HttpSettings(port=port, token=token)
    )


def test_the_token_of_the_running_node_is_shown_at_its_port(tmp_path: Path, port: int) -> None:
    write_token(tmp_path, LocalToken("local", port))
    answer = call(settings(tmp_path, 0), "PUT", "/api/worklist/1", {"key": "value"})
    assert answer == {
        "path": "/api/worklist/1",
        "authorization": "Bearer local",
        "body": {"key": "value"},
    }


def test_without_it_the_token_of_the_settings_is_shown(tmp_path: Path, port: int) -> None:
    answer = call(settings(tmp_path, port), "PUT", "/api")
    assert (answer["authorization"], answer["body"]) == (f"Bearer {TOKEN}", None)


def test_without_any_token_none_is_shown(tmp_path: Path, port: int) -> None:
    assert call(settings(tmp_path, port, ""), "PUT", "/api")["authorization"] is None


def test_a_token_that_may_not_be_read_is_said_to_be_so_unless_the_settings_have_one(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(directory: Path) -> None:
        raise PermissionError(13, "Permission denied", str(directory / "api.token"))

    monkeypatch.setattr("dicomnode.cli.asking.read_token", denied)
    assert call(settings(tmp_path, port), "PUT", "/api")["authorization"] == f"Bearer {TOKEN}"
    with pytest.raises(NodeUnavailable, match=r"may be read by the node's user alone"):
        call(settings(tmp_path, port, ""), "PUT", "/api")


def test_an_answer_without_a_body_is_none(tmp_path: Path, port: int) -> None:
    assert call(settings(tmp_path, port), "DELETE", "/api") is None


def test_a_refusal_is_raised_with_the_nodes_own_sentence(tmp_path: Path, port: int) -> None:
    with pytest.raises(Refused, match=r"^it is a file's$") as refused:
        call(settings(tmp_path, port), "PUT", "/refused")
    assert refused.value.status == 409


def test_what_is_no_node_is_said_to_be_none(tmp_path: Path, port: int) -> None:
    with pytest.raises(NodeUnavailable, match=r"is no dicomnode \(HTTP 500\)"):
        call(settings(tmp_path, port), "PUT", "/elsewhere")


def test_no_node_at_all_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(NodeUnavailable, match="no node answers at"):
        call(settings(tmp_path, 1), "PUT", "/api")
