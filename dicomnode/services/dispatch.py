"""Hands each DIMSE request to its service and sends exactly one final response for it.

This is one of the two places where an error becomes bytes: a StatusError raised by a service
becomes a response with its status, comment and offending elements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from dicomnode.dimse.channel import Channel, DataSetSink, Progress
from dicomnode.dimse.command import (
    CCancelRQ,
    Command,
    NEventReportRQ,
    Request,
    Response,
    UnrecognizedCommand,
    UnrecognizedRSP,
    answer,
)
from dicomnode.dimse.status import Status
from dicomnode.errors import RemoteProtocolError, StatusError
from dicomnode.scu.requests import Requests
from dicomnode.services.outcomes import Outcome
from dicomnode.ul.negotiation import AcceptedContext

# What one association may have outstanding however large the window it was granted.
_MAX_OUTSTANDING = 64


class Journal(Protocol):
    """Is told of each operation that has ended."""

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None:
        """``operation`` got its final response; not called when the association ended first."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own, to be logged with its traceback."""


class Operation:
    """One request of a peer, from its command to its final response.

    ``service`` is "C-STORE" and the like; ``received_bytes`` counts its data set; ``started`` is
    monotonic, in seconds. ``on_cancel`` is called when the peer cancels it
    (``cancelled_by_peer``) or the association ends (``ended``). What is responded after the
    final response goes nowhere; ``response`` is the one that was sent. A service that has more
    to tell than that sets ``outcome`` first: the journal speaks of it. One that takes long sets
    ``progress``, which says how far it is. ``rule`` and ``advice`` are those of the StatusError
    that ended it, if one did.
    """

    __slots__ = (
        "_owner",
        "advice",
        "answered",
        "cancelled_by_peer",
        "channel",
        "context",
        "ended",
        "on_cancel",
        "outcome",
        "progress",
        "received_bytes",
        "request",
        "response",
        "rule",
        "service",
        "started",
    )

    def __init__(
        self,
        owner: AssociationHandler,
        channel: Channel,
        context: AcceptedContext,
        request: Request | UnrecognizedCommand,
    ) -> None:
        self._owner = owner
        self.channel = channel
        self.context = context
        self.request = request
        self.service = request.service
        self.received_bytes = 0
        self.started = time.monotonic()
        self.on_cancel: Callable[[], None] | None = None
        self.progress: Callable[[], Mapping[str, int | str]] = dict
        self.answered = False
        self.response: Response | UnrecognizedRSP | None = None
        self.outcome: Outcome | None = None
        self.rule = ""
        self.advice = ""
        self.cancelled_by_peer = False
        self.ended = False

    @property
    def requests(self) -> Requests:
        """Requests of ours on the same association: the sub-operations of C-GET."""
        return self._owner.requests

    def pending(self, response: Response, identifier: bytes | None = None) -> None:
        """Send a response with status Pending; whoever sends many of equal ones passes one.

        Without an identifier it only tells how far the operation is. It is left out when it
        would wait: behind a peer that reads next to nothing they would pile up.
        """
        if not self.answered and not (identifier is None and self.channel.is_blocked):
            has_data_set = identifier is not None
            if response.has_data_set is not has_data_set:
                response = replace(response, has_data_set=has_data_set)
            self.channel.send(self.context.context_id, response, identifier)

    def conclude(self, response: Response, identifier: bytes | None = None) -> None:
        """Send the final response as it is given, with the data set ``identifier``."""
        self._owner.finish(self, replace(response, has_data_set=identifier is not None), identifier)

    def respond(self, status: int, comment: str | None = None) -> None:
        """Send the final response, without a data set."""
        self._owner.finish(self, answer(self.request, status, error_comment=comment))

    def fail(self, error: StatusError) -> None:
        """Send the final response that ``error`` stands for."""
        self.rule, self.advice = error.rule, error.advice
        self._owner.finish(self, failure(self.request, error))


def failure(
    request: Request | UnrecognizedCommand, error: StatusError
) -> Response | UnrecognizedRSP:
    """Return the final response that ``error`` stands for."""
    return answer(
        request,
        error.status,
        error_comment=error.comment or None,
        offending_element=error.offending,
        attribute_identifier_list=error.identifiers,
        error_id=error.error_id,
    )


class Service(Protocol):
    """Performs one kind of request as SCP."""

    def serves(self, sop_class_uid: str) -> bool:
        """Tell whether a request of this kind makes sense for the SOP class."""

    def begin(self, operation: Operation) -> DataSetSink | None:
        """Take up ``operation``; a data set, if the command announces one, goes to the sink."""


