"""An archive, a requester and destinations in memory, for the tests of C-GET and C-MOVE."""

from __future__ import annotations

import asyncio
import io
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from dicomnode.dimse.channel import Channel, DataSetSource, Handler, Proposal, Provider
from dicomnode.dimse.command import CCancelRQ, CGetRQ, CMoveRQ, Command, CStoreRQ, Request, answer
from dicomnode.errors import AssociationError
from dicomnode.index.catalog import Catalog
from dicomnode.registry import AE, Registry
from dicomnode.services.dispatch import Dispatcher, Operation
from dicomnode.services.identifier import Bounds
from dicomnode.services.outcomes import RetrieveOutcome
from dicomnode.services.recovery import reconcile
from dicomnode.services.retrieve import Retrieve, Rules
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from dicomnode.ul.negotiation import AcceptedContext
from tests.index.entries import sqlite_url
from tests.storage.objects import CT_STORAGE, DEFLATED, EXPLICIT, IMPLICIT, data_set, encoded

PATIENT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
QUERY_CONTEXT = 1

# What a peer does with a C-STORE-RQ: answers with a status, says nothing, or aborts.
Behaviour = Callable[[int], int | type[AssociationError] | None]


class NoLease:
    def retain(self) -> None:
        pass

    def release(self) -> None:
        pass


class Lines:
    """A log that keeps its errors and warnings."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.debugs: list[dict[str, object]] = []

    def debug(self, message: str, **fields: object) -> None:
        self.debugs.append({"message": message, **fields})

    def error(self, message: str, **fields: object) -> None:
        self.errors.append(message)

    def warning(self, message: str, **fields: object) -> None:
        self.warnings.append(message)


class Records:
    """A journal that keeps what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[RetrieveOutcome] = []
        self.faults: list[BaseException] = []

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None:
        pass

    def retrieve_ended(self, operation: Operation, outcome: RetrieveOutcome) -> None:
        self.outcomes.append(outcome)

    def internal_error(self, what: str, error: BaseException) -> None:
        self.faults.append(error)


class FakeChannel:
    """One end of an association; the other takes C-STORE-RQs and keeps everything."""

    number = 1
    peer_address = "192.0.2.7"
    secured = None
    is_blocked = False

    def __init__(self, calling: str, called: str, contexts: list[AcceptedContext]) -> None:
        self.calling_ae_title, self.called_ae_title = calling, called
        self.negotiated: Any = SimpleNamespace(
            contexts={context.context_id: context for context in contexts}, extended={}
        )
        self.behaviour: Behaviour = lambda count: 0x0000
        self.handler: Handler | None = None
        self.stores: list[tuple[int, CStoreRQ, bytes]] = []
        self.responses: list[tuple[Any, bytes | None]] = []
        self.aborted = self.released = ""
        self.on_store: Callable[[int], None] = lambda count: None
        self.on_response: Callable[[Any], None] = lambda response: None

    def send(
        self, context_id: int, command: Command, data_set: bytes | memoryview | None = None
    ) -> None:
        if isinstance(command, CStoreRQ):
            assert data_set is not None
            self.stores.append((context_id, command, bytes(data_set)))
            self._react(context_id, command)
        elif not isinstance(command, Request):
            self.responses.append((command, bytes(data_set) if data_set is not None else None))
            self.on_response(command)

    def _react(self, context_id: int, command: CStoreRQ) -> None:
        count = len(self.stores)
        self.on_store(count)
        behaviour = self.behaviour(count)
        loop = asyncio.get_running_loop()
        if isinstance(behaviour, int):
            response = answer(command, behaviour)
            assert self.handler is not None
            loop.call_soon(self._deliver, context_id, response)
        elif behaviour is not None:
            loop.call_soon(self.end, "aborted by peer")

    def _deliver(self, context_id: int, command: Any) -> None:
        assert self.handler is not None
        if not self.aborted:
            self.handler.message(context_id, command)

    async def stream(self, context_id: int, command: Command, data_set: DataSetSource) -> None:
        pieces = []
        while piece := await data_set.read():
            pieces.append(bytes(piece))
        self.send(context_id, command, b"".join(pieces))

    async def drained(self) -> None:
        pass

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    async def release(self) -> None:
        self.released = "released"
        self.end("released")

    def abort(self, rule: str, *, source: int = 0, reason: int = 0) -> None:
        self.end(rule)

    def end(self, why: str) -> None:
        if not self.aborted and self.handler is not None:
            self.aborted = why
            self.handler.closed(why)

    @property
    def final(self) -> Any:
        finals = [response for response, _ in self.responses if response.status not in (0xFF00,)]
        assert len(finals) <= 1
        return finals[0] if finals else None

    @property
    def pendings(self) -> list[Any]:
        return [response for response, _ in self.responses if response.status == 0xFF00]

    @property
    def failed_uids(self) -> list[str]:
        (data,) = [data for response, data in self.responses if response is self.final]
        if data is None:
            return []
        syntax = self.negotiated.contexts[QUERY_CONTEXT].transfer_syntax
        ds = pydicom.dcmread(_part10(data, syntax), force=True)
        uids = ds.FailedSOPInstanceUIDList
        return [str(uids)] if isinstance(uids, str) else [str(uid) for uid in uids]


def _part10(data: bytes, syntax: str) -> Any:
    return io.BytesIO(file_meta("1.2", "1.2.3", syntax) + data)


