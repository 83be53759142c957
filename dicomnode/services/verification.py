"""C-ECHO SCP (PS3.4 Annex A, PS3.7 §9.1.5)."""

from __future__ import annotations

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.status import Status
from dicomnode.services.dispatch import Operation
from dicomnode.services.sop_classes import VERIFICATION


class Verification:
    """Answers every C-ECHO with success."""

    def serves(self, sop_class_uid: str) -> bool:
        return sop_class_uid == VERIFICATION

    def begin(self, operation: Operation) -> DataSetSink | None:
        operation.respond(Status.SUCCESS)
        return None
