"""Projects: the key from which every replacement of an identifier is derived.

With the key the same value has the same replacement whenever and wherever it is made; without it
nobody can tell which value a replacement stands for, not even by trying all values.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
from pathlib import Path
from typing import Final

from dicomnode.errors import KeyUnusable

_FORM: Final = "dicomnode de-identification key 1"
_KEY_BYTES: Final = 32
_MOST_FILE_BYTES: Final = 4096
_NAME: Final = re.compile(r"[A-Z0-9][A-Z0-9_-]{0,15}\Z")
_MOST_DAYS: Final = 3652


class Project:
    """A project's name, and what its key makes of identifiers."""

    def __init__(self, name: str, key: bytes) -> None:
        if not _NAME.match(name):
            raise KeyUnusable(
                "a project's name has 1 to 16 characters of A-Z, 0-9, - and _, the first of them a"
                " letter or a digit"
            )
        if len(key) != _KEY_BYTES:
            raise KeyUnusable(f"a project's key has {_KEY_BYTES} bytes")
        self.name = name
        self._key = key

    def word(self, kind: str, *parts: str, characters: int = 16) -> str:
        """Return ``characters`` of A-Z and 2-7 that stand for the parts, at most 51."""
        return base64.b32encode(self._digest(kind, parts)).decode()[:characters]

    def uid(self, uid: str) -> str:
        """Return the UID that stands for ``uid``: a UUID made of a digest (PS3.5 §B.2)."""
        number = int.from_bytes(self._digest("uid", (uid,))[:16], "big")
        # RFC 9562 §5.8: version 8, variant 10.
        number = number & ~(0xF << 76) | 0x8 << 76
        number = number & ~(0x3 << 62) | 0x2 << 62
        return f"2.25.{number}"

    def days(self, *patient: str) -> int:
        """Return by how many days a patient's dates are shifted: 1 to 3652 into the past."""
        number = int.from_bytes(self._digest("days", patient)[:8], "big")
        return -1 - number % _MOST_DAYS

    def _digest(self, kind: str, parts: tuple[str, ...]) -> bytes:
        # JSON, so that no two lists of parts are the same bytes.
        message = json.dumps([kind, *parts]).encode()
        return hmac.digest(self._key, message, hashlib.sha256)


def make_key(path: Path, name: str) -> None:
    """Write a new project's key to a new file of mode 0600.

    Raises KeyUnusable for a name that cannot be used, FileExistsError and other OSErrors.
    """
    key = secrets.token_bytes(_KEY_BYTES)
    Project(name, key)
    text = json.dumps({"form": _FORM, "project": name, "key": key.hex()}, indent=2) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)


def read_key(path: Path) -> Project:
    """Return the project whose key is in the file. Raises KeyUnusable, OSError."""
    with path.open("rb") as file:
        content = file.read(_MOST_FILE_BYTES + 1)
    try:
        found = json.loads(content)
        form, name, key = found["form"], found["project"], bytes.fromhex(found["key"])
    except (ValueError, KeyError, TypeError, RecursionError):
        form = name = key = None
    if form != _FORM or not isinstance(name, str) or key is None:
        raise KeyUnusable(f"{path} is no key of a project; dicomnode deidentify-key makes one")
    return Project(name, key)
