"""The quarantine: objects kept aside, each with a note that says why."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

from dicomnode.storage.disk import fsync_directory
from dicomnode.storage.part10 import file_digest

# Enough of the digest to tell apart what one SOP Instance UID was given to.
_DIGEST_DIGITS = 16


class Quarantine:
    """Keeps ``quarantine/<stem>.<first digits of the SHA-256>.dcm`` and a ``.json`` beside it.

    Names carry the digest, so that a peer that sends the same object again and again takes the
    space of one.
    """

    def __init__(self, root: str, *, flush: bool) -> None:
        self._root = root
        self._flush = flush

    def keep(self, source: str, stem: str, reason: str, sha256: str) -> str:
        """Give the file at ``source`` a second name here; return it, relative to the root.

        File and note are durable before the call returns. Raises OSError.
        """
        if self._flush:
            # Its bytes may be durable in the index alone, which lets go of them.
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        name = self._link(source, f"quarantine/{stem}.{sha256[:_DIGEST_DIGITS]}", sha256)
        if not os.path.exists(f"{self._root}/{name}.json"):
            self._write_note(source, name, reason, sha256)
        # Even for what was there: whoever put it there may have died before this.
        if self._flush:
            fsync_directory(f"{self._root}/quarantine")
        return f"{name}.dcm"

    def _link(self, source: str, first: str, sha256: str) -> str:
        """Give a file the name ``first``, or one that follows it; return it without extension.

        What has such a name already stands for the file, where it is what its name says.
        """
        name, number = first, 1
        while True:
            path = f"{self._root}/{name}.dcm"
            try:
                os.link(source, path)
                return name
            except FileExistsError:
                if _has_digest(path, sha256):
                    return name
            number += 1
            name = f"{first}.{number}"

    def _write_note(self, source: str, name: str, reason: str, sha256: str) -> None:
        note = {
            "reason": reason,
            "sha256": sha256,
            "size_bytes": os.stat(source).st_size,
            "quarantined_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        self._write(f"{self._root}/{name}.json", json.dumps(note, indent=2).encode() + b"\n")

    def _write(self, path: str, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if self._flush:
                os.fsync(file.fileno())


def _has_digest(path: str, sha256: str) -> bool:
    try:
        return file_digest(path) == sha256
    except OSError:
        return False
