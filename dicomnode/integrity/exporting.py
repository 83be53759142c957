"""Writes objects of the archive as a DICOM file-set that can be verified anywhere (PS3.10 §8).

Files are copied byte for byte, and compared with what the index says while they are copied. One
that is not what was received ends the export, of which nothing is left then.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from dicomnode.errors import CannotUnderstand, ExportFailed
from dicomnode.integrity import custody_file, manifest
from dicomnode.integrity.dicomdir import Directory
from dicomnode.integrity.directory_records import Described, describe
from dicomnode.integrity.manifest import CUSTODY, DICOMDIR, MANIFEST, README, SIDECAR_SUFFIX, SIGNER
from dicomnode.integrity.readme import readme
from dicomnode.integrity.record import (
    NOTHING_BEFORE,
    CustodyRecord,
    Event,
    faults,
    now,
)
from dicomnode.integrity.sidecar import Sidecar, recorded_sha256
from dicomnode.integrity.signature import Signer
from dicomnode.integrity.writing import Target, writing

_READ_BYTES: Final = 1024 * 1024
# What the only record of a changed copy says of it.
_COPY: Final = "de-identified copy"

# More than a custody record has as a rule.
_RECORD_BYTES: Final = 4096

# Writes a changed copy of the first file, such as a de-identified one, as the second, which is not
# there yet. False: there is none, and the object is left out.
Change = Callable[[Path, Path], bool]


@dataclass(frozen=True, slots=True)
class Original:
    """A stored object: its file of ``size`` bytes, SHA-256 of that (hex), and what is recorded."""

    path: Path
    size: int
    sha256: str
    sop_instance_uid: str
    records: tuple[CustodyRecord, ...]


@dataclass(slots=True)
class Exported:
    """What was written; ``invented`` counts objects whose directory records have stand-in values.

    ``manifest_sha256`` names the export for good.
    """

    objects: int = 0
    bytes: int = 0
    invented: int = 0
    manifest_sha256: str = ""


def export(
    originals: Iterable[Original],
    path: Path,
    *,
    signer: Signer | None = None,
    change: Change | None = None,
    on_progress: Callable[[Exported], None] = lambda exported: None,
    on_whole: Callable[[Exported], None] = lambda exported: None,
) -> Exported:
    """Write objects to the directory ``path``, or the ZIP file where that ends in .zip; blocks.

    Each is given to ``change`` before it is written, if there is one, which may leave it out; then
    its sidecar says nothing of the original. ``on_whole`` is called when all is written and
    durable, before it has its name: what it raises undoes the export. Raises
    ExportFailed, also for an object that is not what was received, OSError, and what ``change``
    and ``on_whole`` raise.
    """
    with writing(path) as target, _scratch(path, is_needed=change is not None) as scratch:
        exporting = _Exporting(target, signer, change, scratch)
        for original in originals:
            exporting.add(original)
            on_progress(exporting.exported)
        exporting.finish()
        target.finish()
        on_whole(exporting.exported)
    return exporting.exported


@contextmanager
def _scratch(path: Path, *, is_needed: bool) -> Iterator[Path]:
    """Make a directory beside ``path``, for its owner alone, where changed copies lie a while."""
    above = path.absolute().parent
    if not is_needed:
        yield above
        return
    with tempfile.TemporaryDirectory(dir=above, prefix=f".{path.name}.") as directory:
        yield Path(directory)


class _Exporting:
    """One export as it is written; changed copies lie in the directory ``scratch`` meanwhile."""

    def __init__(
        self, target: Target, signer: Signer | None, change: Change | None, scratch: Path
    ) -> None:
        self.exported = Exported()
        self._target = target
        self._signer = signer
        self._change = change
        self._scratch = scratch
        self._directory = Directory()
        self._digests: dict[str, str] = {}
        self._records: list[CustodyRecord] = []
        self._at = now()

    def add(self, original: Original) -> None:
        """Write an object and its sidecar."""
        if recorded_sha256(original.records) not in (None, original.sha256):
            raise _damaged(original)
        with self._opened(original) as file:
            if file is None:
                return
            described = _described(file, original)
            file_id = self._directory.place(described)
            name = "/".join(file_id)
            size = os.fstat(file.fileno()).st_size
            digest = self._write(name, size, _pieces(file))
        if self._change is None and digest != original.sha256:
            raise _damaged(original)
        self._directory.add(file_id, described)
        records = original.records if self._change is None else (self._copy_record(described),)
        if fault := next(faults(records), None):
            raise ExportFailed(
                f"custody record {fault.sequence}: {fault.words}; nothing was exported. See"
                " `dicomnode custody --check`"
            )
        self._records.extend(records)
        beside = Sidecar(file_id[-1], digest, size, records).encoded()
        self._write(name + SIDECAR_SUFFIX, len(beside), [beside])
        self.exported.objects += 1
        self.exported.bytes += size
        self.exported.invented += bool(described.invented)

    @contextmanager
    def _opened(self, original: Original) -> Iterator[IO[bytes] | None]:
        """Open what is to be written: the stored file, or what ``change`` makes of it, if that."""
        try:
            with original.path.open("rb") as stored:
                if self._change is None:
                    yield stored
                    return
                if _digest(_pieces(stored)) != original.sha256:
                    raise _damaged(original)
        except FileNotFoundError:
            raise ExportFailed(
                f"the file of {original.sop_instance_uid} is missing; nothing was exported"
            ) from None
        copy = self._scratch / "COPY"
        if not self._change(original.path, copy):
            yield None
            return
        with copy.open("rb") as changed:
            copy.unlink()
            yield changed

    def _copy_record(self, described: Described) -> CustodyRecord:
        """Return what is said of a changed copy: nothing of where it comes from."""
        record = CustodyRecord(
            sequence=len(self._records) + 1,
            at=self._at,
            event=Event.EXPORTED,
            study_instance_uid=described.study_instance_uid,
            sop_instance_uid=described.sop_instance_uid,
            details={"what": _COPY},
            previous=self._records[-1].hash if self._records else NOTHING_BEFORE,
            hash="",
        )
        return replace(record, hash=record.digest())

    def finish(self) -> None:
        """Write what is about all objects."""
        if not self.exported.objects:
            raise ExportFailed("nothing to export")
        text = readme(
            self._at, self.exported.objects, self._signer, is_changed=self._change is not None
        )
        records = sorted(self._records, key=lambda each: each.sequence)
        self._write(DICOMDIR, 0, self._directory.encoded())
        size = len(records) * _RECORD_BYTES
        self._write(CUSTODY, size, custody_file.encode(self._target.container, self._at, records))
        self._write(README, 0, [text])
        if self._signer is not None:
            self._write(SIGNER, 0, [self._signer.public])
        content = manifest.encode(self._digests)
        self._target.write(MANIFEST, len(content), [content])
        self.exported.manifest_sha256 = hashlib.sha256(content).hexdigest()
        if self._signer is not None:
            self._target.write(self._signer.file_name, 0, [self._signer.sign(content)])

    def _write(self, name: str, size: int, pieces: Iterable[bytes]) -> str:
        """Write a file of the manifest, about ``size`` bytes long; return its SHA-256 (hex)."""
        hashed = _Hashed(pieces)
        self._target.write(name, size, hashed)
        self._digests[name] = hashed.digest.hexdigest()
        return self._digests[name]


class _Hashed:
    """Pieces on their way through a digest."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.digest.update(piece)
            yield piece


def _described(file: IO[bytes], original: Original) -> Described:
    try:
        return describe(file.fileno())
    except CannotUnderstand as error:
        raise ExportFailed(
            f"{original.sop_instance_uid} cannot be read: {error.comment}; nothing was exported"
        ) from None


def _damaged(original: Original) -> ExportFailed:
    return ExportFailed(
        f"{original.sop_instance_uid}: the file {original.path} is not what was received. It is"
        " damaged, or was replaced just now; nothing was exported"
    )


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_READ_BYTES):
        yield piece


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
