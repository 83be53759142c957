"""The studies of a hospital: the same ones in an index of the node and in Orthanc.

Objects are tiny, and made from their number alone. What takes long to make is kept below the
cache directory: an index of a million studies takes minutes, copying it takes seconds.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import random
import shutil
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from bench.data import ROOT, SEED, cache_directory
from dicomnode.index import schema
from dicomnode.index.catalog import Catalog, InstanceEntry
from dicomnode.storage.header import read_header
from dicomnode.storage.paths import object_path
from tests import peers
from tests.wire import CT_IMAGE_STORAGE, EXPLICIT_LE, Wire

# Studies below this number have one to three instances, those above it one.
_FULL_STUDIES = 20_000
_OUTSTANDING = 2000
_FIRST_DAY = datetime.date(2016, 1, 1)
_DAYS = 3650
_CONTEXTS = ((1, CT_IMAGE_STORAGE, (EXPLICIT_LE,)),)
_SENDERS = 4

_FAMILY_NAMES, _GIVEN_NAMES = (
    names.split()
    for names in (
        "Smith Garcia Müller Rossi Nowak Jensen Dubois Silva Novák Johansson Papadopoulos Haas "
        "Fernández O'Brien Schmidt Bauer Lefèvre Martin Ivanov Kowalski Vogel Okafor Tanaka Lee",
        "Anna Ben Carla David Eva Félix Greta Hans Ida Jürgen Karin Luis Maria Noah Olga Paul Rosa "
        "Sven Tina Ute Vera Willem Yara Zoë",
    )
)
_DESCRIPTIONS = {
    "CT": ("CT Thorax", "CT Abdomen", "CT Head"),
    "MR": ("MR Brain", "MR Knee", "MR Spine"),
    "CR": ("Chest PA", "Hand"),
    "US": ("US Abdomen", "Echo"),
    "MG": ("Mammography",),
    "PT": ("FDG PET",),
}
_MODALITIES = tuple(_DESCRIPTIONS)
_UID_VR = b"UI"


@dataclass(frozen=True, slots=True)
class Study:
    """One study of the hospital; equal numbers are equal studies everywhere."""

    number: int
    date: str
    family_name: str
    modality: str
    description: str

    @property
    def uid(self) -> str:
        """Study Instance UID."""
        return f"{ROOT}.77.{self.number}"

    @property
    def patient_id(self) -> str:
        """Patient ID: two studies in a row are of one patient."""
        return f"PAT{self.number // 2:07d}"

    @property
    def accession_number(self) -> str:
        """Accession Number, one for each study."""
        return f"ACC{self.number:08d}"

    def instances(self) -> list[tuple[str, bytes]]:
        """Return SOP Instance UID and data set of each object (Explicit VR Little Endian)."""
        count = 1 + self.number % 3 if self.number < _FULL_STUDIES else 1
        return [self._instance(number) for number in range(1, count + 1)]

    def _instance(self, number: int) -> tuple[str, bytes]:
        person = random.Random(SEED + self.number // 2)
        given = _GIVEN_NAMES[person.randrange(len(_GIVEN_NAMES))]
        birth = f"{1930 + person.randrange(85)}{1 + person.randrange(12):02d}15"
        uid = f"{self.uid}.1.{number}"
        elements = (
            (0x00080005, b"CS", "ISO_IR 100"),
            (0x00080008, b"CS", "ORIGINAL\\PRIMARY\\AXIAL"),
            (0x00080016, _UID_VR, CT_IMAGE_STORAGE),
            (0x00080018, _UID_VR, uid),
            (0x00080020, b"DA", self.date),
            (0x00080030, b"TM", f"{7 + self.number % 12:02d}{self.number % 60:02d}30"),
            (0x00080050, b"SH", self.accession_number),
            (0x00080060, b"CS", self.modality),
            (0x00080070, b"LO", "dicomnode"),
            (0x00080080, b"LO", "General Hospital"),
            (0x00080090, b"PN", f"Referring^Doctor {self.number % 40}"),
            (0x00081030, b"LO", self.description),
            (0x0008103E, b"LO", f"{self.description} axial"),
            (0x00100010, b"PN", f"{self.family_name}^{given}"),
            (0x00100020, b"LO", self.patient_id),
            (0x00100030, b"DA", birth),
            (0x00100040, b"CS", "FM"[self.number // 2 % 2]),
            (0x0020000D, _UID_VR, self.uid),
            (0x0020000E, _UID_VR, f"{self.uid}.1"),
            (0x00200010, b"SH", f"S{self.number}"),
            (0x00200011, b"IS", "1"),
            (0x00200013, b"IS", str(number)),
        )
        return uid, b"".join(_element(*element) for element in elements)


def _element(tag: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1")
    value += (b"\0" if vr == _UID_VR else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def study(number: int) -> Study:
    """Return the study of that number."""
    noise = random.Random(SEED ^ number)
    modality = _MODALITIES[noise.randrange(len(_MODALITIES))]
    words = _DESCRIPTIONS[modality]
    patient = random.Random(SEED + number // 2 + 1)
    return Study(
        number,
        f"{_FIRST_DAY + datetime.timedelta(days=noise.randrange(_DAYS)):%Y%m%d}",
        _FAMILY_NAMES[patient.randrange(len(_FAMILY_NAMES))],
        modality,
        words[noise.randrange(len(words))],
    )


def _schema_digest() -> str:
    """Return a digest that changes when an index made earlier is of no use any more."""
    digest = hashlib.sha256(str(schema.SCHEMA_VERSION).encode())
    dialect = sqlite.dialect()
    for table in schema.metadata.sorted_tables:
        digest.update(str(CreateTable(table).compile(dialect=dialect)).encode())
        for index in sorted(table.indexes, key=lambda each: str(each.name)):
            digest.update(str(CreateIndex(index).compile(dialect=dialect)).encode())
    return digest.hexdigest()[:12]


def copy_index(studies: int, path: Path) -> None:
    """Put an index of that many studies at ``path``."""
    shutil.copyfile(_index(studies), path)


def _index(studies: int) -> Path:
    made = cache_directory() / f"index-{studies}-{_schema_digest()}.sqlite"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        for stale in made.parent.glob(f"index-{studies}-*"):
            stale.unlink()
        building = made.with_suffix(".part")
        with Catalog(f"sqlite:///{building}", synchronous="OFF") as catalog:
            fill(catalog, studies)
        building.rename(made)
    return made


def fill(catalog: Catalog, studies: int) -> None:
    """Enter that many studies, as if their objects had been stored."""
    room = threading.Semaphore(_OUTSTANDING)
    failures: list[BaseException] = []

    def done(outcome: object) -> None:
        if isinstance(outcome, BaseException):
            failures.append(outcome)
        room.release()

    for entry in _entries(studies):
        room.acquire()
        catalog.add(entry, done)
    for _ in range(_OUTSTANDING):
        room.acquire()
    if failures:
        raise failures[0]


def _entries(studies: int) -> Iterator[InstanceEntry]:
    """Yield what the node would enter had it received the objects."""
    scratch = os.memfd_create("object")
    try:
        for number in range(studies):
            each = study(number)
            for uid, data in each.instances():
                os.pwrite(scratch, data, 0)
                yield InstanceEntry.from_header(
                    read_header(scratch, 0, len(data), EXPLICIT_LE),
                    transfer_syntax_uid=EXPLICIT_LE,
                    path=object_path(each.uid, f"{each.uid}.1", uid),
                    size_bytes=len(data) + 400,
                    data_set_bytes=len(data),
                    sha256=hashlib.sha256(data).hexdigest(),
                    file_sha256=hashlib.sha256(data).hexdigest(),
                    source_ae="BENCH",
                    received_at=float(number),
                )
    finally:
        os.close(scratch)


def orthanc_directory(studies: int) -> Path:
    """Return the directory of an Orthanc that holds that many studies, filled at first."""
    made = cache_directory() / f"orthanc-{studies}"
    if not made.exists():
        building = made.with_suffix(".part")
        shutil.rmtree(building, ignore_errors=True)
        parts = [range(part, studies, _SENDERS) for part in range(_SENDERS)]
        with (
            peers.orthanc(building, SyncStorageArea=False) as peer,
            ThreadPoolExecutor(_SENDERS) as pool,
        ):
            list(pool.map(lambda part: _send(peer.dicom_address, part), parts))
        building.rename(made)
    return made


def _send(address: peers.Address, numbers: range) -> None:
    with Wire(address, timeout=60) as wire:
        wire.associate(called="ORTHANC", calling="BENCH", contexts=_CONTEXTS)
        for number in numbers:
            for uid, data in study(number).instances():
                if wire.store(CT_IMAGE_STORAGE, uid, data, context_id=1) != 0:
                    raise peers.PeerFailed(f"Orthanc did not store {uid}")
        wire.release()
