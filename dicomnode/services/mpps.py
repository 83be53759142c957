"""Modality Performed Procedure Step as SCP: N-CREATE, N-SET and N-GET (PS3.4 Annex F)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.command import (
    NCreateRQ,
    NCreateRSP,
    NGetRQ,
    NGetRSP,
    NSetRQ,
    NSetRSP,
    Request,
    Response,
    answer,
)
from dicomnode.dimse.identifier import Budget, IdentifierSink
from dicomnode.dimse.status import Status
from dicomnode.errors import CatalogError, StatusError, UnreadableAttributes
from dicomnode.index.catalog import Attachment
from dicomnode.index.steps import PerformedStep, Steps
from dicomnode.index.worklist import State
from dicomnode.registry import Registry
from dicomnode.services.answers import written
from dicomnode.services.dispatch import Operation, failure
from dicomnode.services.mpps_rules import (
    MAY_NO_LONGER_BE_UPDATED,
    Checked,
    InvalidValue,
    check_change,
    check_creation,
    is_uid,
)
from dicomnode.services.outcomes import Finding, StepOutcome
from dicomnode.services.sop_classes import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
)
from dicomnode.storage.json_model import (
    SPECIFIC_CHARACTER_SET,
    Attributes,
    decode_attributes,
    items_of,
    name_of,
    text_of,
)

_THREADS: Final = 4
# Data sets that are not yet worked on, of all associations together.
_MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
# Each attempt but the last fails because another N-SET of the same step was faster.
_ATTEMPTS: Final = 20
_MOST_NAMED: Final = 6
_SOP_CLASS_UID: Final = "00080016"
_SOP_INSTANCE_UID: Final = "00080018"


class Journal(Protocol):
    """Is told how operations on steps ended."""

    def step_ended(self, operation: Operation, outcome: StepOutcome) -> None:
        """``operation`` has its final response, or none because the association ended."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own, to be logged with its traceback."""


class Forwarding(Protocol):
    """Knows who else is to be told of steps; called in worker threads."""

    def step_created(
        self, sop_instance_uid: str, attributes: Attributes, source: str
    ) -> Attachment | None:
        """Return what is to be committed with a step that ``source`` created, None for nothing."""

    def step_changed(
        self, sop_instance_uid: str, changes: Attributes, *, is_over: bool
    ) -> Attachment | None:
        """Return the same for a change; ``is_over`` tells that none can follow."""


@dataclass(frozen=True, slots=True)
class _Done:
    """The final response, and what there is to tell; no ``outcome`` when nothing was done."""

    response: Response
    data_set: bytes | None = None
    outcome: StepOutcome | None = None


