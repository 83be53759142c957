"""What a verification finds, and what it says in the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What is not as it was exported."""

    FILE = "file"
    SIDECAR = "sidecar"
    SNAPSHOT = "snapshot"
    MANIFEST = "manifest"
    SIGNATURE = "signature"
    MISSING = "missing"
    ADDED = "added"
    CONTAINER = "container"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference: of what kind, in which file, and a sentence about it."""

    kind: Kind
    name: str
    words: str


class Differs(Exception):
    """Something is not as it was written; becomes a ``Finding`` of ``kind``."""

    def __init__(self, kind: Kind, words: str) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = words

    def about(self, name: str) -> Finding:
        """Return the finding in the file ``name``."""
        return Finding(self.kind, name, self.words)


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that is whole: by which key, and on whose word the key is relied on.

    ``fingerprint`` is the SHA-256 (hex) of the public key in DER form. ``vouched`` is "" where
    nobody said which key or authority to rely on. ``subject`` and ``at`` are of X.509 alone.
    """

    fingerprint: str
    vouched: str = ""
    subject: str = ""
    at: str = ""


@dataclass(slots=True)
class Report:
    """What was looked at and what differs; verified when nothing does and something was there."""

    findings: list[Finding] = field(default_factory=list)
    objects: int = 0
    files: int = 0
    bytes: int = 0
    records: int = 0
    manifest_sha256: str = ""
    signed: Signed | None = None

    @property
    def verified(self) -> bool:
        """Whether everything is as it was exported."""
        return not self.findings and self.files > 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON value."""
        signed = self.signed
        return {
            "verified": self.verified,
            "findings": [
                {"kind": each.kind.value, "name": each.name, "words": each.words}
                for each in self.findings
            ],
            "objects": self.objects,
            "files": self.files,
            "bytes": self.bytes,
            "custody_records": self.records,
            "manifest_sha256": self.manifest_sha256,
            "signature": None
            if signed is None
            else {
                "key_sha256": signed.fingerprint,
                "vouched_by": signed.vouched,
                "subject": signed.subject,
                "signed_at": signed.at,
            },
        }
