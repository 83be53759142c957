"""Reports on storage commitments that we asked for (PS3.4 §J.3.3, as SCU).

A report comes on the association on which it was asked for, or on one of the peer's with the
roles reversed. Either way it is believed only from the AE title that was asked.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.command import NEventReportRQ
from dicomnode.dimse.status import Status
from dicomnode.errors import StatusError
from dicomnode.index.commitment_requests import (
    CommitmentRequest,
    CommitmentRequests,
    Instance,
    Outcome,
    State,
)
from dicomnode.observe.logs import Logger
from dicomnode.services.commitment_intake import CommitmentIntake, Journal, check_instance
from dicomnode.services.commitment_messages import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    TRANSACTION_UID,
    Report,
    decode_report,
)
from dicomnode.services.custody import Custodian, Details
from dicomnode.services.dispatch import Operation
from dicomnode.services.outcomes import Finding
from dicomnode.services.sop_classes import STORAGE_COMMITMENT_PUSH_MODEL

_NOT_MENTIONED: Final = "not mentioned in the report"

# Failure Reason (0008,1197), PS3.3 §C.14.1.1: its words, and what to do about it.
_REASONS: Final[dict[int, tuple[str, str]]] = {
    0x0110: ("Processing failure", "see the log of {peer}, then ask again"),
    0x0112: ("No such object instance", "send the objects to {peer} again, then ask again"),
    0x0119: ("Class / Instance conflict", "compare the SOP classes with those that {peer} holds"),
    0x0122: (
        "Referenced SOP Class not supported",
        "keep the objects: {peer} does not take their SOP class",
    ),
    0x0131: ("Duplicate transaction UID", "ask again"),
    0x0213: ("Resource limitation", "ask again when {peer} has less to do, or more space"),
}


class Explainer(Protocol):
    """Keeps what is to be explained; ``explanations.Explanations``."""

    def not_committed(
        self, peer_ae_title: str, peer_address: str, answer: str, findings: Sequence[Finding]
    ) -> None:
        """A peer does not keep all that it was asked to keep."""


def reason_in_words(reason: int) -> str:
    """Return a Failure Reason with the standard's words for it."""
    words, _ = _REASONS.get(reason, ("", ""))
    return f"{reason:04X}H {words}".rstrip()


