"""Messages of performed procedure steps on their way out (PS3.4 Annex F, as SCU)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final

from pydicom.tag import Tag

from dicomnode.dimse.command import NormalizedResponse
from dicomnode.dimse.status import Status
from dicomnode.errors import ContextNotAccepted, UnreadableAttributes
from dicomnode.outbox.steps import N_CREATE, Message
from dicomnode.scu.answers import Answer, Encoded
from dicomnode.scu.association import Association
from dicomnode.services.answers import written
from dicomnode.services.mpps_rules import MAY_NO_LONGER_BE_UPDATED
from dicomnode.services.sop_classes import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
)
from dicomnode.storage.json_model import Attributes, decode_attributes, text_of

_STATUS: Final = "PerformedProcedureStepStatus"
# What tells how a step ended, and when.
_ENDING: Final = (_STATUS, "PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as its destination takes it."""

    message: Message
    data_set: Encoded

    @property
    def size(self) -> int:
        """Bytes of its data set."""
        return len(self.data_set.data)


class StoredMessages:
    """Reads messages for sending; ``character_set`` gives that of a destination, b"" for none."""

    def __init__(
        self,
        get: Callable[[int], Message | None],
        character_set: Callable[[str], bytes],
        threads: Executor,
    ) -> None:
        self._get = get
        self._character_set = character_set
        self._threads = threads

    async def fetch(self, row_id: int, title: str, transfer_syntax_uid: str) -> Outgoing | None:
        """Return a message for a destination, None when it was dropped.

        Raises CatalogError, and ValueError for what no data set can hold.
        """

        def read() -> Outgoing | None:
            message = self._get(row_id)
            if message is None:
                return None
            data = written(message.attributes, transfer_syntax_uid, self._character_set(title))
            return Outgoing(message, Encoded(data, transfer_syntax_uid))

        return await asyncio.get_running_loop().run_in_executor(self._threads, read)


async def send(association: Association, outgoing: Outgoing) -> Answer:
    """Send a message. Raises AssociationError."""
    message, data_set = outgoing.message, outgoing.data_set
    uid = message.sop_instance_uid
    if message.operation == N_CREATE:
        return await association.n_create(MODALITY_PERFORMED_PROCEDURE_STEP, uid, data_set)
    return await association.n_set(MODALITY_PERFORMED_PROCEDURE_STEP, uid, data_set)


async def is_known(association: Association, message: Message, answer: Answer) -> bool:
    """Tell whether a destination refused a message because it has had it before.

    What was sent comes again when its answer was lost. An N-CREATE is then a duplicate: nobody
    else gives a step this UID. A step that is over is closed (A710H, PS3.4 Table F.7.2-2): if it
    ended there as the message says, or cannot be asked for, it was this message that ended it.
    Raises AssociationError.
    """
    if message.operation == N_CREATE:
        return answer.status == Status.DUPLICATE_SOP_INSTANCE
    response = answer.response
    error_id = response.error_id if isinstance(response, NormalizedResponse) else None
    is_closed = MAY_NO_LONGER_BE_UPDATED in (answer.status, error_id)
    if not is_closed and answer.status != Status.PROCESSING_FAILURE:
        return False
    if text_of(message.attributes, _STATUS, "IN PROGRESS") == "IN PROGRESS":
        return False
    try:
        held = await association.n_get(
            MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
            message.sop_instance_uid,
            [Tag(keyword) for keyword in _ENDING],
        )
    except ContextNotAccepted:
        return is_closed
    if not held.ok or held.encoded is None:
        return is_closed
    attributes = await asyncio.to_thread(_decoded, held.encoded)
    return all(
        text_of(attributes, keyword) == text_of(message.attributes, keyword)
        for keyword in _ENDING
        if text_of(message.attributes, keyword)
    )


def _decoded(encoded: Encoded) -> Attributes:
    try:
        return decode_attributes(encoded.data, encoded.transfer_syntax_uid)
    except UnreadableAttributes:
        return {}