class Dispatcher:
    """The ``Provider`` of the node: one handler an association, services by type of request."""

    def __init__(
        self, services: Mapping[type[Request], Sequence[Service]], journal: Journal
    ) -> None:
        self.services = services
        self.journal = journal

    def established(self, channel: Channel) -> AssociationHandler:
        return AssociationHandler(channel, self)


class AssociationHandler:
    """The requests of one association; see ``dimse.channel.Handler``."""

    def __init__(self, channel: Channel, dispatcher: Dispatcher) -> None:
        self._channel = channel
        self._services = dispatcher.services
        self._journal = dispatcher.journal
        self.requests = Requests(channel)
        self._open: dict[int, Operation] = {}
        self._closed = False

    @property
    def outstanding(self) -> int:
        return len(self._open)

    def message(self, context_id: int, command: Command) -> DataSetSink | None:
        match command:
            case CCancelRQ():
                self._cancel(command.message_id_being_responded_to)
                return None
            case Request() | UnrecognizedCommand():
                context = self._channel.negotiated.contexts[context_id]
                return self._begin(Operation(self, self._channel, context, command))
            case Response():
                return self.requests.response(context_id, command)
            case _:
                raise RemoteProtocolError("a response of an unknown service", source=0)

    def _begin(self, operation: Operation) -> DataSetSink | None:
        service = self._acceptable(operation)
        if isinstance(service, StatusError):
            operation.fail(service)
            return None
        self._open[operation.request.message_id] = operation
        try:
            return service.begin(operation)
        except StatusError as error:
            operation.fail(error)
        except Exception as error:
            self._journal.internal_error(operation.service, error)
            operation.fail(StatusError("internal error", status=Status.PROCESSING_FAILURE))
        return None

    def _acceptable(self, operation: Operation) -> Service | StatusError:
        """Return the service for the operation, or what forbids it (PS3.7 Annex C)."""
        request = operation.request
        services = self._services.get(type(request)) if isinstance(request, Request) else None
        if not services:
            return StatusError("operation not recognized", status=Status.UNRECOGNIZED_OPERATION)
        if request.message_id in self._open:
            return StatusError("message ID is in use", status=Status.DUPLICATE_INVOCATION)
        if len(self._open) >= _MAX_OUTSTANDING:
            return StatusError("too many operations outstanding", status=Status.RESOURCE_LIMITATION)
        context = operation.context
        sop_class = context.abstract_syntax
        assert isinstance(request, Request)  # it has a service
        # Reports of events go the other way (PS3.4 §J.3.3); senders forget to negotiate that.
        if not context.as_scp and not isinstance(request, NEventReportRQ):
            return StatusError(
                "the SCP role was not accepted for this context",
                status=Status.SOP_CLASS_NOT_SUPPORTED,
            )
        if request.sop_class_uid != sop_class:
            return StatusError(
                "SOP class differs from the presentation context's",
                status=Status.SOP_CLASS_NOT_SUPPORTED,
            )
        for service in services:
            if service.serves(sop_class):
                return service
        return StatusError(
            f"{request.service} is no operation of this SOP class",
            status=Status.UNRECOGNIZED_OPERATION,
        )

    def progress(self) -> list[Progress]:
        return [
            Progress(
                service=operation.service,
                message_id=message_id,
                by_peer=True,
                started=operation.started,
                figures=operation.progress(),
            )
            for message_id, operation in self._open.items()
        ] + self.requests.progress()

    def _cancel(self, message_id: int) -> None:
        operation = self._open.get(message_id)
        # A cancel that comes too late is ignored (PS3.7 §9.3.2.3).
        if operation is None:
            return
        operation.cancelled_by_peer = True
        if operation.on_cancel is not None:
            operation.on_cancel()

    def finish(
        self,
        operation: Operation,
        response: Response | UnrecognizedRSP,
        identifier: bytes | None = None,
    ) -> None:
        """Send ``response`` as the final one of ``operation``."""
        if operation.answered:
            return
        operation.answered = True
        operation.progress = dict  # what it was of may refer back to the operation
        message_id = operation.request.message_id
        if self._open.get(message_id) is operation:
            del self._open[message_id]
        if self._closed:
            return
        operation.response = response
        # The peer first: it waits for the answer, nobody waits for the log.
        self._channel.send(operation.context.context_id, response, identifier)
        self._journal.operation_ended(operation, response.status, response.error_comment or "")

    def closed(self, why: str) -> None:
        self._closed = True
        operations, self._open = self._open, {}
        self.requests.closed(why)
        for operation in operations.values():
            operation.ended = True
            operation.progress = dict
            try:
                if operation.on_cancel is not None:
                    operation.on_cancel()
            except Exception as error:
                self._journal.internal_error(operation.service, error)
