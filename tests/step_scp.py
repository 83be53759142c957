"""pynetdicom as SCP of performed procedure steps, which refuses and breaks off as a test wants."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
)

from tests.peers import Address

# Given operation and SOP Instance UID: a status to answer with, None for what is right, or
# "abort" for an A-ABORT once the message has been taken.
Behaviour = Callable[[str, str], int | str | None]


@dataclass
class StepSCP:
    """Steps as they were created and set, and every message in the order of arrival."""

    behaviour: Behaviour = lambda operation, uid: None
    steps: dict[str, Dataset] = field(default_factory=dict)
    messages: list[tuple[str, str, str]] = field(default_factory=list)

    def create(self, event: evt.Event) -> tuple[int | Dataset, Dataset | None]:
        uid, attributes = event.request.AffectedSOPInstanceUID, event.attribute_list
        status = self._note("N-CREATE", uid, attributes)
        if status is None and uid in self.steps:
            status = 0x0111
        if status in (None, "abort"):
            self.steps.setdefault(uid, copy.deepcopy(attributes))
        return self._answered(event, status)

    def set(self, event: evt.Event) -> tuple[int | Dataset, Dataset | None]:
        uid, changes = event.request.RequestedSOPInstanceUID, event.modification_list
        status = self._note("N-SET", uid, changes)
        held = self.steps.get(uid)
        if status is None and held is None:
            status = 0x0112
        elif held is not None and held.PerformedProcedureStepStatus != "IN PROGRESS":
            closed = Dataset()
            closed.Status, closed.ErrorID = 0x0110, 0xA710
            return closed, None
        elif held is not None and status in (None, "abort"):
            held.update(changes)
        return self._answered(event, status)

    def get(self, event: evt.Event) -> tuple[int, Dataset | None]:
        held = self.steps.get(event.request.RequestedSOPInstanceUID)
        return (0x0112, None) if held is None else (0x0000, held)

    def _note(self, operation: str, uid: str, attributes: Dataset) -> int | str | None:
        step_status = attributes.get("PerformedProcedureStepStatus", "")
        self.messages.append((operation, uid, step_status))
        return self.behaviour(operation, uid)

    def _answered(
        self, event: evt.Event, status: int | str | None
    ) -> tuple[int | Dataset, Dataset | None]:
        if status == "abort":
            event.assoc.abort()
        return (status if isinstance(status, int) else 0x0000), None


def close_socket(association: Association) -> None:
    """Close the socket of an association that is over: one whose peer was killed stays open."""
    held = association.dul.socket
    if held is not None and held.socket is not None:
        held.socket.close()


@contextlib.contextmanager
def step_scp(
    scp: StepSCP, address: Address = ("127.0.0.1", 0), *, retrieve: bool = True
) -> Iterator[Address]:
    """Serve until the block ends; yields the address. ``retrieve``: N-GET is accepted too."""
    entity = AE("RIS")
    syntaxes = [ImplicitVRLittleEndian, ExplicitVRLittleEndian]
    entity.add_supported_context(ModalityPerformedProcedureStep, syntaxes)
    if retrieve:
        entity.add_supported_context(ModalityPerformedProcedureStepRetrieve, syntaxes)
    opened: list[Association] = []
    handlers = [
        (evt.EVT_CONN_OPEN, lambda event: opened.append(event.assoc)),
        (evt.EVT_N_CREATE, scp.create),
        (evt.EVT_N_SET, scp.set),
        (evt.EVT_N_GET, scp.get),
    ]
    server = entity.start_server(address, block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield server.server_address[:2]
    finally:
        server.shutdown()
        for association in opened:
            association.abort()
            association.join(10)
            close_socket(association)
