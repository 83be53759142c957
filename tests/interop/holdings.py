"""A node that holds pydicom's test files and knows peers to move them to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from tests import peers
from tests.interop.samples import Sample, charset_samples, samples
from tests.wire import ASSOCIATE_AC, Wire


@dataclass
class Holdings:
    """The node, what it holds by SOP Instance UID, and the addresses of its destinations."""

    process: peers.NodeProcess
    held: Mapping[str, Sample]
    destinations: Mapping[str, peers.Address]
    _headers: dict[str, Dataset] = field(default_factory=dict)

    @property
    def address(self) -> peers.Address:
        """The node's DICOM address."""
        return self.process.dicom_address

    @property
    def store_directory(self) -> Path:
        """The node's storage directory."""
        return self.process.config.parent / "store"

    def stored(self, sop_instance_uid: str) -> Path:
        """Return the stored file of an instance."""
        return self.held[sop_instance_uid].stored_path(self.store_directory)

    def header(self, sop_instance_uid: str) -> Dataset:
        """Return an instance's attributes as pydicom reads them, without pixels."""
        if sop_instance_uid not in self._headers:
            path = self.held[sop_instance_uid].path
            self._headers[sop_instance_uid] = pydicom.dcmread(path, stop_before_pixels=True)
        return self._headers[sop_instance_uid]

    def named(self, name: str) -> Sample:
        """Return a held file by its name in pydicom's test data."""
        return next(each for each in self.held.values() if each.path.name == name)

    def of_study(self, study_uid: str) -> dict[str, Sample]:
        """Return the instances of one study."""
        return {uid: each for uid, each in self.held.items() if each.study_uid == study_uid}


@contextlib.contextmanager
def holdings(directory: Path, destinations: Mapping[str, peers.Address]) -> Iterator[Holdings]:
    """Run a node that holds every sample."""
    entities: list[Mapping[str, Any]] = [
        {"title": title, "host": host, "port": port} for title, (host, port) in destinations.items()
    ]
    storage = {"durability": "relaxed"}
    with peers.node_process(directory, entities=entities, storage=storage) as process:
        everything = apart(samples() + charset_samples(), directory / "samples")
        send(process.dicom_address, everything)
        held = {each.sop_instance_uid: each for each in everything}
        yield Holdings(process, held, dict(destinations))


def apart(found: Iterable[Sample], directory: Path) -> list[Sample]:
    """Return the samples with a SOP Instance UID each: of many images there are several forms.

    Those whose UID another one has are written to ``directory`` with another of the same length.
    """
    directory.mkdir()
    kept: dict[str, Sample] = {}
    for number, sample in enumerate(found, 100):
        uid = sample.sop_instance_uid
        if uid in kept:
            content = sample.path.read_bytes()
            uid = f"{uid[:-3]}{number}"
            (directory / f"{number}").mkdir()
            path = directory / f"{number}" / sample.path.name
            path.write_bytes(content.replace(sample.sop_instance_uid.encode(), uid.encode()))
            sample = replace(sample, path=path, sop_instance_uid=uid)
        kept[uid] = sample
    return list(kept.values())


def send(address: peers.Address, files: Iterable[Sample]) -> None:
    """Store the files' data sets as they stand, over one association."""
    files = list(files)
    pairs = sorted({(each.sop_class_uid, each.transfer_syntax_uid) for each in files})
    contexts = {pair: 2 * number + 1 for number, pair in enumerate(pairs)}
    proposed = [(context_id, sop, (syntax,)) for (sop, syntax), context_id in contexts.items()]
    with Wire(address) as wire:
        assert wire.associate(calling="SAMPLES", contexts=proposed)[0] == ASSOCIATE_AC
        for each in files:
            context_id = contexts[each.sop_class_uid, each.transfer_syntax_uid]
            status = wire.store(
                each.sop_class_uid, each.sop_instance_uid, each.data_set, context_id=context_id
            )
            assert status == 0, (each.path.name, f"{status:04X}")
        wire.release()


def identifier(level: str, **keys: object) -> Dataset:
    """Return an identifier of a query or retrieval at ``level``."""
    made = Dataset()
    made.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made
