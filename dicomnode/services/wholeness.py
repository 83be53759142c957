"""Whether a stored file is what was received: its bytes against the digest of the index."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dicomnode.errors import OutOfResources
from dicomnode.index.catalog import Catalog, InstanceRow
from dicomnode.index.scrubbing import Kind
from dicomnode.services.turns import Turns
from dicomnode.storage.disk import OpenFile, disk_errors, is_shortage
from dicomnode.storage.files import FileStore

_PIECE_BYTES: Final = 1024 * 1024

Spend = Callable[[int], None]
"""Is told of each piece that has been read, and may wait, or raise to end the reading."""


def _nothing(size: int) -> None:
    """Neither wait nor end the reading."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a file is not whole; ``words`` name no path."""

    kind: Kind
    words: str


class Wholeness:
    """Reads stored files and compares them; everything blocks."""

    def __init__(self, files: FileStore, catalog: Catalog, turns: Turns) -> None:
        self._files = files
        self._catalog = catalog
        self._turns = turns

    def fault_of(
        self, row: InstanceRow, spend: Spend = _nothing, *, from_disk: bool = True
    ) -> Fault | None:
        """Return what is wrong with the file of ``row``; None when it is whole.

        With ``from_disk`` the bytes come from there and not from memory, where the system can
        forget those, and push no others out of memory. Raises OutOfResources when the process
        lacks what it takes to read any file.
        """
        try:
            with disk_errors():
                file = OpenFile(self._files.open_object(row.path))
                size = os.fstat(file.fileno()).st_size
                if size != row.size_bytes:
                    words = f"the file has {size} bytes, {row.size_bytes} were received"
                    return Fault(Kind.DAMAGED, words)
                if from_disk:
                    file.uncache()
                digest = _digest(file, spend)
                if from_disk:
                    file.uncache()
        except OutOfResources as error:
            if is_shortage(error):
                raise
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return Fault(Kind.MISSING, "the file is missing")
            return Fault(Kind.UNREADABLE, f"the file cannot be read: {error.comment}")
        if digest != row.file_sha256:
            return Fault(Kind.DAMAGED, "the file is not what was received")
        return None

    def certain_fault_of(
        self, row: InstanceRow, spend: Spend = _nothing
    ) -> tuple[InstanceRow, Fault | None] | None:
        """Look again while nobody changes the object; return its row now, and what is wrong.

        Between reading row and file another object may have taken its place, as
        storage.on_conflict allows. None where the object is no longer held. Raises CatalogError,
        OutOfResources.
        """
        with self._turns.alone(row.sop_instance_uid):
            held = self._catalog.get(row.sop_instance_uid)
            return (held, self.fault_of(held, spend)) if held is not None else None


def _digest(file: OpenFile, spend: Spend) -> str:
    digest, position = hashlib.sha256(), 0
    while piece := file.read(_PIECE_BYTES, position):
        digest.update(piece)
        position += len(piece)
        spend(len(piece))
    return digest.hexdigest()
