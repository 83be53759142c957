"""Where ``get`` writes what it receives: <Study>/<Series>/<SOP Instance UID>.dcm in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from dicomnode.dimse.status import Status
from dicomnode.errors import StatusError
from dicomnode.scu.files import save
from dicomnode.scu.proposals import Kind
from dicomnode.scu.receiving import ReceivedObject
from dicomnode.storage.disk import rename_without_replacing
from dicomnode.storage.part10 import file_digest
from dicomnode.storage.paths import uid_path_component
from dicomnode.sync.tree import Brought, Held


class Folder:
    """Part 10 files below ``root``; names are made of checked UIDs alone, and nothing is replaced.

    ``source_ae_title`` is who the objects come from.
    """

    def __init__(self, root: Path, source_ae_title: str) -> None:
        self._root = root
        self._source_ae_title = source_ae_title

    def digests(self, objects: Sequence[Held], *, verify: bool) -> dict[str, str]:
        """Return the SHA-256 of the data sets that are there, by SOP Instance UID; blocks.

        Without ``verify`` it is "". Raises OSError, DataSetMismatch for what is no UID.
        """
        there = [(held, path) for held in objects if (path := self._path(held)).exists()]
        return {
            held.sop_instance_uid: file_digest(str(path)) if verify else "" for held, path in there
        }

    async def receive(self, held: Held, arriving: ReceivedObject) -> Brought:
        """Write an object as it arrives.

        Raises OutOfResources, AssociationAborted, and StatusError for bytes that are not those
        that the peer said it holds, or for a name that other bytes have.
        """
        path = self._path(held)
        digest = hashlib.sha256()
        syntax = arriving.transfer_syntax_uid

        def put(part: Path, path: Path) -> None:
            if held.is_expected(syntax, digest.hexdigest()) is False:
                raise StatusError(
                    "the bytes that came are not those that are held",
                    status=Status.CANNOT_UNDERSTAND,
                )
            _put_new(part, path, digest.hexdigest())

        size = await save(
            arriving,
            path,
            source_ae_title=self._source_ae_title,
            on_piece=digest.update,
            put=put,
        )
        return Brought(size, held.is_expected(syntax, digest.hexdigest()))

    async def begin(self, kinds: Iterable[Kind]) -> None:
        """Objects of any kind are taken."""

    async def close(self) -> None:
        """Nothing is left open."""

    def _path(self, held: Held) -> Path:
        study, series, instance = map(
            uid_path_component,
            (held.study_instance_uid, held.series_instance_uid, held.sop_instance_uid),
        )
        return self._root / study / series / f"{instance}.dcm"


def _put_new(part: Path, path: Path, digest: str) -> None:
    """Give a file its name unless another one has it; the same bytes need no second file."""
    with suppress(FileExistsError):
        rename_without_replacing(str(part), str(path))
        return
    if file_digest(str(path)) != digest:
        raise StatusError(
            "a file of that name is there, with other bytes", status=Status.DUPLICATE_SOP_INSTANCE
        )
    part.unlink()
