"""Tells logs and metrics how forwarding goes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dicomnode.index.entry import InstanceRow
from dicomnode.observe.logs import Logger
from dicomnode.observe.metrics import Metrics
from dicomnode.observe.words import duration, size
from dicomnode.outbox.items import Down, Failure
from dicomnode.outbox.session import Report
from dicomnode.services.explanations import Explanations
from dicomnode.services.peers import Peers

# Objects that are named in the log, of those that failed on one association.
_MOST_NAMED: Final = 20
_DOWN: Final = "the destination cannot be had: what is for it waits"
_WAITING: Final = (
    "dicomnode outbox list shows what waits and when it is tried again; dicomnode outbox retry"
    " tries at once."
)
_DEAD: Final = (
    "dicomnode outbox list --dead shows what was set aside; once its cause is mended, dicomnode"
    " outbox retry sends it."
)


@dataclass(slots=True)
class _Account:
    """What has been sent on an association so far; ``since`` is monotonic, in seconds."""

    since: float = field(default_factory=time.monotonic)
    sent: int = 0
    messages: int = 0
    sent_bytes: int = 0
    failed: int = 0


class Journal:
    """Observes forwarding; called on the event loop."""

    def __init__(
        self, log: Logger, metrics: Metrics, explanations: Explanations, peers: Peers
    ) -> None:
        self._log = log
        self._peers = peers
        self._metrics = metrics
        self._explanations = explanations
        self._accounts: dict[str, _Account] = {}

    def forwarded(self, destination: str, report: Report) -> None:
        """A batch of objects has been tried."""
        account = self._accounts.setdefault(destination, _Account())
        results = {
            "sent": len(report.sent),
            "refused": len(report.refused),
            "lost": len(report.lost),
        }
        self._metrics.forwarded(destination, results, report.sent_bytes)
        messages = sum(1 for item in report.sent if item.operation)
        objects = len(report.sent) - messages
        self._peers.sent(destination, objects, report.sent_bytes)
        if report.sent:
            self._peers.succeeded(destination, "forwarding")
        if report.refused:
            self._peers.failed(destination, "what was to be forwarded was refused")
        account.messages += messages
        account.sent += objects
        account.sent_bytes += report.sent_bytes
        for item, words in (*report.refused, *report.lost):
            account.failed += 1
            if account.failed > _MOST_NAMED:
                continue
            self._log.warning(
                f"{item.words} was not forwarded to {destination}: {words}",
                sop_instance_uid=item.sop_instance_uid,
                rule=item.rule,
                attempt=item.attempts + 1,
            )

    def session_ended(self, destination: str) -> None:
        """The association with a destination has been left."""
        account = self._accounts.pop(destination, None)
        if account is None or not (account.sent or account.messages or account.failed):
            return
        took = duration(time.monotonic() - account.since)
        noun = "object" if account.sent == 1 else "objects"
        line = f"forwarded to {destination}: {account.sent} {noun}, {size(account.sent_bytes)}"
        if account.messages:
            of_steps = "N-CREATE or N-SET" if account.messages == 1 else "N-CREATE and N-SET"
            line += f", {account.messages} {of_steps}"
        if account.failed:
            self._log.warning(f"{line}, {account.failed} not taken, {took}")
        else:
            self._log.info(f"{line}, {took}")

    def set_aside(self, destination: str, failures: Sequence[Failure]) -> None:
        """Objects have been refused too often."""
        self._metrics.forwarded(destination, {"set aside": len(failures)}, 0)
        self._explain_dead(destination, "refused too often", failures[0].words)
        noun = "an object is" if len(failures) == 1 else f"{len(failures)} objects are"
        self._log.error(
            f"{noun} no longer tried to be forwarded to {destination}: {failures[0].words}",
            sop_instance_uid=failures[0].item.sop_instance_uid,
            advice=_DEAD,
        )

    def destination_down(self, destination: str, down: Down) -> None:
        """A destination cannot be had."""
        advice = self._explanations.advisor.on_forwarding(destination)
        self._explanations.not_forwarded(destination, _DOWN, down.words, advice, _WAITING)
        pause = duration(max(down.not_before - time.time(), 0.0))
        self._log.warning(f"forwarding to {destination} waits for {pause}: {down.words}")

    def destination_up(self, destination: str, down: Down) -> None:
        """A destination that was ``down`` can be had again."""
        took = duration(time.time() - down.since)
        self._log.info(f"{destination} takes objects again, after {took}")

    def given_up(self, destination: str, count: int, words: str) -> None:
        """So many objects have waited too long for a destination."""
        self._metrics.forwarded(destination, {"set aside": count}, 0)
        self._explain_dead(destination, "waited too long (forwarding.give_up_seconds)", words)
        self._log.error(
            f"{count} objects for {destination} are no longer tried to be forwarded"
            f" (forwarding.give_up_seconds): {words}",
            advice=_DEAD,
        )

    def _explain_dead(self, destination: str, why: str, words: str) -> None:
        advice = self._explanations.advisor.on_forwarding(destination)
        answer = f"set aside: {why}"
        self._explanations.not_forwarded(destination, answer, words, advice, _DEAD)

    def redirected(self, destination: str, alternate: str, count: int) -> None:
        """So many objects go to the alternate of a destination that is down."""
        noun = "object goes" if count == 1 else "objects go"
        self._log.warning(f"{destination} is down: {count} {noun} to {alternate}")

    # -- storage commitment ------------------------------------------------------------------------

    def cannot_ask(self, destination: str, words: str) -> None:
        """A destination cannot be asked to commit to anything."""
        answer = "storage commitment cannot be asked for: it is asked for again later"
        advice = self._explanations.advisor.on_forwarding(destination)
        self._explanations.not_forwarded(destination, answer, words, advice)
        self._log.warning(f"{destination} cannot be asked for storage commitment: {words}")

    def not_committed(self, destination: str, count: int, words: str) -> None:
        """A destination does not keep objects that it took."""
        noun = "an object that it took" if count == 1 else f"{count} objects that it took"
        self._log.warning(f"{destination} does not keep {noun}: {words}")

    def deleted(self, rows: Sequence[InstanceRow]) -> None:
        """Objects have been deleted here, as all their destinations keep them."""
        for study, count in Counter(row.study_instance_uid for row in rows).items():
            noun = "object" if count == 1 else "objects"
            self._log.info(
                f"{count} {noun} deleted: all destinations have committed to them",
                study_instance_uid=study,
            )

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""
        self._log.exception(f"internal error in {what}", error)
