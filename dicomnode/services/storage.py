"""C-STORE SCP (PS3.4 Annex B, PS3.7 §9.1.1): answers what the intake says."""

from __future__ import annotations

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.command import CStoreRQ
from dicomnode.errors import CannotUnderstand, DataSetMismatch, StatusError
from dicomnode.services.dispatch import Operation
from dicomnode.services.intake import Arrival, Intake, Settled
from dicomnode.services.quotas import Metered, Quotas
from dicomnode.services.sop_classes import VERIFICATION
from dicomnode.storage.paths import valid_uid


class Storage:
    """Streams each object into the intake and answers once its fate is durable."""

    def __init__(self, intake: Intake, quotas: Quotas) -> None:
        self._intake = intake
        self._quotas = quotas

    def serves(self, sop_class_uid: str) -> bool:
        # Whatever else was accepted at negotiation is storage: known, or admitted as unknown.
        return sop_class_uid != VERIFICATION

    def begin(self, operation: Operation) -> DataSetSink | None:
        request = operation.request
        assert isinstance(request, CStoreRQ)
        if not request.has_data_set:
            raise CannotUnderstand("C-STORE without a data set")
        if not valid_uid(request.affected_sop_instance_uid):
            raise DataSetMismatch("Affected SOP Instance UID is no UID")
        arrival = Arrival(
            sop_class_uid=request.affected_sop_class_uid,
            sop_instance_uid=request.affected_sop_instance_uid,
            transfer_syntax_uid=operation.context.transfer_syntax,
            source_ae_title=operation.channel.calling_ae_title,
            channel=operation.channel,
        )

        allowance = self._quotas.begin(arrival.source_ae_title)

        def settled(outcome: Settled | StatusError, received_bytes: int) -> None:
            if allowance is not None:
                allowance.end()
            operation.received_bytes = received_bytes
            if isinstance(outcome, StatusError):
                operation.fail(outcome)
                return
            operation.respond(outcome.status, outcome.comment or None)

        incoming = self._intake.begin(arrival, operation.channel, settled)
        operation.progress = lambda: {"received_bytes": incoming.received_bytes}
        if allowance is None:
            return incoming

        def refuse(error: StatusError) -> None:
            operation.received_bytes = incoming.received_bytes
            operation.fail(error)

        return Metered(incoming, allowance, refuse)
