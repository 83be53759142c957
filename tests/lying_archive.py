"""An archive of pynetdicom's that tells what a test wants, and breaks off when told to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)

from tests.peers import Address

# What a query is answered with: from its identifier, the matches or a status that ends it.
Answer = Callable[[Dataset], Iterable[Dataset | int]]
_UNIQUE = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class LyingArchive:
    """Holds ``files``; ``answer`` takes the place of true answers, ``breaks_after`` is objects."""

    def __init__(self, files: Iterable[Path]) -> None:
        held = [pydicom.dcmread(path) for path in files]
        self.held = {str(each.SOPInstanceUID): each for each in held}
        self.answer: Answer = self.true_answer
        self.asked: list[Dataset] = []
        self.sent: list[str] = []
        self.breaks_after: int | None = None
        # While it is clear the next object waits.
        self.may_send = threading.Event()
        self.may_send.set()
        self.address: Address = ("", 0)

    def true_answer(self, wanted: Dataset) -> Iterator[Dataset | int]:
        """Yield what is held, at any level; without counts."""
        unique = _UNIQUE[wanted.QueryRetrieveLevel]
        told: set[str] = set()
        for each in self.matching(wanted):
            if each[unique].value in told:
                continue
            told.add(each[unique].value)
            match = Dataset()
            match.QueryRetrieveLevel = wanted.QueryRetrieveLevel
            for element in wanted:
                if element.keyword in each:
                    match.add(each[element.tag])
            yield match

    def matching(self, wanted: Dataset) -> list[Dataset]:
        """Return the objects whose UIDs are those that are wanted."""

        def is_wanted(each: Dataset) -> bool:
            for keyword in _UNIQUE.values():
                value = wanted.get(keyword) or ""
                uids = [value] if isinstance(value, str) else list(value)
                if uids != [""] and each[keyword].value not in uids:
                    return False
            return True

        return [each for each in self.held.values() if is_wanted(each)]

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        for match in self.answer(event.identifier):
            if event.is_cancelled:
                yield 0xFE00, None
                return
            if isinstance(match, int):
                yield match, None
                return
            yield 0xFF00, match

    def get(self, event: evt.Event) -> Iterator[Any]:
        found = self.matching(event.identifier)
        yield len(found)
        for each in found:
            self.may_send.wait(60)
            if self.breaks_after is not None and len(self.sent) >= self.breaks_after:
                self.breaks_after = None
                event.assoc.abort()
                return
            self.sent.append(str(each.SOPInstanceUID))
            yield 0xFF00, each


@contextlib.contextmanager
def lying_archive(files: Iterable[Path]) -> Iterator[LyingArchive]:
    """Run an archive until the block ends."""
    archive = LyingArchive(files)
    entity = AE("LIAR")
    entity.add_supported_context(Verification)
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
    entity.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
    handlers: list[Any] = [(evt.EVT_C_FIND, archive.find), (evt.EVT_C_GET, archive.get)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    archive.address = server.server_address
    try:
        yield archive
    finally:
        archive.may_send.set()
        server.shutdown()
