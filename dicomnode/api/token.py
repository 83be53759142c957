"""The token that a running node lays down for the commands of its own machine."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_FILE_NAME = "api.token"
_TOKEN_BYTES = 32
_MAX_FILE_BYTES = 256


@dataclass(frozen=True, slots=True)
class LocalToken:
    """A token, and the HTTP port of the node that takes it."""

    token: str
    port: int


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def write_token(directory: Path, local: LocalToken) -> None:
    """Lay ``local`` down in the storage directory, for its owner alone. Raises OSError.

    Readers find the whole file or the one before it.
    """
    path = directory / _FILE_NAME
    temporary = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(f"{local.token}\n{local.port}\n")
    temporary.replace(path)


def read_token(directory: Path) -> LocalToken | None:
    """Return what the node on ``directory`` laid down; None where there is none.

    Raises OSError when it cannot be read, PermissionError for whoever may not.
    """
    try:
        with (directory / _FILE_NAME).open(encoding="ascii", errors="replace") as file:
            token, _, port = file.read(_MAX_FILE_BYTES).strip().partition("\n")
    except FileNotFoundError:
        return None
    return LocalToken(token, int(port)) if port.isdecimal() else None


def remove_token(directory: Path) -> None:
    """Take the file away, if that is possible.

    One that stays behind, on a disk that died, is of a node that is gone and opens nothing.
    """
    with suppress(OSError):
        (directory / _FILE_NAME).unlink()
