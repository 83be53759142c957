"""Verifies an export, or a file and its sidecar: whatever differs from what was exported is found.

Everything is looked at in both directions: each file of the manifest has to be there, and each
file that is there has to be in the manifest. Files are read by as many threads as there are
processors; hashing gives up the interpreter meanwhile.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dicomnode.integrity import custody_file, manifest, reading, sidecar, signature
from dicomnode.integrity.findings import Differs, Finding, Kind, Report, Signed
from dicomnode.integrity.manifest import (
    CUSTODY,
    DICOMDIR,
    MANIFEST,
    README,
    SIDECAR_SUFFIX,
    SIGNER,
)
from dicomnode.integrity.reading import File, Source
from dicomnode.integrity.signature import Trust

_READ_BYTES: Final = 1024 * 1024
_NO_OBJECTS: Final = frozenset((DICOMDIR, README, CUSTODY, SIGNER))
# So many files are queued for the threads at once.
_AT_ONCE: Final = 1024

# Told how many files of how many have been read.
Progress = Callable[[int, int], None]


def verify_path(path: Path, trust: Trust, on_progress: Progress = lambda done, of: None) -> Report:
    """Verify an export, which is a directory or a ZIP file. Raises OSError."""
    try:
        with reading.opened(path) as source:
            return verify_export(source, trust, on_progress)
    except Differs as difference:
        return Report([difference.about(path.name)])


def verify_file(path: Path, beside: Path) -> Report:
    """Verify a file against its sidecar. Raises OSError.

    The name of the file does not matter, as copies have others.
    """
    report = Report()
    try:
        with beside.open("rb") as file:
            said = sidecar.parse(_whole(file, sidecar.MAX_BYTES, Kind.SIDECAR))
    except Differs as difference:
        report.findings.append(difference.about(beside.name))
        return report
    with path.open("rb") as file:
        digest, size = _digest(file)
    report.objects = report.files = 1
    report.bytes, report.records = size, len(said.records)
    if digest != said.sha256 or size != said.size:
        words = "its bytes are not those that the sidecar was written for"
        report.findings.append(Finding(Kind.FILE, path.name, words))
    return report


def verify_export(
    source: Source, trust: Trust, on_progress: Progress = lambda done, of: None
) -> Report:
    """Verify an export that has been opened. Raises OSError."""
    return _Verification(source, trust, on_progress).report()


class _Verification:
    """One look at an export."""

    def __init__(self, source: Source, trust: Trust, on_progress: Progress) -> None:
        self._source = source
        self._trust = trust
        self._on_progress = on_progress
        self._report = Report(list(source.findings))
        self._digests: Mapping[str, str] = {}

    def report(self) -> Report:
        try:
            content = self._small(MANIFEST, manifest.MAX_BYTES, Kind.MANIFEST)
            self._report.manifest_sha256 = hashlib.sha256(content).hexdigest()
            self._digests = manifest.parse(content)
        except Differs as difference:
            self._report.findings.append(difference.about(MANIFEST))
            return self._report
        self._check_names()
        self._check_signature(content)
        self._check_files()
        self._check_custody()
        self._report.findings.sort(key=lambda each: (each.name, each.kind))
        return self._report

    def _find(self, kind: Kind, name: str, words: str) -> None:
        self._report.findings.append(Finding(kind, name, words))

    def _small(self, name: str, max_bytes: int, kind: Kind) -> bytes:
        if name not in self._source.sizes:
            raise Differs(Kind.MISSING, "it is not there")
        with self._source.open(name) as file:
            return _whole(file, max_bytes, kind)

    # -- names -------------------------------------------------------------------------------------

    def _check_names(self) -> None:
        there, listed = self._source.sizes.keys(), self._digests.keys()
        for name in listed - there:
            self._find(Kind.MISSING, name, "it is not there")
        for name in there - listed - signature.SIGNATURES - {MANIFEST}:
            self._find(Kind.ADDED, name, "it was not exported")
        for name in (DICOMDIR, README, CUSTODY):
            if name not in listed:
                self._find(Kind.MANIFEST, name, "the manifest does not list it")
        for name in listed - _NO_OBJECTS:
            if name.endswith(SIDECAR_SUFFIX):
                if name.removesuffix(SIDECAR_SUFFIX) not in listed:
                    self._find(Kind.MISSING, name, "there is a sidecar without its file")
            elif name + SIDECAR_SUFFIX not in listed:
                self._find(Kind.MISSING, name, "there is a file without its sidecar")

    # -- signature ---------------------------------------------------------------------------------

    def _check_signature(self, content: bytes) -> None:
        there = sorted(signature.SIGNATURES & self._source.sizes.keys())
        if SIGNER not in self._digests:
            for name in there:
                self._find(Kind.ADDED, name, "the manifest does not say who signed it")
            if self._trust.is_asked_for:
                self._find(Kind.SIGNATURE, MANIFEST, "it is not signed")
            return
        if len(there) != 1:
            words = "two signatures" if there else "the manifest says who signed it: no signature"
            self._find(Kind.SIGNATURE, MANIFEST, words)
            return
        try:
            self._report.signed = self._signed(there[0], content)
        except Differs as difference:
            self._report.findings.append(difference.about(there[0]))

    def _signed(self, name: str, content: bytes) -> Signed:
        written = self._small(name, signature.MAX_BYTES, Kind.SIGNATURE)
        signer = self._small(SIGNER, signature.MAX_BYTES, Kind.SIGNATURE)
        if hashlib.sha256(signer).hexdigest() != self._digests[SIGNER]:
            raise Differs(Kind.SIGNATURE, "the key beside it is not the one that was exported")
        return signature.check(name, written, content, signer, self._trust)

    # -- files -------------------------------------------------------------------------------------

    def _check_files(self) -> None:
        names = [name for name in self._digests if name in self._source.sizes]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                for done, found in enumerate(threads.map(self._check_file, some), start + 1):
                    self._report.findings.extend(found)
                    self._on_progress(done, len(names))
        self._report.files = len(names)
        self._report.objects = sum(
            name not in _NO_OBJECTS and not name.endswith(SIDECAR_SUFFIX) for name in names
        )
        self._report.bytes = sum(self._source.sizes[name] for name in names)

    def _check_file(self, name: str) -> list[Finding]:
        try:
            if name.endswith(SIDECAR_SUFFIX):
                self._check_sidecar(name)
                return []
            with self._source.open(name) as file:
                digest, _ = _digest(file)
            if digest != self._digests[name]:
                raise Differs(_kind_of(name), "its bytes are not those that were exported")
        except Differs as difference:
            return [difference.about(name)]
        except OSError as error:
            return [Finding(Kind.UNREADABLE, name, error.strerror or str(error))]
        return []

    def _check_sidecar(self, name: str) -> None:
        content = self._small(name, sidecar.MAX_BYTES, Kind.SIDECAR)
        said = sidecar.parse(content)
        if hashlib.sha256(content).hexdigest() != self._digests[name]:
            raise Differs(Kind.SIDECAR, "its bytes are not those that were exported")
        of = name.removesuffix(SIDECAR_SUFFIX)
        if said.sha256 != self._digests.get(of) or said.name != of.rpartition("/")[2]:
            raise Differs(Kind.SIDECAR, "it is of another file")

    # -- custody and container ---------------------------------------------------------------------

    def _check_custody(self) -> None:
        container = ""
        if CUSTODY in self._source.sizes:
            try:
                with self._source.open(CUSTODY) as file:
                    container, self._report.records = custody_file.parse(file)
            except Differs as difference:
                # Changed bytes have been told of already.
                if all(each.name != CUSTODY for each in self._report.findings):
                    self._report.findings.append(difference.about(CUSTODY))
        try:
            self._source.check_container(must_be_sealed=container == custody_file.ZIP)
        except Differs as difference:
            self._report.findings.append(difference.about(""))


def _kind_of(name: str) -> Kind:
    return {CUSTODY: Kind.SNAPSHOT, SIGNER: Kind.SIGNATURE}.get(name, Kind.FILE)


def _pieces(file: File) -> Iterator[bytes]:
    while piece := file.read(_READ_BYTES):
        yield piece


def _whole(file: File, max_bytes: int, kind: Kind) -> bytes:
    found = bytearray()
    for piece in _pieces(file):
        found += piece
        if len(found) > max_bytes:
            raise Differs(kind, f"it is longer than {max_bytes} bytes, and is not read")
    return bytes(found)


def _digest(file: File) -> tuple[str, int]:
    """Return the SHA-256 (hex) and the length of a file."""
    digest, size = hashlib.sha256(), 0
    for piece in _pieces(file):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size