class PerformedSteps:
    """Takes performed steps, and gives them out again.

    Operations of one association are performed one after the other, in the order in which they
    came; ``now`` gives seconds since the epoch.
    """

    def __init__(
        self,
        steps: Steps,
        journal: Journal,
        max_identifier_bytes: int,
        registry: Callable[[], Registry],
        now: Callable[[], float],
        forwarding: Forwarding,
    ) -> None:
        self._steps = steps
        self._journal = journal
        self._max_identifier_bytes = max_identifier_bytes
        self._registry = registry
        self._now = now
        self._forwarding = forwarding
        self._budget = Budget(_MAX_WAITING_BYTES)
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="dicomnode-mpps")
        self._last: dict[int, asyncio.Task[None]] = {}

    @property
    def retrieval(self) -> PerformedStepRetrieval:
        """The service for N-GET."""
        return PerformedStepRetrieval(self)

    def close(self) -> None:
        """End the threads; blocks until what they do is done."""
        self._executor.shutdown(cancel_futures=True)

    def serves(self, sop_class_uid: str) -> bool:
        """Tell whether steps of this SOP class are created and set."""
        return sop_class_uid == MODALITY_PERFORMED_PROCEDURE_STEP

    def begin(self, operation: Operation) -> DataSetSink | None:
        """Collect the data set of an N-CREATE or N-SET, then perform it."""
        if not operation.request.has_data_set:
            raise StatusError("the request has no data set", status=Status.MISSING_ATTRIBUTE)
        limit = self._max_identifier_bytes
        too_long = StatusError(
            f"longer than limits.max_identifier_bytes ({limit}), or too much at once",
            status=Status.RESOURCE_LIMITATION,
        )
        return IdentifierSink(
            limit,
            lambda data: self.start(operation, data),
            lambda: operation.fail(too_long),
            budget=self._budget,
        )

    def start(self, operation: Operation, data: bytes) -> None:
        """Perform the operation once the one before it, of the same association, has been."""
        operation.received_bytes = len(data)
        number = operation.channel.number
        earlier = self._last.get(number)
        task = asyncio.get_running_loop().create_task(self._perform(operation, data, earlier))
        self._last[number] = task
        task.add_done_callback(partial(self._forget, number))

    def _forget(self, number: int, task: asyncio.Task[None]) -> None:
        if self._last.get(number) is task:
            del self._last[number]

    async def _perform(
        self, operation: Operation, data: bytes, earlier: asyncio.Task[None] | None
    ) -> None:
        try:
            if earlier is not None:
                await asyncio.wait((earlier,))
            if operation.ended:
                return
            loop = asyncio.get_running_loop()
            done = await loop.run_in_executor(self._executor, self._done, operation, data)
        finally:
            self._budget.give_back(len(data))
        operation.outcome = done.outcome
        operation.conclude(done.response, done.data_set)
        if done.outcome is not None:
            self._journal.step_ended(operation, done.outcome)

    # -- in a thread -----------------------------------------------------------------------------

    def _done(self, operation: Operation, data: bytes) -> _Done:
        """Perform the operation; return its response, whatever happens."""
        syntax = operation.context.transfer_syntax
        title = operation.channel.peer_ae_title
        request = operation.request
        assert isinstance(request, Request)
        try:
            match request:
                case NCreateRQ():
                    return self._create(request, _read(data, syntax), title)
                case NSetRQ():
                    return self._set(request, _read(data, syntax))
                case _:
                    assert isinstance(request, NGetRQ)
                    return self._get(request, syntax, title)
        except InvalidValue as error:
            return _Done(_failure(request, error), written(error.attributes, syntax, b""))
        except StatusError as error:
            return _Done(_failure(request, error))
        except Exception as error:
            self._journal.internal_error(operation.service, error)
            words = "the index failed" if isinstance(error, CatalogError) else "internal error"
            return _Done(_failure(request, StatusError(words, status=Status.PROCESSING_FAILURE)))

    def _create(self, request: NCreateRQ, attributes: Attributes, title: str) -> _Done:
        # Without a UID the SCP makes one (PS3.7 §10.1.5.1.4).
        uid = request.affected_sop_instance_uid or f"2.25.{uuid.uuid4().int}"
        if not is_uid(uid):
            raise StatusError("the instance's UID is none", status=Status.INVALID_SOP_INSTANCE)
        checked, now = check_creation(attributes), self._now()
        step = PerformedStep(uid, checked.status, checked.attributes, title, now, now)
        forwarded = self._forwarding.step_created(uid, checked.given, title)
        followed = self._steps.create(step, forwarded)
        if followed is None:
            comment = "there is a performed procedure step with this UID"
            raise StatusError(comment, status=Status.DUPLICATE_SOP_INSTANCE)
        response = answer(request, Status.SUCCESS)
        assert isinstance(response, NCreateRSP)
        outcome = _outcome(uid, checked, followed)
        return _Done(replace(response, affected_sop_instance_uid=uid), outcome=outcome)

    def _set(self, request: NSetRQ, changes: Attributes) -> _Done:
        for _ in range(_ATTEMPTS):
            held = self._held(request.requested_sop_instance_uid)
            if held.status is not State.IN_PROGRESS:
                raise StatusError(
                    "Performed Procedure Step Object may no longer be updated",
                    status=Status.PROCESSING_FAILURE,
                    error_id=MAY_NO_LONGER_BE_UPDATED,
                )
            checked = check_change(held.attributes, changes)
            forwarded = self._forwarding.step_changed(
                held.sop_instance_uid,
                checked.given,
                is_over=checked.status is not State.IN_PROGRESS,
            )
            followed = self._steps.change(
                held, checked.attributes, checked.status, self._now(), forwarded
            )
            if followed is not None:
                return _set_response(request, checked, followed)
        raise StatusError("the step is being changed", status=Status.RESOURCE_LIMITATION)

    def _get(self, request: NGetRQ, syntax: str, title: str) -> _Done:
        """Return the attributes asked for, all where none is named (PS3.7 §10.1.2)."""
        step = self._held(request.requested_sop_instance_uid)
        asked = [f"{tag:08X}" for tag in request.attribute_identifier_list]
        held = step.attributes
        if asked:
            held = held | _sop_common(step)
            chosen = {key: held[key] for key in asked if key in held}
        else:
            chosen = held
        not_held = tuple(
            int(key, 16)
            for key in dict.fromkeys(asked)
            if key not in held and int(key, 16) != SPECIFIC_CHARACTER_SET
        )
        status = Status.OPTIONAL_ATTRIBUTES_NOT_SUPPORTED if not_held else Status.SUCCESS
        response = answer(request, status, attribute_identifier_list=not_held)
        assert isinstance(response, NGetRSP)
        data_set = written(chosen, syntax, self._registry().character_set(title))
        outcome = StepOutcome(
            sop_instance_uid=step.sop_instance_uid,
            step_status=step.status,
            sent_bytes=len(data_set),
            findings=(Finding(f"it does not have: {_named(not_held)}"),) if not_held else (),
        )
        return _Done(response, data_set, outcome)

    def _held(self, uid: str) -> PerformedStep:
        held = self._steps.get(uid)
        if held is None:
            comment = "there is no performed procedure step with this UID"
            raise StatusError(comment, status=Status.NO_SUCH_SOP_INSTANCE)
        return held


