"""Compares what a peer holds of a study with the node's own objects, by retrieving all of it.

Bytes that are the same are the same object. Where the peer encodes anew, elements are compared, and
pixel data as it is decoded, as long as neither side is compressed with loss.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Final

from dicomnode.dimse.status import Status
from dicomnode.errors import CannotUnderstand, ConversionFailed, StatusError
from dicomnode.index.entry import InstanceRow
from dicomnode.scu.conversion import Converters
from dicomnode.scu.files import save
from dicomnode.scu.keys import Keys
from dicomnode.scu.names import FIND
from dicomnode.scu.proposals import Kind
from dicomnode.scu.receiving import ReceivedObject
from dicomnode.storage.differences import Contents, Difference, contents, differences
from dicomnode.storage.disk import OpenFile
from dicomnode.storage.elements import Source as Stored
from dicomnode.storage.elements import encoding_of
from dicomnode.storage.encoding import DEFLATED, EXPLICIT_VR_LITTLE_ENDIAN
from dicomnode.storage.part10 import file_digest, read_file_meta
from dicomnode.storage.pixels import COMPRESSED
from dicomnode.sync.bringing import Bringing, Report, Series
from dicomnode.sync.source import Source
from dicomnode.sync.tree import Brought, Held, Tree, takes_whole_series

# Compressed without loss (PS3.5 §8.2). The others may have lost something: JPEG and JPEG 2000 with
# a choice of both among them.
_LOSSLESS: Final = frozenset(
    f"1.2.840.10008.1.2.{suffix}"
    for suffix in ("4.57", "4.70", "4.80", "4.90", "4.201", "4.202", "5")
)
_MIN_FREE_BYTES: Final = 64 * 1024 * 1024


@dataclass(slots=True)
class Comparison:
    """What came of it, by SOP Instance UID.

    ``identical`` have the same bytes; ``same`` say the same, encoded in another way. The peer does
    not have what is ``missing``, or did not send it, and why; it alone has what is ``extra``.
    ``unclear`` cannot be compared, and why.
    """

    objects: int = 0
    identical: set[str] = field(default_factory=set)
    same: set[str] = field(default_factory=set)
    differ: dict[str, list[Difference]] = field(default_factory=dict)
    pixels_differ: set[str] = field(default_factory=set)
    unclear: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def verified(self) -> bool:
        """Whether the peer holds what is held here, no less and no more.

        A peer may send an object several times, and not the same each time.
        """
        wrong = self.differ or self.pixels_differ or self.unclear or self.missing or self.extra
        return not wrong and 0 < self.objects == len(self.identical | self.same)


class Against:
    """Compares ``rows``, whose files are in ``directory``, with what ``source`` sends by C-GET.

    What is received lies in ``scratch`` for a moment.
    """

    def __init__(
        self,
        source: Source,
        rows: Sequence[InstanceRow],
        directory: Path,
        scratch: Path,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._rows = {row.sop_instance_uid: row for row in rows}
        self._directory = directory
        self._scratch = scratch
        self._on_progress = on_progress
        self._converters = Converters(_Scratch(scratch), _MIN_FREE_BYTES)
        self.comparison = Comparison()

    async def compare(self, wanted: Keys) -> Comparison:
        """Retrieve what ``wanted`` matches, and compare it.

        Raises AssociationError, ContextNotAccepted, StatusError, Unreadable.
        """
        found = await self._find(wanted)
        known = {uid: held for uid, held in found.items() if uid in self._rows}
        report = Report()
        bringing = Bringing(
            self._source,
            self,
            report,
            on_progress=lambda report: self._on_progress(report.received, len(known)),
            take=self._take,
            by_series=takes_whole_series(wanted),
        )
        try:
            await bringing.bring(dict(known), _per_series(found))
        finally:
            await self._converters.close()
        comparison = self.comparison
        comparison.extra += sorted(found.keys() - self._rows.keys())
        comparison.objects = len(found.keys() | self._rows.keys())
        for uid in self._rows.keys() - found.keys():
            comparison.missing[uid] = "the peer does not have it"
        for uid in known.keys() & report.missing.keys():
            comparison.missing[uid] = report.missing[uid]
        comparison.refusals = report.refusals
        return comparison

    async def _find(self, wanted: Keys) -> dict[str, Held]:
        """Return what the peer has; what is held here is asked for as it is held here."""
        found: dict[str, Held] = {}
        async with self._source.associated([FIND["study"]]) as association:
            tree = Tree(association, self._source.response_seconds)
            async for held in tree.objects(wanted):
                row = self._rows.get(held.sop_instance_uid)
                if row is not None:
                    syntax = row.transfer_syntax_uid
                    held = replace(
                        held, sop_class_uid=row.sop_class_uid, transfer_syntax_uid=syntax
                    )
                found[held.sop_instance_uid] = held
        return found

    # -- a place where objects are brought (``bringing.Place``) ------------------------------------

    def digests(self, objects: Sequence[Held], *, verify: bool) -> dict[str, str]:
        """Nothing is there: all is retrieved."""
        return {}

    async def begin(self, kinds: Iterable[Kind]) -> None:
        """There is nothing to prepare."""

    async def close(self) -> None:
        """There is nothing to end."""

    async def _take(self, held: Held, arriving: ReceivedObject) -> Brought:
        uid = arriving.sop_instance_uid
        row = self._rows.get(uid)
        if row is None:
            raise StatusError("not asked for", status=Status.CANNOT_UNDERSTAND)
        digest = hashlib.sha256()
        path = self._scratch / f"{token_hex(8)}.dcm"
        size = await save(arriving, path, on_piece=digest.update)
        try:
            if (arriving.transfer_syntax_uid, digest.hexdigest()) == (
                row.transfer_syntax_uid,
                row.sha256,
            ):
                self.comparison.identical.add(uid)
            else:
                await self._look_closer(row, path)
        finally:
            path.unlink(missing_ok=True)
        return Brought(size, None)

    # -- element by element ------------------------------------------------------------------------

    async def _look_closer(self, row: InstanceRow, theirs: Path) -> None:
        uid, ours = row.sop_instance_uid, self._directory / row.path
        comparison = self.comparison
        try:
            if await asyncio.to_thread(file_digest, str(ours)) != row.sha256:
                comparison.unclear[uid] = "the node's own file is not what was received"
                return
            our = await _read(ours, self._converters)
            their = await _read(theirs, self._converters)
            found = differences(our.contents, their.contents)
            pixels = await self._pixels(our, their)
        except (ConversionFailed, CannotUnderstand) as error:
            comparison.unclear[uid] = str(error)
        except OSError as error:
            comparison.unclear[uid] = error.strerror or str(error)
        else:
            if found:
                comparison.differ[uid] = found
            if pixels is False:
                comparison.pixels_differ.add(uid)
            if pixels is None:
                comparison.unclear[uid] = "pixel data that is compressed with loss on one side"
            elif pixels and not found:
                comparison.same.add(uid)

    async def _pixels(self, our: _Read, their: _Read) -> bool | None:
        """Tell whether pixel data is the same; None where that cannot be told."""
        if our.contents.pixels == their.contents.pixels:
            return True
        syntaxes = {our.syntax, their.syntax}
        if len(syntaxes) == 1:
            return False
        if not (syntaxes & COMPRESSED) or not (our.contents.pixels and their.contents.pixels):
            return False
        if syntaxes & COMPRESSED - _LOSSLESS:
            return None
        decoded = [await self._decoded(each) for each in (our, their)]
        return decoded[0] == decoded[1]

    async def _decoded(self, read: _Read) -> str:
        if read.syntax not in COMPRESSED:
            return read.contents.pixels
        file, size = await read.converted(self._converters)
        source = Stored(file.fileno(), 0, size)
        found = await asyncio.to_thread(
            contents, source, encoding_of(source, EXPLICIT_VR_LITTLE_ENDIAN)
        )
        return found.pixels


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that has been read, and where its data set lies."""

    path: Path
    syntax: str
    offset: int
    size: int
    contents: Contents

    async def converted(self, converters: Converters) -> tuple[OpenFile, int]:
        return await converters.convert(
            str(self.path), self.offset, self.size, self.syntax, EXPLICIT_VR_LITTLE_ENDIAN
        )


async def _read(path: Path, converters: Converters) -> _Read:
    """Read a file. Raises ConversionFailed, CannotUnderstand, OSError."""
    file = await asyncio.to_thread(OpenFile.at, path)
    meta = await asyncio.to_thread(read_file_meta, file.fileno())
    offset, size = meta.data_set_offset, os.fstat(file.fileno()).st_size - meta.data_set_offset
    read = _Read(path, meta.transfer_syntax_uid, offset, size, Contents({}, ""))
    if read.syntax == DEFLATED:
        file, length = await read.converted(converters)
        source, read_as = Stored(file.fileno(), 0, length), EXPLICIT_VR_LITTLE_ENDIAN
    else:
        source, read_as = Stored(file.fileno(), offset, size), read.syntax
    found = await asyncio.to_thread(contents, source, encoding_of(source, read_as))
    return replace(read, contents=found)


class _Scratch:
    """Where converted objects lie: ``scu.conversion.Scratch``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def new_temporary(self) -> str:
        return str(self._directory / token_hex(8))

    def free_bytes(self) -> int:
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize


def _per_series(found: Mapping[str, Held]) -> Mapping[Series, int]:
    return Counter((each.study_instance_uid, each.series_instance_uid) for each in found.values())
