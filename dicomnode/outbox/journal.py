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
from dicomnode.outbox.queue import Down, Failure
from dicomnode.outbox.session import Report
from dicomnode.services.peers import Peers

# Objects that are named in the log, of those that failed on one association.
_MOST_NAMED: Final = 20


@dataclass(slots=True)
class _Account:
    """What has been sent on an association so far; ``since`` is monotonic, in seconds."""

    since: float = field(default_factory=time.monotonic)
    sent: int = 0
    sent_bytes: int = 0
    failed: int = 0


class Journal:
    """Observes forwarding; called on the event loop."""

    def __init__(self, log: Logger, metrics: Metrics, peers: Peers) -> None:
        self._log = log
        self._peers = peers
        self._metrics = metrics
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
        self._peers.sent(destination, len(report.sent), report.sent_bytes)
        if report.sent:
            self._peers.succeeded(destination, "forwarding")
        if report.refused:
            self._peers.failed(destination, "an object to be forwarded was refused")
        account.sent += len(report.sent)
        account.sent_bytes += report.sent_bytes
        for item, words in (*report.refused, *report.lost):
            account.failed += 1
            if account.failed > _MOST_NAMED:
                continue
            self._log.warning(
                f"an object was not forwarded to {destination}: {words}",
                sop_instance_uid=item.sop_instance_uid,
                rule=item.rule,
                attempt=item.attempts + 1,
            )

    def session_ended(self, destination: str) -> None:
        """The association with a destination has been left."""
        account = self._accounts.pop(destination, None)
        if account is None or (not account.sent and not account.failed):
            return
        took = duration(time.monotonic() - account.since)
        noun = "object" if account.sent == 1 else "objects"
        line = f"forwarded to {destination}: {account.sent} {noun}, {size(account.sent_bytes)}"
        if account.failed:
            self._log.warning(f"{line}, {account.failed} not taken, {took}")
        else:
            self._log.info(f"{line}, {took}")

    def set_aside(self, destination: str, failures: Sequence[Failure]) -> None:
        """Objects have been refused too often."""
        self._metrics.forwarded(destination, {"set aside": len(failures)}, 0)
        noun = "an object is" if len(failures) == 1 else f"{len(failures)} objects are"
        self._log.error(
            f"{noun} no longer tried to be forwarded to {destination}: {failures[0].words}",
            sop_instance_uid=failures[0].item.sop_instance_uid,
            advice="See dicomnode outbox list --dead; dicomnode outbox retry tries again.",
        )

    def destination_down(self, destination: str, down: Down) -> None:
        """A destination cannot be had."""
        pause = duration(max(down.not_before - time.time(), 0.0))
        self._log.warning(f"forwarding to {destination} waits for {pause}: {down.words}")

    def destination_up(self, destination: str, down: Down) -> None:
        """A destination that was ``down`` can be had again."""
        took = duration(time.time() - down.since)
        self._log.info(f"{destination} takes objects again, after {took}")

    def given_up(self, destination: str, count: int, words: str) -> None:
        """So many objects have waited too long for a destination."""
        self._metrics.forwarded(destination, {"set aside": count}, 0)
        self._log.error(
            f"{count} objects for {destination} are no longer tried to be forwarded"
            f" (forwarding.give_up_seconds): {words}",
            advice="dicomnode outbox retry tries again.",
        )

    def redirected(self, destination: str, alternate: str, count: int) -> None:
        """So many objects go to the alternate of a destination that is down."""
        noun = "object goes" if count == 1 else "objects go"
        self._log.warning(f"{destination} is down: {count} {noun} to {alternate}")

    # -- storage commitment ------------------------------------------------------------------------

    def cannot_ask(self, destination: str, words: str) -> None:
        """A destination cannot be asked to commit to anything."""
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
