"""The account of a C-GET's or C-MOVE's sub-operations, and the responses that tell of it.

PS3.4 §C.4.2.1.4 to §C.4.2.1.8 and §C.4.3.1.3, Tables C.4-2 and C.4-3.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Final

from dicomnode.dimse.command import SubOperationsResponse, answer
from dicomnode.dimse.status import Category, Status, category, describe
from dicomnode.services.dispatch import Operation
from dicomnode.services.outcomes import Finding, RetrieveOutcome
from dicomnode.storage.encoding import DEFLATED, Elements, deflated

_PENDING_SECONDS: Final = 1.0
_FAILED_SOP_INSTANCE_UID_LIST: Final = 0x0008_0058
# What one element of explicit VR can hold (PS3.5 §7.1.2): a thousand UIDs and more.
_MAX_LIST_BYTES: Final = 0xFFFE
_MAX_UID_BYTES: Final = 64
_MAX_REASONS: Final = 20
_MAX_COMMENT: Final = 64


class SubOperations:
    """Counts how the sub-operations of ``operation`` end, and answers it with Pending on the way.

    ``destination`` is the move destination, "" for a C-GET.
    """

    def __init__(self, operation: Operation, destination: str = "") -> None:
        self._operation = operation
        self._destination = destination
        self._failed_uids: list[str] = []
        self._list_bytes = 0
        # How often each came, in the order in which they first did.
        self._reasons: dict[str, int] = {}
        self._advice: dict[str, str] = {}
        self._first_failure = ""
        self._findings: list[Finding] = []
        self._timer: asyncio.TimerHandle | None = None
        self._last_pending = 0.0
        self.level = ""
        self.remaining = self.completed = self.failed = self.warning = 0
        self.sent_bytes = 0
        operation.progress = self._progress

    # -- on the way ------------------------------------------------------------------------------

    def begin(self, count: int) -> None:
        """Count ``count`` sub-operations as to be done; Pending goes out every second from now."""
        self.remaining = count
        loop = asyncio.get_running_loop()
        self._last_pending = loop.time()
        self._timer = loop.call_later(_PENDING_SECONDS, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._last_pending + _PENDING_SECONDS / 2:
            self.pending()
        self._timer = loop.call_at(self._last_pending + _PENDING_SECONDS, self._tick)

    def _progress(self) -> dict[str, int | str]:
        figures: dict[str, int | str] = {
            "remaining": self.remaining,
            "completed": self.completed,
            "failed": self.failed,
            "warning": self.warning,
            "sent_bytes": self.sent_bytes,
        }
        return figures | ({"destination": self._destination} if self._destination else {})

    def pending(self) -> None:
        """Tell the requester how far it is (PS3.7 §9.3.3.2)."""
        self._last_pending = asyncio.get_running_loop().time()
        self._operation.pending(self._response(Status.PENDING, remaining=True))

    def stored(self, status: int, size: int, sop_instance_uid: str) -> None:
        """Count a sub-operation that was answered with ``status``, of ``size`` bytes."""
        kind = category(status)
        words = f"answered with {status:04X}H {describe(status, 'C-STORE')}"
        if kind in (Category.SUCCESS, Category.WARNING):
            self.remaining -= 1
            self.sent_bytes += size
            if kind is Category.SUCCESS:
                self.completed += 1
            else:
                self.warning += 1
                self._count(words)
            return
        self.fail(words, sop_instance_uid)

    def fail(self, reason: str, sop_instance_uid: str, advice: str = "") -> None:
        """Count a sub-operation that failed; ``reason`` and ``advice`` are as in a Finding."""
        self.remaining -= 1
        self.failed += 1
        self._first_failure = self._first_failure or reason
        self._count(reason, advice)
        if sop_instance_uid and not self.list_is_full:
            self._failed_uids.append(sop_instance_uid)
            self._list_bytes += len(sop_instance_uid) + 1

    def fail_rest(self, reason: str, advice: str = "") -> None:
        """Count all that remain as failed; which objects they are of is not known."""
        if self.remaining:
            self._first_failure = self._first_failure or reason
            self._count(reason, advice, self.remaining)
            self.failed += self.remaining
            self.remaining = 0

    @property
    def list_is_full(self) -> bool:
        """Whether the Failed SOP Instance UID List can take no further UID."""
        return self._list_bytes + _MAX_UID_BYTES > _MAX_LIST_BYTES

    def note(self, finding: Finding) -> None:
        """Keep something to explain that is about the retrieval as a whole."""
        self._findings.append(finding)

    def _count(self, reason: str, advice: str = "", number: int = 1) -> None:
        if reason not in self._reasons and len(self._reasons) >= _MAX_REASONS:
            reason, advice = "other reasons", ""
        if advice:
            self._advice[reason] = advice
        self._reasons[reason] = self._reasons.get(reason, 0) + number

    # -- at the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        """Send no more Pending."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def conclude(self) -> None:
        """Send the final response that the counters stand for."""
        if self.failed and not (self.completed or self.warning or self.remaining):
            status = Status.OUT_OF_RESOURCES_FOR_SUB_OPERATIONS
        elif self.failed or self.warning:
            status = Status.SUB_OPERATIONS_COMPLETE_WITH_FAILURES
        else:
            status = Status.SUCCESS
        self._finish(self._response(status, remaining=False))

    def cancelled(self) -> None:
        """Send the final response to a retrieval that the requester cancelled."""
        self._finish(self._response(Status.CANCEL, remaining=True))

    def _finish(self, response: SubOperationsResponse) -> None:
        self.stop()
        comment = (self._first_failure or next(iter(self._reasons), ""))[:_MAX_COMMENT]
        if comment and response.status != Status.SUCCESS:
            response = replace(response, error_comment=comment)
        operation = self._operation
        operation.outcome = self.outcome()
        operation.conclude(response, self._identifier() if self._failed_uids else None)

    def _response(self, status: int, *, remaining: bool) -> SubOperationsResponse:
        response = answer(self._operation.request, status)
        assert isinstance(response, SubOperationsResponse)
        return replace(
            response,
            number_of_remaining_suboperations=self.remaining if remaining else None,
            number_of_completed_suboperations=self.completed,
            number_of_failed_suboperations=self.failed,
            number_of_warning_suboperations=self.warning,
        )

    def _identifier(self) -> bytes:
        """Return the identifier with the Failed SOP Instance UID List (0008,0058)."""
        transfer_syntax_uid = self._operation.context.transfer_syntax
        value = "\\".join(self._failed_uids).encode()
        data = Elements(transfer_syntax_uid).element(_FAILED_SOP_INSTANCE_UID_LIST, "UI", value)
        return deflated(data) if transfer_syntax_uid == DEFLATED else data

    def outcome(self) -> RetrieveOutcome:
        """Return what is to be told of the retrieval."""
        total = self.remaining + self.completed + self.failed + self.warning
        reasons = [
            Finding(
                reason if count == total == 1 else f"{count} of {total}: {reason}",
                advice=self._advice.get(reason, ""),
            )
            for reason, count in self._reasons.items()
        ]
        return RetrieveOutcome(
            level=self.level,
            destination=self._destination,
            completed=self.completed,
            warning=self.warning,
            failed=self.failed,
            remaining=self.remaining,
            sent_bytes=self.sent_bytes,
            seconds=time.monotonic() - self._operation.started,
            findings=tuple((*self._findings, *reasons)),
        )
