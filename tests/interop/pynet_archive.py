"""An archive of a few objects made with pynetdicom, with every service that it has."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.presentation import AllStoragePresentationContexts, build_context
from pynetdicom.sop_class import (
    BasicGrayscalePrintManagementMeta,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from tests.peers import Address

_SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"]
_SERVICES = (
    Verification,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    BasicGrayscalePrintManagementMeta,
)


class Archive:
    """Keeps data sets by SOP Instance UID, and answers from them."""

    def __init__(self, destinations: dict[str, Address]) -> None:
        self.held: dict[str, Dataset] = {}
        self.steps: dict[str, Dataset] = {}
        self.asked: list[tuple[str, int | None, Dataset | None]] = []
        self.cancelled = threading.Event()
        self._destinations = destinations

    def store(self, event: evt.Event) -> int:
        received = event.dataset
        received.file_meta = event.file_meta
        self.held[str(received.SOPInstanceUID)] = received
        return 0

    def _matching(self, wanted: Dataset) -> list[Dataset]:
        uid = wanted.get("StudyInstanceUID")
        return [each for each in self.held.values() if not uid or each.StudyInstanceUID == uid]

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier
        for each in self._matching(wanted):
            if event.is_cancelled:
                self.cancelled.set()
                yield 0xFE00, None
                return
            match = Dataset()
            for element in wanted:
                if element.tag in each:
                    match.add(each[element.tag])
            if "SpecificCharacterSet" in each:
                match.SpecificCharacterSet = each.SpecificCharacterSet
            match.QueryRetrieveLevel = wanted.QueryRetrieveLevel
            match.StudyInstanceUID = each.StudyInstanceUID
            yield 0xFF00, match

    def get(self, event: evt.Event) -> Iterator[Any]:
        found = self._matching(event.identifier)
        yield len(found)
        for each in found:
            yield 0xFF00, each

    def move(self, event: evt.Event) -> Iterator[Any]:
        yield self._destinations[event.move_destination]
        yield from self.get(event)

    def create(self, event: evt.Event) -> tuple[int, Dataset]:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid in self.steps:
            return 0x0111, Dataset()
        self.steps[uid] = deepcopy(event.attribute_list)
        return 0, self.steps[uid]

    def set(self, event: evt.Event) -> tuple[int, Dataset]:
        step = self.steps.get(str(event.request.RequestedSOPInstanceUID))
        if step is None:
            return 0x0112, Dataset()
        step.update(event.modification_list)
        return 0, step

    def n_get(self, event: evt.Event) -> tuple[int, Dataset]:
        step = self.steps[str(event.request.RequestedSOPInstanceUID)]
        wanted = event.attribute_identifiers
        answer = Dataset()
        for tag in wanted or step.keys():
            answer.add(step[tag])
        return 0, answer

    def action(self, event: evt.Event) -> tuple[int, Dataset | None]:
        self.asked.append(("action", event.action_type, event.action_information))
        return 0, None

    def delete(self, event: evt.Event) -> int:
        return 0 if self.steps.pop(str(event.request.RequestedSOPInstanceUID), None) else 0x0112

    def report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        self.asked.append(("report", event.event_type, event.event_information))
        return 0, None


@contextlib.contextmanager
def pynet_archive(destinations: dict[str, Address]) -> Iterator[tuple[Archive, Address]]:
    """Run an archive until the block ends."""
    archive = Archive(destinations)
    entity = AE("PYNETDICOM")
    for context in AllStoragePresentationContexts:
        uid = context.abstract_syntax
        assert uid is not None
        entity.add_supported_context(uid, list(map(UID, _SYNTAXES)), scu_role=True, scp_role=True)
    for service in _SERVICES:
        both = service == StorageCommitmentPushModel
        entity.add_supported_context(service, scu_role=both or None, scp_role=both or None)
    # For C-MOVE.
    entity.requested_contexts = [
        build_context(uid, _SYNTAXES[0])
        for uid in ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4")
    ]
    handlers: list[Any] = [
        (evt.EVT_C_ECHO, lambda event: 0),
        (evt.EVT_C_STORE, archive.store),
        (evt.EVT_C_FIND, archive.find),
        (evt.EVT_C_GET, archive.get),
        (evt.EVT_C_MOVE, archive.move),
        (evt.EVT_N_CREATE, archive.create),
        (evt.EVT_N_SET, archive.set),
        (evt.EVT_N_GET, archive.n_get),
        (evt.EVT_N_ACTION, archive.action),
        (evt.EVT_N_DELETE, archive.delete),
        (evt.EVT_N_EVENT_REPORT, archive.report),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield archive, server.server_address
    finally:
        server.shutdown()