class PerformedStepRetrieval:
    """N-GET of the Retrieve SOP class, and of the one that creates steps: some ask there."""

    def __init__(self, performed: PerformedSteps) -> None:
        self._performed = performed

    def serves(self, sop_class_uid: str) -> bool:
        """Tell whether steps of this SOP class are given out."""
        return sop_class_uid in (
            MODALITY_PERFORMED_PROCEDURE_STEP,
            MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
        )

    def begin(self, operation: Operation) -> DataSetSink | None:
        """Perform an N-GET, which has no data set."""
        self._performed.start(operation, b"")
        return None


def _read(data: bytes, syntax: str) -> Attributes:
    try:
        return decode_attributes(data, syntax)
    except UnreadableAttributes as error:
        raise StatusError(str(error), status=Status.INVALID_ATTRIBUTE_VALUE) from None


def _failure(request: Request, error: StatusError) -> Response:
    response = failure(request, error)
    assert isinstance(response, Response)
    return response


def _set_response(request: NSetRQ, checked: Checked, followed: list[str]) -> _Done:
    """Answer an N-SET that was performed, perhaps not with all its attributes (0107H)."""
    unchanged = checked.unchanged
    response = answer(
        request,
        Status.ATTRIBUTE_LIST_ERROR if unchanged else Status.SUCCESS,
        error_comment="N-SET may not change the attributes listed" if unchanged else None,
        attribute_identifier_list=unchanged,
    )
    assert isinstance(response, NSetRSP)
    outcome = _outcome(request.requested_sop_instance_uid, checked, followed)
    return _Done(response, outcome=outcome)


def _outcome(uid: str, checked: Checked, followed: list[str]) -> StepOutcome:
    told: list[str] = []
    if checked.unchanged:
        told.append(f"not changed, as N-SET may not: {_named(checked.unchanged)}")
    if checked.lacking:
        told.append(f"taken without {_listed(checked.lacking)}")
    if not followed:
        told.append(_why_nothing_follows(checked.attributes))
    findings = (Finding("; ".join(told)),) if told else ()
    return StepOutcome(
        sop_instance_uid=uid,
        step_status=checked.status,
        followed=tuple(followed),
        findings=findings,
    )


def _why_nothing_follows(attributes: Attributes) -> str:
    for item in items_of(attributes, "ScheduledStepAttributesSequence"):
        if step_id := text_of(item, "ScheduledProcedureStepID"):
            study = text_of(item, "StudyInstanceUID")
            return f"no worklist item has Scheduled Procedure Step ID {step_id} in study {study}"
    return "it was not scheduled"


def _named(tags: Sequence[int]) -> str:
    return _listed([name_of(f"{tag:08X}") for tag in tags])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _sop_common(step: PerformedStep) -> Attributes:
    """Return what a step has besides what it was created with."""
    return {
        _SOP_CLASS_UID: {"vr": "UI", "Value": [MODALITY_PERFORMED_PROCEDURE_STEP]},
        _SOP_INSTANCE_UID: {"vr": "UI", "Value": [step.sop_instance_uid]},
    }