class CommitmentResults:
    """Takes N-EVENT-REPORT requests about what we asked others to keep."""

    def __init__(
        self,
        requests: CommitmentRequests,
        journal: Journal,
        explainer: Explainer,
        log: Logger,
        custodian: Custodian | None = None,
    ) -> None:
        self._custodian = custodian
        self._requests = requests
        self._explainer = explainer
        self._log = log
        self._intake = CommitmentIntake(self._take, journal)
        # One thread: more would only take the interpreter from the event loop.
        self._executor = ThreadPoolExecutor(1, "dicomnode-commitment-results")
        self._awaited: dict[str, asyncio.Event] = {}

    # -- who waits -------------------------------------------------------------------------------

    def expect(self, transaction_uid: str) -> asyncio.Event:
        """Return what is set when the report of a transaction has been answered."""
        return self._awaited.setdefault(transaction_uid, asyncio.Event())

    def forget(self, transaction_uid: str) -> None:
        """Nobody waits for the report of a transaction any more."""
        self._awaited.pop(transaction_uid, None)

    async def close(self) -> None:
        """Finish what is being taken."""
        await self._intake.close()
        await asyncio.to_thread(self._executor.shutdown)

    # -- dispatch.Service ------------------------------------------------------------------------

    def serves(self, sop_class_uid: str) -> bool:
        return sop_class_uid == STORAGE_COMMITMENT_PUSH_MODEL

    def begin(self, operation: Operation) -> DataSetSink | None:
        request = operation.request
        assert isinstance(request, NEventReportRQ)
        check_instance(request.sop_instance_uid)
        if request.event_type_id not in (ALL_COMMITTED, FAILURES_EXIST):
            words = f"event type {request.event_type_id}, not 1 or 2"
            raise StatusError(words, status=Status.NO_SUCH_EVENT_TYPE)
        if not request.has_data_set:
            words = "a report without event information"
            raise StatusError(words, status=Status.INVALID_ARGUMENT_VALUE)
        return self._intake.collect(operation)

    async def _take(self, operation: Operation, data: bytes) -> None:
        """Keep a report, then answer it: it is not told again."""
        loop = asyncio.get_running_loop()
        uid, news = await loop.run_in_executor(self._executor, self._keep, operation, data)
        operation.respond(Status.SUCCESS)
        if news is not None:
            self._tell(operation, *news)
        if (awaited := self._awaited.get(uid)) is not None:
            awaited.set()

    # -- in the thread -----------------------------------------------------------------------------

    def _keep(
        self, operation: Operation, data: bytes
    ) -> tuple[str, tuple[CommitmentRequest, Outcome] | None]:
        """Make a report durable; return its transaction, and what it says unless that is known."""
        report = decode_report(data, operation.context.transfer_syntax)
        uid, title = report.transaction_uid, operation.channel.peer_ae_title
        request = self._requests.get(uid)
        if request is None:
            raise _wrong("not a transaction of this node")
        if request.peer_ae_title.casefold() != title.casefold():
            raise _wrong("the transaction was asked of another AE title")
        asked = self._requests.instances(uid)
        outcome = weigh(asked, report)
        if not request.report:
            self._record(operation, uid, asked, outcome)
        if not request.report and self._requests.conclude(uid, outcome):
            return uid, (request, outcome)
        kept = self._requests.get(uid)
        if kept is None or kept.report != outcome.digest:
            raise _wrong("the transaction has another outcome already")
        return uid, None

    def _record(
        self, operation: Operation, uid: str, asked: Sequence[Instance], outcome: Outcome
    ) -> None:
        """Record what the peer has committed to, before anything is deleted here for it."""
        if self._custodian is None:
            return
        channel = operation.channel
        details: Details = {
            "by": channel.peer_ae_title.strip(),
            "address": channel.peer_address,
            "association": channel.number,
            "transaction_uid": uid,
        }
        lacking = {each[1] for each in (*outcome.failed, *outcome.not_mentioned)}
        self._custodian.committed((each for _, each in asked if each not in lacking), details)

    # -- what is told ------------------------------------------------------------------------------

    def _tell(self, operation: Operation, request: CommitmentRequest, outcome: Outcome) -> None:
        channel, title = operation.channel, request.peer_ae_title
        line = (
            f"{title} committed {outcome.committed} of {request.total} objects,"
            f" transaction {request.transaction_uid}"
        )
        if outcome.state is State.COMMITTED:
            self._log.info(line)
            return
        findings = _findings(outcome, title)
        self._log.warning(
            f"{line}: {'; '.join(finding.words for finding in findings)}",
            advice=" ".join(dict.fromkeys(each.advice for each in findings if each.advice)),
        )
        answer = f"{outcome.committed} of {request.total} objects committed"
        self._explainer.not_committed(title, channel.peer_address, answer, findings)


def weigh(asked: Sequence[Instance], report: Report) -> Outcome:
    """Say what a report means for the instances that were asked for.

    What it names as failed is not committed, even if it names it as committed too; its event type
    is not asked. What was not asked for is passed over.
    """
    reasons = {each.reference.sop_instance_uid: each.reason for each in report.failed}
    committed = {each.sop_instance_uid for each in report.committed} - reasons.keys()
    failed = tuple((sop_class, uid, reasons[uid]) for sop_class, uid in asked if uid in reasons)
    missing = tuple(one for one in asked if one[1] not in reasons and one[1] not in committed)
    return Outcome(
        committed=len(asked) - len(failed) - len(missing),
        failed=failed,
        not_mentioned=missing,
        retrieve_ae_title=report.retrieve_ae_title,
        digest=_digest(committed, reasons.items()),
    )


def _digest(committed: Iterable[str], failed: Iterable[tuple[str, int]]) -> str:
    """Return what two reports have in common that say the same, in whatever order."""
    # A sum, as sorting 100,000 UIDs would keep the interpreter from the event loop.
    total = 0
    for line in (*committed, *(f"{uid} {reason:04X}" for uid, reason in failed)):
        total += int.from_bytes(hashlib.sha256(line.encode()).digest())
    return f"{total:x}"


def _findings(outcome: Outcome, peer: str) -> list[Finding]:
    found: list[Finding] = []
    for reason, count in Counter(reason for *_, reason in outcome.failed).most_common():
        _, remedy = _REASONS.get(reason, ("", "see the log of {peer}"))
        advice = f"Where it failed with {reason:04X}H, {remedy.format(peer=peer)}."
        found.append(Finding(f"{count} failed: {reason_in_words(reason)}", advice=advice))
    if outcome.not_mentioned:
        advice = f"Ask again for what {peer} did not mention."
        found.append(Finding(f"{len(outcome.not_mentioned)} {_NOT_MENTIONED}", advice=advice))
    return found


def _wrong(words: str) -> StatusError:
    return StatusError(words, status=Status.INVALID_ARGUMENT_VALUE, offending=(TRANSACTION_UID,))
