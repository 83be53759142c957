"""The last refusals, failures and empty answers, kept so that they can be explained.

What comes again counts up instead of pushing others out: a modality that is turned away every ten
seconds takes one place. Everything is bounded, as peers decide what there is to remember.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydicom._uid_dict import UID_dictionary

from dicomnode.dimse.channel import Channel, Refused
from dicomnode.dimse.command import CMoveRQ
from dicomnode.dimse.status import Status, describe
from dicomnode.registry import Registry
from dicomnode.services.advice import Advisor
from dicomnode.services.dispatch import Operation
from dicomnode.services.outcomes import WORKLIST, Finding, QueryOutcome, RetrieveOutcome
from dicomnode.ul.items import ImplementationVersionName
from dicomnode.ul.negotiation import RefusedContext
from dicomnode.ul.pdu import AAssociateRQ

_REMEMBERED = 20
_MOST_REASONS = 20
_MOST_KEYS = 12
_MOST_CHARACTERS = 300
_MOST_NAMES = 6
MOST_CONTEXTS = 8
"""So many refused contexts of an association are named, and the others counted."""


class Kind(StrEnum):
    """What is explained; each kind has places of its own."""

    QUERY = "query"
    RETRIEVE = "retrieve"
    OPERATION = "operation"
    COMMITMENT = "commitment"
    FORWARDING = "forwarding"
    DELETION = "deletion"
    INTEGRITY = "integrity"
    ASSOCIATION = "association"
    CONTEXT = "presentation context"
    CONNECTION = "connection"


@dataclass(slots=True)
class Explanation:
    """What went wrong, for whom, why, and what to change; times are seconds since the epoch.

    ``received`` is what the peer sent the last time.
    """

    kind: Kind
    calling_ae_title: str
    peer_address: str
    asked: str
    answer: str
    findings: tuple[Finding, ...]
    advice: tuple[str, ...]
    first_at: float
    last_at: float
    count: int = 1
    received: str = ""


class Explanations:
    """Remembers the latest of each kind; ``now`` gives seconds since the epoch."""

    def __init__(
        self, registry: Callable[[], Registry], *, patient_data: bool, now: Callable[[], float]
    ) -> None:
        self.registry = registry
        self.advisor = Advisor(registry)
        self._patient_data = patient_data
        self._now = now
        self._kept: dict[Kind, OrderedDict[object, Explanation]] = {
            kind: OrderedDict() for kind in Kind
        }

    def rejected(self, peer_address: str, request: AAssociateRQ, refused: Refused) -> str:
        """Remember an association that was rejected; return what to change."""
        advice = self.advisor.on_rejection(request, refused, peer_address)
        self._remember(
            Kind.ASSOCIATION,
            request.calling_ae_title,
            peer_address,
            f"association with {request.called_ae_title}",
            f"rejected: {refused.words}",
            [Finding(refused.why)],
            [advice],
            received=_request(request),
        )
        return advice

    def connection_refused(self, who: str, peer_address: str, why: str, advice: str) -> None:
        """Remember a connection on which there was no association; ``who`` is "" for a caller."""
        asked = "connection from this node" if who else "connection to this node"
        found = [Finding(why)]
        self._remember(
            Kind.CONNECTION, who or "unknown", peer_address, asked, "refused", found, [advice]
        )

    def contexts_refused(self, channel: Channel) -> None:
        """Remember the presentation contexts that were refused in an accepted association."""
        title = channel.peer_ae_title
        together: dict[tuple[str, str], list[RefusedContext]] = {}
        for context in channel.negotiated.refused:
            key = context.words, self.advisor.on_context(title, context)
            together.setdefault(key, []).append(context)
        for (words, advice), contexts in together.items():
            noun = "presentation context" if len(contexts) == 1 else "presentation contexts"
            self._remember(
                Kind.CONTEXT,
                title,
                channel.peer_address,
                f"{len(contexts)} {noun}",
                f"refused: {words}",
                _contexts(contexts),
                [advice],
            )

    def operation_ended(self, operation: Operation, status: int, comment: str) -> tuple[str, ...]:
        """Remember an operation that did not give what was asked for; return what to change."""
        channel, request = operation.channel, operation.request
        destination = request.move_destination if isinstance(request, CMoveRQ) else ""
        kinds = {"C-FIND": Kind.QUERY, "C-GET": Kind.RETRIEVE, "C-MOVE": Kind.RETRIEVE}
        found = list(operation.outcome.findings) if operation.outcome else []
        if comment and not found:
            found = [Finding(comment)]
        advice = self.advisor.on_status(operation.service, status, destination)
        return self._remember(
            kinds.get(operation.service, Kind.OPERATION),
            channel.peer_ae_title,
            channel.peer_address,
            _asked(operation, destination),
            _answer(operation, status),
            found,
            [operation.advice, advice, *(finding.advice for finding in found)],
            received=_message(operation),
        ).advice

    def advice_on(self, called_ae_title: str) -> str:
        """Return what to change so that an AE can be called, "" when it could be."""
        return self.advisor.on_unavailable(called_ae_title)

    def not_committed(
        self,
        peer_ae_title: str,
        peer_address: str,
        answer: str,
        findings: Sequence[Finding],
        asked: str = "storage commitment that this node asked for",
    ) -> None:
        """Remember that less is kept than was asked for: by a peer, or by us where ``asked`` says.

        ``peer_address`` is "" where the peer's association has ended.
        """
        self._remember(
            Kind.COMMITMENT,
            peer_ae_title,
            peer_address,
            asked,
            answer,
            findings,
            [finding.advice for finding in findings],
        )

    def not_forwarded(self, destination: str, answer: str, words: str, *advice: str) -> None:
        """Remember why a destination does not get what is to be forwarded to it."""
        self._remember(
            Kind.FORWARDING,
            destination,
            "",
            "forwarding",
            answer,
            [Finding(words)],
            advice,
        )

    def not_deleted(
        self, asked_by: str, asked: str, answer: str, findings: Sequence[Finding], *advice: str
    ) -> None:
        """Remember why less was deleted than was ordered, or than a rule says."""
        self._remember(Kind.DELETION, asked_by, "", asked, answer, findings, advice)

    def not_whole(self, by: str, kind: str, words: str, *advice: str) -> None:
        """Remember that a stored file is not what was received; ``by`` met it."""
        asked = f"stored objects, as read for {by}"
        self._remember(
            Kind.INTEGRITY, "this node", "", asked, f"{kind} files", [Finding(words)], advice
        )

    def _remember(
        self,
        kind: Kind,
        title: str,
        peer_address: str,
        asked: str,
        answer: str,
        findings: Iterable[Finding],
        advice: Iterable[str],
        *,
        received: str = "",
    ) -> Explanation:
        kept, now = self._kept[kind], self._now()
        bounded = tuple(map(self._bounded, findings))
        entry = Explanation(
            kind,
            title,
            peer_address,
            asked[:_MOST_CHARACTERS],
            answer,
            bounded[:_MOST_REASONS],
            tuple(dict.fromkeys(sentence for sentence in advice if sentence)),
            now,
            now,
            received=received[:_MOST_CHARACTERS],
        )
        key = title, peer_address, entry.asked, answer, entry.findings
        if (before := kept.pop(key, None)) is not None:
            entry.first_at, entry.count = before.first_at, before.count + 1
        kept[key] = entry
        if len(kept) > _REMEMBERED:
            kept.popitem(last=False)
        return entry

    def _bounded(self, finding: Finding) -> Finding:
        value = finding.patient_value if self._patient_data else ""
        return Finding(finding.words[:_MOST_CHARACTERS], value[:_MOST_CHARACTERS], finding.advice)

    def listed(self) -> list[dict[str, Any]]:
        """Return the explanations as JSON values, newest first."""
        entries = [entry for kept in self._kept.values() for entry in kept.values()]
        entries.sort(key=lambda entry: entry.last_at, reverse=True)
        return [_as_json(entry) for entry in entries]


def _asked(operation: Operation, destination: str) -> str:
    to = f" to {destination}" if destination else ""
    outcome = operation.outcome
    if outcome is None or not outcome.level:
        return f"{operation.service}{to}"
    level = " of the worklist" if outcome.level == WORKLIST else f" at {outcome.level} level"
    by = ""
    if isinstance(outcome, QueryOutcome):
        by = f" by {keys_in_words(outcome)}" if outcome.keys else " without any key"
    return f"{operation.service}{level}{to}{by}"


def _answer(operation: Operation, status: int) -> str:
    words = f"{status:04X}H {describe(status, operation.service)}"
    match operation.outcome:
        case QueryOutcome(matches=0) if status == Status.SUCCESS:
            return "no match"
        case RetrieveOutcome() as outcome:
            counts = sub_operations_in_words(outcome, status)
            return counts if status == Status.SUCCESS else ": ".join(filter(None, (words, counts)))
        case _:
            return words


def sub_operations_in_words(outcome: RetrieveOutcome, status: int | None) -> str:
    """Say what became of the sub-operations; results that none had are left out."""
    if not outcome.sub_operations:
        return "nothing to send" if status == Status.SUCCESS else ""
    counts = {
        "completed": outcome.completed,
        "with warning": outcome.warning,
        "failed": outcome.failed,
        "not begun": outcome.remaining,
    }
    return ", ".join(f"{count} {words}" for words, count in counts.items() if count)


def keys_in_words(outcome: QueryOutcome) -> str:
    """List the keys of a query, as many as a line bears."""
    more = len(outcome.keys) - _MOST_KEYS
    listed = ", ".join(outcome.keys[:_MOST_KEYS])
    return f"{listed} and {more} more" if more > 0 else listed


def _request(request: AAssociateRQ) -> str:
    """Say what an A-ASSOCIATE-RQ asked for, and who says to have made it."""
    named = request.find(ImplementationVersionName)
    by = f", implementation {named.name!r}" if named else ""
    contexts = request.presentation_contexts
    names = dict.fromkeys(_name(context.abstract_syntax) for context in contexts)
    number, shown = len(contexts), ", ".join([*names][:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    noun = "presentation context" if number == 1 else "presentation contexts"
    return (
        f"calling AE title {request.calling_ae_title!r}, called AE title"
        f" {request.called_ae_title!r}, {number} {noun}: {shown}{more}{by}"
    )


def _message(operation: Operation) -> str:
    """Say which message a peer sent, on which presentation context."""
    request, context = operation.request, operation.context
    uid = getattr(request, "sop_instance_uid", None) or ""
    of = f" of {uid}" if isinstance(uid, str) and uid else ""
    size = f", {operation.received_bytes} bytes" if operation.received_bytes else ""
    return (
        f"{operation.service}-RQ, message ID {request.message_id}, of"
        f" {_name(context.abstract_syntax)}{of} in {_name(context.transfer_syntax)}{size}"
    )


def _contexts(contexts: Sequence[RefusedContext]) -> list[Finding]:
    """Say what was proposed, as many as are looked at."""
    listed = [Finding(_context(context)) for context in contexts[:MOST_CONTEXTS]]
    more = len(contexts) - MOST_CONTEXTS
    return [*listed, Finding(f"and {more} more")] if more > 0 else listed


def _context(context: RefusedContext) -> str:
    syntaxes = ", ".join(_name(uid) for uid in context.transfer_syntaxes[:4])
    more = len(context.transfer_syntaxes) - 4
    also = f" and {more} more" if more > 0 else ""
    name = _name(context.abstract_syntax)
    uid = f" ({context.abstract_syntax})" if name != context.abstract_syntax else ""
    return f"{name}{uid}, proposed in {syntaxes}{also}"


def _name(uid: str) -> str:
    # Not by pydicom's UID, which warns of each value that is none.
    return UID_dictionary[uid][0] if uid in UID_dictionary else uid


def _as_json(entry: Explanation) -> dict[str, Any]:
    return {
        "kind": entry.kind.value,
        "time": entry.last_at,
        "first_time": entry.first_at,
        "count": entry.count,
        "calling_ae_title": entry.calling_ae_title,
        "peer_address": entry.peer_address,
        "asked": entry.asked,
        "answer": entry.answer,
        "received": entry.received,
        "reasons": [
            {"words": finding.words}
            | ({"patient_value": finding.patient_value} if finding.patient_value else {})
            for finding in entry.findings
        ],
        "advice": list(entry.advice),
    }
