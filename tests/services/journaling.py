"""A journal over a real dispatcher, and what it wrote, for the tests of the journal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from dicomnode.dimse.command import CFindRQ, CGetRQ, CMoveRQ, CStoreRQ, NCreateRQ, NSetRQ, Request
from dicomnode.net.traffic import Traffic
from dicomnode.observe.logs import Log
from dicomnode.observe.metrics import Metrics
from dicomnode.registry import AE, Registry
from dicomnode.services.dispatch import Dispatcher, Operation
from dicomnode.services.explanations import Explanations
from dicomnode.services.journal import Journal
from dicomnode.services.outcomes import Finding, Outcome, QueryOutcome, RetrieveOutcome, StepOutcome
from dicomnode.settings import LogSettings
from dicomnode.ul.negotiation import AcceptedContext

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
MPPS = "1.2.840.10008.3.1.2.3.3"
CONTEXTS = {1: FIND, 3: MOVE, 5: GET, 7: CT, 9: MPPS}
C_FIND = CFindRQ(affected_sop_class_uid=FIND, message_id=3)
C_GET = CGetRQ(affected_sop_class_uid=GET, message_id=4)
C_MOVE = CMoveRQ(affected_sop_class_uid=MOVE, message_id=5, move_destination="ARCHIVE")
C_STORE = CStoreRQ(affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3", message_id=6)
N_CREATE = NCreateRQ(affected_sop_class_uid=MPPS, affected_sop_instance_uid="1.2.9", message_id=7)
N_SET = NSetRQ(requested_sop_class_uid=MPPS, requested_sop_instance_uid="1.2.9", message_id=8)
FOUND = QueryOutcome(level="STUDY", keys=("PatientID",), matches=12, sent_bytes=900, seconds=0.1)
EMPTY = replace(FOUND, matches=0, sent_bytes=0, findings=(Finding("no study", "P1"),))
MOVED = RetrieveOutcome(
    level="STUDY", destination="ARCHIVE", completed=10, failed=2, sent_bytes=5 * 1024**2
)


def fake_channel(number: int, calling: str, called: str, peer_address: str) -> Any:
    """Return a channel that takes what is sent."""
    contexts = {
        key: AcceptedContext(key, uid, IMPLICIT, True, False) for key, uid in CONTEXTS.items()
    }
    return SimpleNamespace(
        number=number,
        calling_ae_title=calling,
        peer_ae_title=calling,
        called_ae_title=called,
        peer_address=peer_address,
        secured=None,
        negotiated=SimpleNamespace(contexts=contexts, refused=(), user=""),
        send=lambda *message: None,
        traffic=Traffic(0.0),
        progress=lambda: (),
    )


class Keeping:
    """A service that keeps its operation for the test to end."""

    operation: Operation

    def serves(self, sop_class_uid: str) -> bool:
        return True

    def begin(self, operation: Operation) -> None:
        self.operation = operation


class Fixture:
    """A journal over a real dispatcher, and what it wrote."""

    def __init__(self, *, patient_data: bool = False, level: str = "info") -> None:
        self.now = 1000.0
        self.registry = Registry([AE(title="WS_1"), AE(title="ARCHIVE", host="10.0.0.9")])
        self.metrics = Metrics(lambda title: title in self.registry)
        self._stream = io.StringIO()
        self._log = Log(
            LogSettings(level=level, patient_data=patient_data),  # type: ignore[arg-type]
            stream=self._stream,
        )
        explanations = Explanations(
            lambda: self.registry, patient_data=patient_data, now=lambda: self.now
        )
        self.journal = Journal(self._log.logger, self.metrics, explanations)
        self.channel = fake_channel(7, "WS_1", "DICOMNODE", "10.0.0.7")
        self._service = Keeping()
        services: dict[type[Request], Any] = dict.fromkeys(
            (CFindRQ, CGetRQ, CMoveRQ, CStoreRQ, NCreateRQ, NSetRQ), (self._service,)
        )
        self.dispatcher = Dispatcher(services, self.journal)
        self.handler = self.dispatcher.established(self.channel)

    def begin(self, request: Request) -> Operation:
        context = next(key for key, uid in CONTEXTS.items() if uid == request.sop_class_uid)
        self.handler.message(context, request)
        return self._service.operation

    def perform(self, request: Request, status: int, outcome: Outcome) -> None:
        """End ``request`` as a service does: outcome, final response, and the tale of it."""
        operation = self.begin(request)
        operation.outcome = outcome
        operation.respond(status)
        self.tell(operation, outcome)

    def tell(self, operation: Operation, outcome: Outcome) -> None:
        if isinstance(outcome, QueryOutcome):
            self.journal.query_ended(operation, outcome)
        elif isinstance(outcome, StepOutcome):
            self.journal.step_ended(operation, outcome)
        else:
            self.journal.retrieve_ended(operation, outcome)

    def lines(self) -> list[str]:
        """Return what was logged, without the times and durations."""
        self._log.start()
        self._log.stop()
        rows = self._stream.getvalue().splitlines()
        return [re.sub(r" [\d.]+m?s\b", " 1ms", row.split(" ", 1)[1]) for row in rows]

    def explained(self) -> list[dict[str, Any]]:
        return self.journal.explanations.listed()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)
