"""The N- operations of PS3.7 §10.1 on an association of ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from dicomnode.dimse.command import (
    NActionRQ,
    NCreateRQ,
    NDeleteRQ,
    NEventReportRQ,
    NGetRQ,
    NSetRQ,
    Request,
)
from dicomnode.scu.answers import Answer
from dicomnode.scu.calling import Calling, syntax_of
from dicomnode.scu.names import uid_of

if TYPE_CHECKING:
    from dicomnode.scu.calling import Identifier


class Normalized(Calling):
    """Performs normalized operations."""

    async def n_create(
        self,
        sop_class: str,
        sop_instance_uid: str | None = None,
        attributes: Identifier | None = None,
        *,
        context: str | None = None,
        response_seconds: float | None = None,
    ) -> Answer:
        """Perform N-CREATE; without an instance UID the peer makes one.

        ``context`` is the SOP class of the presentation context where that is another, such as
        a meta SOP class; so for all N- operations.
        """
        request = NCreateRQ(
            message_id=0,
            affected_sop_class_uid=uid_of(sop_class),
            affected_sop_instance_uid=sop_instance_uid,
        )
        return await self._normalized(request, attributes, context, response_seconds)

    async def n_set(
        self,
        sop_class: str,
        sop_instance_uid: str,
        modifications: Identifier,
        *,
        context: str | None = None,
        response_seconds: float | None = None,
    ) -> Answer:
        """Perform N-SET."""
        request = NSetRQ(
            message_id=0,
            requested_sop_class_uid=uid_of(sop_class),
            requested_sop_instance_uid=sop_instance_uid,
        )
        return await self._normalized(request, modifications, context, response_seconds)

    async def n_get(
        self,
        sop_class: str,
        sop_instance_uid: str,
        attributes: Iterable[int] = (),
        *,
        context: str | None = None,
        response_seconds: float | None = None,
    ) -> Answer:
        """Perform N-GET for the tags ``attributes``, or for all attributes."""
        request = NGetRQ(
            message_id=0,
            requested_sop_class_uid=uid_of(sop_class),
            requested_sop_instance_uid=sop_instance_uid,
            attribute_identifier_list=tuple(map(int, attributes)),
        )
        return await self._normalized(request, None, context, response_seconds)

    async def n_action(
        self,
        sop_class: str,
        sop_instance_uid: str,
        action_type_id: int,
        information: Identifier | None = None,
        *,
        context: str | None = None,
        response_seconds: float | None = None,
    ) -> Answer:
        """Perform N-ACTION."""
        request = NActionRQ(
            message_id=0,
            requested_sop_class_uid=uid_of(sop_class),
            requested_sop_instance_uid=sop_instance_uid,
            action_type_id=action_type_id,
        )
        return await self._normalized(request, information, context, response_seconds)

    async def n_delete(
        self,
        sop_class: str,
        sop_instance_uid: str,
        *,
        context: str | None = None,
        response_seconds: float | None = None,
    ) -> Answer:
        """Perform N-DELETE."""
        request = NDeleteRQ(
            message_id=0,
            requested_sop_class_uid=uid_of(sop_class),
            requested_sop_instance_uid=sop_instance_uid,
        )
        return await self._normalized(request, None, context, response_seconds)

    async def n_event_report(
        self,
        sop_class: str,
        sop_instance_uid: str,
        event_type_id: int,
        information: Identifier | None = None,
        *,
        context: str | None = None,
        response_seconds: float | None = None,
    ) -> Answer:
        """Perform N-EVENT-REPORT, which an SCP asks of an SCU: its context has our SCP role."""
        request = NEventReportRQ(
            message_id=0,
            affected_sop_class_uid=uid_of(sop_class),
            affected_sop_instance_uid=sop_instance_uid,
            event_type_id=event_type_id,
        )
        return await self._normalized(request, information, context, response_seconds)

    async def _normalized(
        self,
        request: Request,
        data_set: Identifier | None,
        context: str | None,
        seconds: float | None,
    ) -> Answer:
        context_id = self._context(
            request.sop_class_uid if context is None else uid_of(context),
            syntax=syntax_of(data_set),
            as_scp=isinstance(request, NEventReportRQ),
        )
        data = None
        if data_set is not None:
            data = await self._encoded(context_id, data_set)
            request = replace(request, has_data_set=True)
        return await self._operations.perform(context_id, request, data, seconds)
