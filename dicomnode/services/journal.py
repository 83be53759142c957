"""Tells logs and metrics what happens to associations, operations and objects.

The log's words are the standard's; values that a peer chose go to metrics only where their number
is bounded.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from dicomnode.dimse.channel import Channel, Proposal, Refused
from dicomnode.dimse.status import Category, category, describe
from dicomnode.errors import AssociationError, AssociationRejected, TLSFailed
from dicomnode.observe.logs import Logger
from dicomnode.observe.metrics import ACCEPTED, Metrics
from dicomnode.observe.tls_metrics import DONE
from dicomnode.observe.words import duration, size
from dicomnode.services.advice import is_forbidden
from dicomnode.services.auditing import Auditing
from dicomnode.services.crowds import RefusalLog
from dicomnode.services.dispatch import Operation
from dicomnode.services.explanations import MOST_CONTEXTS, Explanations, keys_in_words
from dicomnode.services.intake import Arrival
from dicomnode.services.live import AssociationRecord, shown
from dicomnode.services.outcomes import Finding, Outcome, QueryOutcome, RetrieveOutcome, StepOutcome
from dicomnode.services.peers import Peers
from dicomnode.services.results import QUIET, figures_of, is_refused, yield_in_words
from dicomnode.tls.faults import Cause, Side, TLSFault
from dicomnode.ul.framing import TLS_ON_PLAIN_PORT
from dicomnode.ul.negotiation import RefusedContext
from dicomnode.ul.pdu import AAssociateRQ

_REMEMBERED_REJECTIONS = 20
# Connections dropped because of too many are told of this often.
_CROWDED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Rejection:
    """An association that was rejected; ``at`` is seconds since the epoch."""

    at: float
    peer_address: str
    calling_ae_title: str
    words: str
    why: str


@dataclass(slots=True)
class Totals:
    """What was asked and handed out since start."""

    queries: int = 0
    empty_queries: int = 0
    matches: int = 0
    retrievals: int = 0
    objects_sent: int = 0
    objects_failed: int = 0
    sent_bytes: int = 0


class Journal:
    """Observes everything; called on the event loop and, where said, from worker threads."""

    def __init__(
        self,
        log: Logger,
        metrics: Metrics,
        explanations: Explanations,
        auditing: Auditing | None = None,
    ) -> None:
        self._log = log
        self._metrics = metrics
        self.explanations = explanations
        self.peers = Peers(explanations.registry)
        self.auditing = auditing
        self.totals = Totals()
        self.associations: dict[int, AssociationRecord] = {}
        self.outgoing: dict[int, AssociationRecord] = {}
        self._crowded = 0
        self._refusals = RefusalLog(log)
        self._crowded_at = -_CROWDED_SECONDS
        self.rejections: deque[Rejection] = deque(maxlen=_REMEMBERED_REJECTIONS)

    def figures(self) -> dict[str, Any]:
        """Return what /api/status shows of associations, operations and rejections."""
        return {
            "associations": [shown(each, requested=False) for each in self.associations.values()],
            "outgoing_associations": [
                shown(each, requested=True) for each in self.outgoing.values()
            ],
            "since_start": asdict(self.totals),
            "last_rejections": [
                {
                    "time": rejection.at,
                    "peer_address": rejection.peer_address,
                    "calling_ae_title": rejection.calling_ae_title,
                    "words": f"{rejection.words}: {rejection.why}",
                }
                for rejection in self.rejections
            ],
        }

    def live(self) -> list[dict[str, Any]]:
        """Return the associations that are open now, as JSON values, oldest first."""
        rows = [shown(each, requested=False) for each in self.associations.values()]
        rows += [shown(each, requested=True) for each in self.outgoing.values()]
        return sorted(rows, key=lambda row: int(row["number"]))

    # -- connections and associations ------------------------------------------------------------

    def connected(self) -> None:
        self._metrics.connection_opened()

    def accepted(self, channel: Channel) -> None:
        negotiated = channel.negotiated
        self.associations[channel.number] = AssociationRecord(channel, time.monotonic())
        self._metrics.association_accepted(channel.calling_ae_title)
        self.peers.seen(channel.calling_ae_title, channel.peer_address)
        accepted, refused = len(negotiated.contexts), len(negotiated.refused)
        user = f", user {negotiated.user!r}" if negotiated.user else ""
        self._log.info(
            f"{_way(channel)} association accepted from {_where(channel)}{user},"
            f" {accepted} of {accepted + refused} presentation contexts"
        )
        if self.auditing is not None:
            self.auditing.accepted(channel)
        if negotiated.refused:
            self.explanations.contexts_refused(channel)
            self._contexts_refused(channel)

    def _contexts_refused(self, channel: Channel) -> None:
        """Count refused contexts, and tell those refused for one reason in one line."""
        together: dict[tuple[str, bool], list[RefusedContext]] = {}
        for context in channel.negotiated.refused:
            forbidden = is_forbidden(context)
            self._metrics.context_refused(context.abstract_syntax, context.words)
            if forbidden:
                self._metrics.refused("services", channel.calling_ae_title)
            together.setdefault((context.words, forbidden), []).append(context)
        for (words, forbidden), contexts in together.items():
            if len(contexts) == 1:
                what = f"presentation context {contexts[0].context_id}"
            else:
                what = f"{len(contexts)} presentation contexts"
            fields = {"rule": f"services of {channel.calling_ae_title} in ae.toml"}
            self._log.info(
                f"{_way(channel)} {what} refused: {words}",
                abstract_syntax=_listed(context.abstract_syntax for context in contexts),
                transfer_syntaxes=_listed(
                    uid for context in contexts for uid in context.transfer_syntaxes
                ),
                **(fields if forbidden else {}),
            )

    def rejected(self, peer_address: str, request: AAssociateRQ, refused: Refused) -> None:
        words = refused.words
        title = request.calling_ae_title
        self.rejections.append(Rejection(time.time(), peer_address, title, words, refused.why))
        self._metrics.association_rejected(words)
        if refused.rule:
            self._metrics.refused(refused.rule, title)
        self.peers.seen(title, peer_address)
        self.peers.failed(title, f"association rejected: {words}")
        advice = self.explanations.rejected(peer_address, request, refused)
        if self.auditing is not None:
            self.auditing.rejected(peer_address, request, refused)
        self._refusals.warn(
            peer_address,
            f"{title} -> {request.called_ae_title} association rejected from {peer_address}:"
            f" {words}: {refused.why}",
            **({"advice": advice} if refused.advice else {}),
        )

    def ended(self, channel: Channel, how: str, why: str) -> None:
        record = self.associations.pop(channel.number)
        if self.auditing is not None:
            self.auditing.ended(channel)
        self._metrics.association_ended()
        line = f"{_way(channel)} association {how}" + (f": {why}" if why else "")
        took = duration(time.monotonic() - record.since)
        noun = "operation" if record.operations == 1 else "operations"
        volume = f"{size(record.received_bytes)} received, {size(record.sent_bytes)} sent"
        summary = f"{line}, {record.operations} {noun}, {volume}, {took}"
        if how == "released":
            self._log.info(summary)
            return
        by = {"aborted by peer": "peer", "connection lost": "connection"}.get(how, "us")
        self._metrics.association_aborted(by, how)
        self.peers.failed(channel.calling_ae_title, f"association {how}")
        self._log.warning(summary)

    def failed(self, peer_address: str, how: str, why: str) -> None:
        by = "peer" if how == "aborted by peer" else "us"
        self._metrics.association_aborted(by, how)
        advice = ""
        if why == TLS_ON_PLAIN_PORT:
            self._metrics.tls.handshake(Side.SERVER, Cause.PLAIN_PORT)
            advice = "Let the peer call tls.port, or switch TLS off at the peer."
        self.explanations.connection_refused("", peer_address, why, advice)
        fields = {"advice": advice} if advice else {}
        line = f"connection from {peer_address} {how} before any association: {why}"
        self._refusals.warn(peer_address, line, **fields)

    def secured(self) -> None:
        self._metrics.tls.handshake(Side.SERVER, DONE)

    def tls_refused(self, peer_address: str, fault: TLSFault) -> None:
        self._metrics.tls.handshake(Side.SERVER, fault.cause)
        self.explanations.connection_refused("", peer_address, fault.words, fault.advice)
        words = fault.words
        if fault.cause is Cause.TOO_MANY:
            # Whoever makes thousands of connections must not fill the log with them.
            self._crowded += 1
            if (now := time.monotonic()) - self._crowded_at < _CROWDED_SECONDS:
                return
            words += f", {self._crowded} dropped since this was last told"
            self._crowded, self._crowded_at = 0, now
        elif self.auditing is not None:
            self.auditing.tls_refused(peer_address, words)
        line = f"TLS connection from {peer_address} refused: {words}"
        self._refusals.warn(peer_address, line, advice=fault.advice)

    # -- associations that we requested ----------------------------------------------------------

    def requested(self, channel: Channel) -> None:
        negotiated = channel.negotiated
        self.outgoing[channel.number] = AssociationRecord(channel, time.monotonic())
        self._metrics.outgoing_association(channel.called_ae_title, ACCEPTED)
        if channel.secured is not None:
            self._metrics.tls.handshake(Side.CLIENT, DONE)
        self.explanations.advisor.requested(channel.called_ae_title)
        self.peers.called(channel.called_ae_title, channel.peer_address)
        accepted, refused = len(negotiated.contexts), len(negotiated.refused)
        self._log.info(
            f"{_way(channel)} association accepted by {_where(channel)},"
            f" {accepted} of {accepted + refused} presentation contexts"
        )

    def request_failed(self, proposal: Proposal, error: AssociationError) -> None:
        result = "rejected" if isinstance(error, AssociationRejected) else "failed"
        self._metrics.outgoing_association(proposal.called_ae_title, result)
        self.peers.not_had(proposal.called_ae_title, str(error), f"no association: {result}")
        advice = self.explanations.advisor.request_failed(proposal, error)
        if isinstance(error, TLSFailed):
            self._metrics.tls.handshake(Side.CLIENT, error.cause)
            self.explanations.connection_refused(
                proposal.called_ae_title, proposal.host, str(error), advice
            )
            if self.auditing is not None:
                self.auditing.tls_failed(proposal.called_ae_title, proposal.host, error)
        self._log.warning(
            f"{proposal.calling_ae_title} -> {proposal.called_ae_title} no association: {error}",
            advice=advice,
        )

    def request_ended(self, channel: Channel, how: str, why: str) -> None:
        record = self.outgoing.pop(channel.number)
        if self.auditing is not None:
            self.auditing.ended(channel)
        self._metrics.outgoing_association_ended()
        took = duration(time.monotonic() - record.since)
        line = f"{_way(channel)} association {how}" + (f": {why}" if why else "") + f", {took}"
        if how != "released":
            self.peers.failed(channel.called_ae_title, f"association of ours {how}")
        (self._log.info if how == "released" else self._log.warning)(line)

    # -- operations ------------------------------------------------------------------------------

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None:
        """Count and log an operation that has its final response.

        A service that has an outcome to tell sets ``operation.outcome`` before that response, and
        tells its end with ``query_ended`` or ``retrieve_ended`` afterwards.
        """
        channel = operation.channel
        # A peer may ask for something on an association of ours: a commitment report.
        records = self.associations if channel.number in self.associations else self.outgoing
        if (record := records.get(channel.number)) is not None:
            record.operations += 1
            record.received_bytes += operation.received_bytes
            record.sent_bytes += operation.outcome.sent_bytes if operation.outcome else 0
        seconds = time.monotonic() - operation.started
        self._metrics.request_finished(
            operation.service, channel.peer_ae_title, status, seconds, operation.received_bytes
        )
        self._count_for_peer(operation, status)
        if operation.rule:
            self._metrics.refused(operation.rule, channel.peer_ae_title)
        advice: tuple[str, ...] = ()
        if is_refused(operation, status):
            advice = self.explanations.operation_ended(operation, status, comment)
        self._log_operation(operation, status, comment, seconds, advice)

    def _count_for_peer(self, operation: Operation, status: int) -> None:
        title, service = operation.channel.peer_ae_title, operation.service
        kind = category(status)
        if kind in (Category.SUCCESS, Category.WARNING):
            self.peers.succeeded(title, service)
            if service == "C-STORE":
                self.peers.received(title, 1, operation.received_bytes)
        elif kind is Category.FAILURE:
            self.peers.failed(title, f"{service} {status:04X}H {describe(status, service)}")

    def query_ended(self, operation: Operation, outcome: QueryOutcome) -> None:
        """Tell the outcome of a C-FIND, after its final response or the end of its association."""
        empty = not outcome.matches
        worth = (Category.FAILURE, Category.SUCCESS) if empty else (Category.FAILURE,)
        if not self._told(operation, outcome, worth):
            return
        self._metrics.query_finished(
            outcome.level, outcome.matches, outcome.sent_bytes, outcome.seconds
        )
        totals = self.totals
        totals.queries += 1
        totals.empty_queries += not outcome.matches
        totals.matches += outcome.matches
        for finding in outcome.findings:
            self._log_finding(self._log.debug, operation, finding)

    def _told(
        self, operation: Operation, outcome: Outcome, explained: tuple[Category, ...]
    ) -> bool:
        """Log what got no answer, explain endings of these kinds; False for what never began."""
        operation.outcome = outcome
        response = operation.response
        if response is None:
            self._log_operation(operation, None, "", outcome.seconds)
        elif is_refused(operation, response.status):
            return False
        elif category(response.status) in explained:
            comment = response.error_comment or ""
            self.explanations.operation_ended(operation, response.status, comment)
        return True

    def retrieve_ended(self, operation: Operation, outcome: RetrieveOutcome) -> None:
        """Tell the outcome of a C-GET or C-MOVE, as ``query_ended`` does of a C-FIND."""
        loud = tuple(kind for kind in Category if kind not in QUIET)
        if not self._told(operation, outcome, tuple(Category) if outcome.findings else loud):
            return
        by_result = {
            "completed": outcome.completed,
            "warning": outcome.warning,
            "failed": outcome.failed,
        }
        self._metrics.retrieve_finished(
            operation.service, by_result, outcome.sent_bytes, outcome.seconds
        )
        totals = self.totals
        totals.retrievals += 1
        totals.objects_sent += outcome.completed + outcome.warning
        totals.objects_failed += outcome.failed
        totals.sent_bytes += outcome.sent_bytes
        receiver = outcome.destination or operation.channel.peer_ae_title
        self.peers.sent(receiver, outcome.completed + outcome.warning, outcome.sent_bytes)
        say = self._log.warning if outcome.failed or outcome.warning else self._log.info
        # A single one stands on the operation's own line.
        for finding in outcome.findings if len(outcome.findings) > 1 else ():
            self._log_finding(say, operation, finding)

    def step_ended(self, operation: Operation, outcome: StepOutcome) -> None:
        """Tell the outcome of an N-CREATE, N-SET or N-GET, also where nobody waited for it."""
        self._told(operation, outcome, ())

    def _log_operation(
        self,
        operation: Operation,
        status: int | None,
        comment: str,
        seconds: float,
        advice: tuple[str, ...] = (),
    ) -> None:
        """Write the one line of ``operation``; no ``status``: its association ended first."""
        channel = operation.channel
        code = "unanswered" if status is None else f"{status:04X}"
        line = (
            f"{self._from_peer(channel)} {operation.service} {operation.request.message_id} {code}"
            f"{yield_in_words(operation, status)} {duration(seconds)}"
        )
        fields: dict[str, object] = {"advice": " ".join(advice)} if advice else {}
        details: dict[str, object] = {
            "association": channel.number,
            "calling_aet": channel.peer_ae_title,
            "service": operation.service,
            "message_id": operation.request.message_id,
            "status": code,
            "bytes": operation.received_bytes,
            "seconds": seconds,
        }
        outcome = operation.outcome
        if outcome is not None and outcome.findings:
            # A single finding says more than the comment to the peer; several have their lines.
            first, *others = outcome.findings
            comment = "" if others else first.words
            fields |= {} if others else _fields(first)
        if outcome is not None and outcome.level:
            fields["query_level"] = outcome.level
            details |= figures_of(outcome)
        if isinstance(outcome, StepOutcome):
            fields["sop_instance_uid"] = outcome.sop_instance_uid
            details["step_status"] = outcome.step_status
        if isinstance(outcome, QueryOutcome) and outcome.keys:
            fields["keys"] = keys_in_words(outcome)
        if comment:
            line = f"{line}: {comment}"
        if status is None or category(status) in QUIET:
            self._log.info(line, details=details, **fields)
            return
        if uid := getattr(operation.request, "sop_instance_uid", None):
            fields = {"sop_instance_uid": uid} | fields
        self._log.warning(line, details=details, **fields)

    def _log_finding(
        self, say: Callable[..., None], operation: Operation, finding: Finding
    ) -> None:
        channel = operation.channel
        say(
            f"{self._from_peer(channel)} {operation.service} {operation.request.message_id}:"
            f" {finding.words}",
            **_fields(finding),
        )

    def _from_peer(self, channel: Channel) -> str:
        """Name the way of a request of the peer's, which an association of ours may carry too."""
        if channel.number not in self.outgoing:
            return _way(channel)
        return f"{channel.called_ae_title} -> {channel.calling_ae_title} #{channel.number}"

    # -- objects (from worker threads) -------------------------------------------------------------

    def conflict(self, arrival: Arrival, policy: str, kept_path: str) -> None:
        self._metrics.objects_conflicting(policy)
        self._log.warning(
            f"{arrival.source_ae_title} sent an object that is held with other bytes"
            f" (storage.on_conflict = {policy})",
            sop_instance_uid=arrival.sop_instance_uid,
            kept=kept_path,
        )

    def row_without_file(self, sop_instance_uid: str, path: str) -> None:
        self._log.error(
            "the file of an index row was missing or damaged; the object sent again took its place",
            sop_instance_uid=sop_instance_uid,
            path=path,
        )

    def settling_failed(self, error: Exception) -> None:
        self._metrics.settling_failed()
        self._log.error(
            "files of small objects could not be made durable; their bytes are, in the index, and"
            " it is tried again",
            reason=str(error),
        )

    def settled_again(self) -> None:
        self._log.info("the files of all small objects are durable again")

    def internal_error(self, what: str, error: BaseException) -> None:
        self._log.exception(f"internal error in {what}", error)


def _way(channel: Channel) -> str:
    return f"{channel.calling_ae_title} -> {channel.called_ae_title} #{channel.number}"


def _where(channel: Channel) -> str:
    secured = f" {channel.secured.words}" if channel.secured is not None else ""
    return f"{channel.peer_address}{secured}"


def _listed(values: Iterable[str]) -> str:
    """Write the first of different values, and how many more there are."""
    different = list(dict.fromkeys(values))
    more = len(different) - MOST_CONTEXTS
    shown = " ".join(different[:MOST_CONTEXTS])
    return f"{shown} and {more} more" if more > 0 else shown


def _fields(finding: Finding) -> dict[str, object]:
    told = {"patient_value": finding.patient_value, "advice": finding.advice}
    return {name: value for name, value in told.items() if value}
