"""Exports for tests, and one in memory, of which bytes can be changed quickly."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from dicomnode.integrity.exporting import Original
from dicomnode.integrity.findings import Finding, Report
from dicomnode.integrity.record import Event
from dicomnode.integrity.signature import Signer, Trust
from dicomnode.integrity.verifying import verify_export
from dicomnode.storage.part10 import file_meta
from tests.integrity.chains import STUDY, chain, happening

CT = "1.2.840.10008.5.1.4.1.1.2"


def small_object(number: int = 1, *, study: str = STUDY, value: bytes = b"x") -> bytes:
    """Return a Part 10 file of a few hundred bytes, in Explicit VR Little Endian."""
    uid = f"{study}.{number}"
    elements = [
        (0x0008, 0x0016, b"UI", CT.encode()),
        (0x0008, 0x0018, b"UI", uid.encode()),
        (0x0010, 0x0010, b"PN", b"Doe^Jane"),
        (0x0010, 0x0020, b"LO", b"4711"),
        (0x0020, 0x000D, b"UI", study.encode()),
        (0x0020, 0x000E, b"UI", f"{study}.0".encode()),
        (0x0020, 0x0013, b"IS", str(number).encode()),
        (0x0020, 0x4000, b"LT", value),
    ]
    data = b""
    for group, element, vr, content in elements:
        content += (b"\0" if vr == b"UI" else b" ") * (len(content) % 2)
        data += group.to_bytes(2, "little") + element.to_bytes(2, "little") + vr
        data += len(content).to_bytes(2, "little") + content
    return file_meta(CT, uid, "1.2.840.10008.1.2.1") + data


def written(folder: Path, contents: Iterable[bytes]) -> list[Original]:
    """Write files and return them as the archive's, with records of their reception."""
    folder.mkdir(parents=True, exist_ok=True)
    files = list(contents)
    digests = [hashlib.sha256(each).hexdigest() for each in files]
    records = chain(
        happening(number, Event.RECEIVED, calling_ae_title="CT_1", file_sha256=digest)
        for number, digest in enumerate(digests, 1)
    )
    originals = []
    for content, digest, record in zip(files, digests, records, strict=True):
        path = folder / f"{record.sequence}.dcm"
        path.write_bytes(content)
        originals.append(Original(path, len(content), digest, record.sop_instance_uid, (record,)))
    return originals


def ed25519_signer() -> Signer:
    """Return a signer with a new key."""
    return Signer(ed25519.Ed25519PrivateKey.generate())


class Memory:
    """An export in memory: a ``reading.Source`` whose files are mutable."""

    is_zip = False

    def __init__(self, root: Path) -> None:
        self.files = {
            str(path.relative_to(root)): bytearray(path.read_bytes())
            for path in root.rglob("*")
            if path.is_file()
        }
        self.findings: list[Finding] = []

    @property
    def sizes(self) -> dict[str, int]:
        return {name: len(content) for name, content in self.files.items()}

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.files[name])

    def check_container(self, *, must_be_sealed: bool) -> None:
        pass

    def verified(self, trust: Trust | None = None) -> Report:
        return verify_export(self, trust or Trust())