class Destinations:
    """A ``Requestor`` whose peers accept every context with its first syntax, or as told."""

    def __init__(self) -> None:
        self.proposals: list[Proposal] = []
        self.channels: list[FakeChannel] = []
        self.behaviours: list[Behaviour] = []
        self.error: AssociationError | None = None
        self.accepts: Callable[[str, tuple[str, ...]], str | None] = lambda uid, offered: offered[0]
        self.on_associate: Callable[[], None] = lambda: None
        self.hangs = False

    async def associate(self, proposal: Proposal, provider: Provider) -> Channel:
        self.proposals.append(proposal)
        self.on_associate()
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.error is not None:
            raise self.error
        contexts = [
            AcceptedContext(item.context_id, item.abstract_syntax, syntax, False, True)
            for item in proposal.contexts
            if (syntax := self.accepts(item.abstract_syntax, item.transfer_syntaxes)) is not None
        ]
        channel = FakeChannel(proposal.calling_ae_title, proposal.called_ae_title, contexts)
        if self.behaviours:
            channel.behaviour = self.behaviours.pop(0)
        channel.handler = provider.established(channel)
        self.channels.append(channel)
        return channel


class Bench:
    """A Retrieve service with an archive behind it, and one association of a requester."""

    def __init__(self, directory: Path, registry: Registry | None = None) -> None:
        self.files = FileStore(directory, durability="relaxed")
        self.files.open()
        self.catalog = Catalog(sqlite_url(directory), synchronous="OFF")
        self.catalog.open()
        self.lines = Lines()
        self.records = Records()
        self.destinations = Destinations()
        self.registry = registry or Registry([AE(title="ARCHIVE", host="192.0.2.9")])
        self.rules = Rules(
            ae_title="DICOMNODE",
            strict_ae_titles=False,
            bounds=Bounds(max_identifier_bytes=100_000, max_list_values=1000),
            response_seconds=30.0,
            min_free_bytes=0,
        )
        self.start()
        self.channel = self.requester()

    def start(self) -> None:
        log: Any = self.lines
        self.service = Retrieve(
            self.catalog,
            self.files,
            self.destinations,
            lambda: self.registry,
            self.records,
            log,
            self.rules,
        )

    def requester(
        self, contexts: list[AcceptedContext] | None = None, syntax: str = IMPLICIT
    ) -> FakeChannel:
        """Make an association; ``contexts`` are those on which it takes objects."""
        if contexts is None:
            contexts = [AcceptedContext(11, CT_STORAGE, EXPLICIT, False, True)]
        query = [
            AcceptedContext(QUERY_CONTEXT, STUDY_GET, syntax, True, False),
            AcceptedContext(3, STUDY_MOVE, syntax, True, False),
            AcceptedContext(5, PATIENT_GET, syntax, True, False),
        ]
        self.channel = FakeChannel("WS_1", "DICOMNODE", [*query, *contexts])
        services: Any = {CGetRQ: (self.service,), CMoveRQ: (self.service,)}
        dispatcher = Dispatcher(services, self.records)
        self.channel.handler = dispatcher.established(self.channel)
        return self.channel

    def keep(self, *objects: Dataset, syntax: str = EXPLICIT) -> list[str]:
        """Store objects; return their paths."""
        paths = []
        for ds in objects:
            data = encoded(ds, syntax)
            file = self.files.begin(file_meta(ds.SOPClassUID, ds.SOPInstanceUID, syntax))
            file.append([memoryview(data)])
            paths.append(file.place(ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID))
        log: Any = self.lines
        reconcile(self.files, self.catalog, log=log)
        return paths

    def keep_study(self, count: int, study: str = "1.2.3") -> list[str]:
        return self.keep(*(data_set(number, study, f"{study}.4") for number in range(1, count + 1)))

    def ask(self, request: CGetRQ | CMoveRQ, data: bytes) -> None:
        """Send a request with its identifier."""
        handler = self.channel.handler
        assert handler is not None
        context = next(
            context_id
            for context_id, context in self.channel.negotiated.contexts.items()
            if context.abstract_syntax == request.affected_sop_class_uid
        )
        sink = handler.message(context, request)
        if sink is not None:
            sink.write(memoryview(data), NoLease())
            sink.finish()

    def get(self, message_id: int = 7, *, sop_class: str = STUDY_GET, **keys: object) -> None:
        request = CGetRQ(
            has_data_set=True, message_id=message_id, affected_sop_class_uid=sop_class, priority=1
        )
        syntax = self.channel.negotiated.contexts[QUERY_CONTEXT].transfer_syntax
        self.ask(request, identifier(syntax=syntax, **keys))

    def move(self, destination: str = "ARCHIVE", message_id: int = 7, **keys: object) -> None:
        request = CMoveRQ(
            has_data_set=True,
            message_id=message_id,
            affected_sop_class_uid=STUDY_MOVE,
            move_destination=destination,
        )
        self.ask(request, identifier(**keys))

    def cancel(self, message_id: int = 7) -> None:
        handler = self.channel.handler
        assert handler is not None
        handler.message(QUERY_CONTEXT, CCancelRQ(message_id_being_responded_to=message_id))

    async def finished(self) -> Any:
        """Wait until all retrievals have ended; return the final response."""
        async with asyncio.timeout(30):
            while self.service._tasks:
                await asyncio.gather(*self.service._tasks, return_exceptions=True)
        assert self.records.faults == []
        return self.channel.final

    async def close(self) -> None:
        with suppress(asyncio.CancelledError):
            await self.service.close()
        self.catalog.close()
        self.files.close()


def identifier(level: str = "STUDY", syntax: str = IMPLICIT, **keys: object) -> bytes:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    data = encoded(ds, syntax)
    return zlib.compress(data, wbits=-zlib.MAX_WBITS) if syntax == DEFLATED else data


def counters(response: Any) -> tuple[int | None, int | None, int | None, int | None]:
    """Return Remaining, Completed, Failed, Warning."""
    return (
        response.number_of_remaining_suboperations,
        response.number_of_completed_suboperations,
        response.number_of_failed_suboperations,
        response.number_of_warning_suboperations,
    )
