"""A query service over a small archive, and associations with it, for the tests of C-FIND."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from dicomnode.dimse.command import CFindRQ, Command, Response
from dicomnode.index.catalog import Catalog
from dicomnode.registry import Registry
from dicomnode.services.dispatch import AssociationHandler, Dispatcher, Operation
from dicomnode.services.identifier import Bounds
from dicomnode.services.outcomes import QueryOutcome
from dicomnode.services.query import Query, QueryRules, Source
from dicomnode.services.query_archive import Archive
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from dicomnode.ul.negotiation import AcceptedContext
from tests.index.entries import add, entry, sqlite_url
from tests.storage.objects import BIG, DEFLATED, EXPLICIT, IMPLICIT, encoded

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT = "1.2.840.10008.5.1.4.1.2.2.1"
PATIENT_STUDY_ONLY = "1.2.840.10008.5.1.4.1.2.3.1"
SYNTAXES = (EXPLICIT, IMPLICIT, BIG, DEFLATED)


class Lease:
    def retain(self) -> None: ...

    def release(self) -> None: ...


class FakeChannel:
    number = 1
    called_ae_title = "DICOMNODE"
    peer_address = "192.0.2.7"
    secured = None

    def __init__(self, root: str, syntax: str, extended: bytes, title: str) -> None:
        self.calling_ae_title = title
        self.negotiated = SimpleNamespace(
            contexts={1: AcceptedContext(1, root, syntax, True, False)},
            extended={root: extended} if extended else {},
        )
        self.sent: list[tuple[Response, bytes | None]] = []
        self.on_send: Callable[[int], None] = lambda count: None
        self.readable = asyncio.Event()
        self.readable.set()
        self.final = asyncio.Event()

    def send(self, context_id: int, command: Command, data_set: bytes | None = None) -> None:
        assert isinstance(command, Response)
        assert command.has_data_set is (data_set is not None)
        self.sent.append((command, data_set))
        self.on_send(len(self.sent))
        if command.status not in (0xFF00, 0xFF01):
            self.final.set()

    async def drained(self) -> None:
        await self.readable.wait()


class Fixture:
    """A query service over a small archive, and associations with it."""

    def __init__(self, directory: Path) -> None:
        self.catalog = Catalog(sqlite_url(directory), synchronous="OFF")
        self.catalog.open()
        self.files = FileStore(directory, durability="relaxed")
        self.files.open()
        self.registry = Registry()
        self.max_matches = 10_000
        self.outcomes: list[QueryOutcome] = []
        self.told = asyncio.Event()
        self.errors: list[BaseException] = []
        self.channel: FakeChannel
        self._services: list[Query] = []

    def close(self) -> None:
        for service in self._services:
            service.close()
        self.files.close()
        self.catalog.close()

    def source(self, bounds: Bounds) -> Source:
        """Return what answers."""
        return Archive(self.catalog, self.files, "DICOMNODE", bounds, lambda: self.registry)

    # -- the journal -----------------------------------------------------------------------------

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None: ...

    def query_ended(self, operation: Operation, outcome: QueryOutcome) -> None:
        self.outcomes.append(outcome)
        self.told.set()

    def internal_error(self, what: str, error: BaseException) -> None:
        self.errors.append(error)

    # -- asking ----------------------------------------------------------------------------------

    def associate(
        self,
        root: str = STUDY_ROOT,
        syntax: str = EXPLICIT,
        *,
        extended: bytes = b"",
        title: str = "WS_1",
    ) -> AssociationHandler:
        bounds = Bounds(max_identifier_bytes=4 * 1024 * 1024, max_list_values=20_000)
        rules = QueryRules(self.max_matches, bounds.max_identifier_bytes)
        query = Query((self.source(bounds),), self, rules)
        self._services.append(query)
        self.channel = FakeChannel(root, syntax, extended, title)
        return AssociationHandler(self.channel, Dispatcher({CFindRQ: (query,)}, self))

    def ask(self, handler: AssociationHandler, data: bytes, message_id: int = 1) -> None:
        root = self.channel.negotiated.contexts[1].abstract_syntax
        request = CFindRQ(affected_sop_class_uid=root, message_id=message_id, has_data_set=True)
        sink = handler.message(1, request)
        if sink is not None:
            sink.write(memoryview(data), Lease())
            sink.finish()

    async def find(
        self,
        identifier: Dataset | bytes,
        root: str = STUDY_ROOT,
        syntax: str = EXPLICIT,
        **more: Any,
    ) -> tuple[list[Dataset], Response]:
        """Return the matches of a query and its final response."""
        handler = self.associate(root, syntax, **more)
        data = identifier if isinstance(identifier, bytes) else written(identifier, syntax)
        self.ask(handler, data)
        await asyncio.wait_for(self.channel.final.wait(), 20)
        *pending, (final, rest) = self.channel.sent
        assert rest is None
        return [read(data, syntax) for _, data in pending if data], final

    def store(self, ds: Dataset) -> None:
        """Store an object, with its file."""
        data = encoded(ds)
        meta = file_meta(str(ds.SOPClassUID), str(ds.SOPInstanceUID), EXPLICIT)
        incoming = self.files.begin(meta)
        incoming.append([memoryview(data)])
        incoming.place(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        values = {e.keyword: e.value for e in ds if e.keyword not in ("SOPInstanceUID",)}
        study, series = values.pop("StudyInstanceUID"), values.pop("SeriesInstanceUID")
        number = values.pop("InstanceNumber")
        add(self.catalog, entry(int(number), study, series, **values))


def written(identifier: Dataset, syntax: str) -> bytes:
    data = encoded(identifier, EXPLICIT if syntax == DEFLATED else syntax)
    if syntax != DEFLATED:
        return data
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def read(data: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        data = zlib.decompress(data, wbits=-15)
    ds = read_dataset(DicomBytesIO(data), syntax == IMPLICIT, syntax != BIG)
    tags = list(ds.keys())
    assert tags == sorted(tags)
    ds.decode()
    return ds


def keys(level: str = "STUDY", **values: Any) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def many(archive: Fixture, count: int) -> None:
    for number in range(count):
        uid = f"1.{number + 1}"
        add(archive.catalog, entry(1, uid, f"{uid}.1", PatientID=f"P{number}"))
