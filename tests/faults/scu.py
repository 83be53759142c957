"""What the fault tests share: small objects, and looking at a store from outside."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.interop.samples import data_set_bytes, stored_path
from tests.peers import Address
from tests.wire import ASSOCIATE_AC, CT_IMAGE_STORAGE, Wire, data_set

ROOT = "1.2.826.0.1.3680043.10.1666.7"


@dataclass(frozen=True, slots=True)
class Image:
    """One small CT image; equal numbers give equal UIDs, ``shade`` makes other bytes of one."""

    number: int
    study: int = 1
    shade: int = 0
    size_bytes: int = 1024
    patient_id: str = "P1"
    patient_name: str = "Doe^Jane"
    birth_date: str = "19700101"

    @property
    def study_uid(self) -> str:
        return f"{ROOT}.{self.study}"

    @property
    def series_uid(self) -> str:
        return f"{self.study_uid}.1"

    @property
    def uid(self) -> str:
        return f"{self.series_uid}.{self.number}"

    @property
    def data_set(self) -> bytes:
        return data_set(
            CT_IMAGE_STORAGE,
            self.uid,
            study_uid=self.study_uid,
            series_uid=self.series_uid,
            patient_id=self.patient_id,
            patient_name=self.patient_name,
            birth_date=self.birth_date,
            pixels=bytes([self.shade]) * self.size_bytes,
        )

    def path(self, store_directory: Path) -> Path:
        """Return where a node keeps it."""
        return stored_path(store_directory, self.study_uid, self.series_uid, self.uid)

    def is_stored_whole(self, store_directory: Path) -> bool:
        """Tell whether the stored file has exactly this data set."""
        path = self.path(store_directory)
        return path.is_file() and data_set_bytes(path) == self.data_set


def associated(address: Address, calling: str = "RAW", **fields: object) -> Wire:
    """Return an association with the contexts of ``tests.wire`` accepted."""
    with contextlib.ExitStack() as failing:
        wire = failing.enter_context(Wire(address))
        pdu_type, body = wire.associate(calling=calling, **fields)
        assert pdu_type == ASSOCIATE_AC, (pdu_type, body.hex())
        failing.pop_all()
    return wire


def store(
    address: Address, *images: Image, calling: str = "RAW", called: str = "DICOMNODE"
) -> list[int]:
    """Store images over one association; return their statuses."""
    with associated(address, calling, called=called) as wire:
        statuses = [wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set) for image in images]
        wire.release()
    return statuses


def indexed_paths(store_directory: Path) -> dict[str, str]:
    """Return SOP Instance UID → path of every row of the index, read without the node."""
    with closing(
        sqlite3.connect(f"file:{store_directory}/index.sqlite?mode=ro", uri=True)
    ) as index:
        return dict(index.execute("SELECT sop_instance_uid, path FROM instance"))


def files_below(store_directory: Path, *folders: str) -> list[Path]:
    """Return the files in ``folders`` of a storage directory."""
    return [
        path
        for folder in folders
        for path in sorted((store_directory / folder).rglob("*"))
        if path.is_file()
    ]


def temporary_files(store_directory: Path) -> Sequence[Path]:
    """Return every file that is no stored object, nor parked, nor index, lock or token."""
    kept = {"objects", "quarantine"}
    return [
        path
        for path in store_directory.rglob("*")
        if path.is_file()
        and path.relative_to(store_directory).parts[0] not in kept
        and not path.name.startswith(("index.sqlite", "api.token", "."))
    ]
