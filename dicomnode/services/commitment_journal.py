"""What logs, metrics and ``dicomnode explain`` are told of storage commitments asked of us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from dicomnode.dimse.status import Status
from dicomnode.index.commitments import Standing
from dicomnode.observe.commitment_metrics import CommitmentMetrics
from dicomnode.observe.logs import Logger
from dicomnode.observe.words import duration
from dicomnode.services.commitment_check import Checked
from dicomnode.services.commitment_messages import Request
from dicomnode.services.commitment_reports import NotTaken
from dicomnode.services.dispatch import Operation
from dicomnode.services.explanations import Explanations
from dicomnode.services.outcomes import Finding

# Of one commitment; the rest is counted.
_MOST_DAMAGES: Final = 10

# Failure Reason → the label of the metric, words, and advice.
_REASONS: Final = {
    Status.NO_SUCH_SOP_INSTANCE: (
        "not held",
        "not held",
        "Let the requester send these objects again, then ask again.",
    ),
    Status.CLASS_INSTANCE_CONFLICT: (
        "class differs",
        "held with another SOP class",
        "The requester names a SOP class that the objects do not have: correct it there.",
    ),
    Status.PROCESSING_FAILURE: (
        "damaged",
        "damaged or unreadable here",
        "See the node's log for the files, and see to the disk; objects that are sent again take"
        " the place of damaged ones.",
    ),
}


class CommitmentJournal:
    """Observes storage commitments; called on the event loop, but for ``internal_error``."""

    def __init__(
        self,
        log: Logger,
        metrics: CommitmentMetrics,
        explanations: Explanations,
        on_internal_error: Callable[[str, BaseException], None],
    ) -> None:
        self._log = log
        self._metrics = metrics
        self._explanations = explanations
        self.internal_error = on_internal_error

    def commitment_asked(self, operation: Operation, request: Request) -> None:
        title = operation.channel.calling_ae_title
        self._log.info(
            f"{title} asks for the commitment of {_objects(len(request.references))}",
            transaction_uid=request.transaction_uid,
        )

    def commitment_checked(self, standing: Standing, checked: Checked) -> None:
        """Tell of what is damaged, each object by itself, and of what is not committed."""
        for damage in checked.damages[:_MOST_DAMAGES]:
            self._log.error(
                f"a stored object is damaged: {damage.why}",
                sop_instance_uid=damage.sop_instance_uid,
                path=damage.path,
            )
        if (more := len(checked.damages) - _MOST_DAMAGES) > 0:
            self._log.error(f"{more} more stored objects are damaged")
        committed = standing.instances - len(checked.reasons)
        self._metrics.checked("committed", committed)
        if not checked.reasons:
            return
        findings = []
        for reason, number in Counter(checked.reasons.values()).items():
            label, words, advice = _REASONS[Status(reason)]
            self._metrics.checked(label, number)
            findings.append(Finding(f"{number} {words} ({reason:04X}H)", advice=advice))
        answer = f"{len(checked.reasons)} of {standing.instances} not committed"
        self._explain(standing, answer, findings)
        self._log.warning(
            f"of {_objects(standing.instances)} that {standing.requester} asks to commit,"
            f" {'; '.join(finding.words for finding in findings)}",
            transaction_uid=standing.transaction_uid,
        )

    def commitment_reported(self, standing: Standing, where: str) -> None:
        self._metrics.reported("delivered")
        self._log.info(
            f"{standing.requester} has the report on {_objects(standing.instances)}, {where}",
            transaction_uid=standing.transaction_uid,
        )

    def commitment_not_taken_here(self, standing: Standing, why: NotTaken) -> None:
        self._log.warning(
            f"{standing.requester} did not take a storage commitment report on its own"
            f" association: {why}",
            transaction_uid=standing.transaction_uid,
        )

    def commitment_put_off(
        self, standings: Sequence[Standing], why: NotTaken, seconds: float
    ) -> None:
        first, *others = standings
        self._metrics.reported("put off", len(standings))
        advice = self._advice(first, why)
        reports = f"{len(standings):,} storage commitment reports"
        self._log.warning(
            f"{first.requester} did not take"
            f" {reports if others else 'a storage commitment report'}: {why};"
            f" next attempt in {duration(seconds)}",
            transaction_uid=first.transaction_uid,
            advice=advice,
        )
        answer = "storage commitment reports wait"
        retry = "dicomnode outbox retry sends them at once."
        self._explanations.not_forwarded(first.requester, answer, str(why), advice, retry)

    def commitment_given_up(self, standing: Standing, why: NotTaken) -> None:
        self._metrics.reported("given up")
        advice = self._advice(standing, why)
        words = f"the report was given up after {standing.attempts + 1} attempts"
        self._explain(standing, words, [Finding(str(why), advice=advice)])
        self._log.error(
            f"{standing.requester} does not know what became of {_objects(standing.instances)}"
            f" that it asked to commit: {words}: {why}",
            transaction_uid=standing.transaction_uid,
            advice=f"{advice} Then let it ask again.",
        )

    def _advice(self, standing: Standing, why: NotTaken) -> str:
        title = standing.requester
        known = why.advice or self._explanations.advisor.on_unavailable(title)
        return known or f"See what the log of {title} says of the association."

    def _explain(self, standing: Standing, answer: str, findings: list[Finding]) -> None:
        asked = f"storage commitment of {_objects(standing.instances)}"
        self._explanations.not_committed(standing.requester, "", answer, findings, asked)


def _objects(number: int) -> str:
    return "1 object" if number == 1 else f"{number:,} objects"
