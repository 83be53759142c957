"""Exports of unknown origin: manifest, sidecars, custody records, signatures and ZIP files."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from dicomnode.integrity import custody_file, manifest, sidecar
from dicomnode.integrity.exporting import export
from dicomnode.integrity.findings import Differs
from dicomnode.integrity.reading import opened
from dicomnode.integrity.record import CustodyRecord
from dicomnode.integrity.signature import CMS_SIGNATURE, ED25519_SIGNATURE, Trust, check
from tests.integrity.certificates import ec_signer
from tests.integrity.exports import ed25519_signer, small_object, written

_SIGNED = manifest.encode({"A": "0" * 64})
_SIGNER = ec_signer()
_SIGNATURES = {CMS_SIGNATURE: _SIGNER.sign(_SIGNED), ED25519_SIGNATURE: bytes(64)}


def _manifest(data: bytes) -> None:
    assert manifest.encode(manifest.parse(data)) == data


def _sidecar(data: bytes) -> None:
    assert sidecar.parse(data).encoded() == data


def _custody(data: bytes) -> None:
    custody_file.parse(io.BytesIO(data))


def _record(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        CustodyRecord.from_json(json.loads(data)).digest()


def _signature(data: bytes) -> None:
    check(CMS_SIGNATURE, data, _SIGNED, _SIGNER.public, Trust())


def _signer(data: bytes) -> None:
    for name, signature in _SIGNATURES.items():
        check(name, signature, _SIGNED, data, Trust())


def _zip(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with opened(Path(file.name)) as source:
            for name in source.sizes:
                with contextlib.suppress(Differs), source.open(name) as member:
                    while member.read(1 << 16):
                        pass
            source.check_container(must_be_sealed=True)


_READERS: tuple[Callable[[bytes], None], ...] = (
    *(_manifest, _sidecar, _custody, _record, _signature, _signer, _zip),
)


def seeds() -> Iterator[bytes]:
    """Yield the files of an export, and the export as a ZIP file."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        originals = written(folder / "in", [small_object()])
        export(originals, folder / "out", signer=ed25519_signer())
        export(originals, folder / "out.zip")
        for path in (folder / "out").rglob("*"):
            if path.is_file():
                yield from (bytes([number]) + path.read_bytes() for number in _readers_of(path))
        yield bytes([_READERS.index(_zip)]) + (folder / "out.zip").read_bytes()
    yield bytes([_READERS.index(_signature)]) + _SIGNATURES[CMS_SIGNATURE]
    yield bytes([_READERS.index(_signer)]) + _SIGNER.public
    yield bytes([_READERS.index(_signer)]) + ed25519_signer().public
    record = originals[0].records[0]
    yield bytes([_READERS.index(_record)]) + json.dumps(record.to_json()).encode()


def _readers_of(path: Path) -> list[int]:
    of = {manifest.MANIFEST: _manifest, manifest.CUSTODY: _custody}
    if path.name.endswith(manifest.SIDECAR_SUFFIX):
        return [_READERS.index(_sidecar)]
    return [_READERS.index(of[path.name])] if path.name in of else []


def one(data: bytes) -> None:
    """Read a file, or say what differs from what was written."""
    if data:
        with contextlib.suppress(Differs):
            _READERS[data[0] % len(_READERS)](data[1:])
