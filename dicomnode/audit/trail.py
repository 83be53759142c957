"""The audit trail: takes what happened from any thread, and never holds it up.

What is told is queued; a thread makes messages of it and puts them into the spool, from where
one thread for each target brings them there. Each way is bounded. What does not fit is counted,
logged, and told in the trail itself once there is room again.
"""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from dicomnode.audit import events
from dicomnode.audit.codes import Alert, Outcome
from dicomnode.audit.delivery import Delivery, Target
from dicomnode.audit.events import Deletion, Ourselves, Peer, Study, Transfer
from dicomnode.audit.messages import AuditSource, Message, to_xml
from dicomnode.audit.spool import Spool
from dicomnode.audit.syslog import syslog_message
from dicomnode.audit.transfers import MAX_SECONDS, Kind, Tally, Transfers
from dicomnode.errors import CatalogError
from dicomnode.observe.audit_metrics import AuditMetrics
from dicomnode.observe.logs import Logger
from dicomnode.observe.words import counted

SYSLOG: Final = "syslog"
FILE: Final = "file"

# A query may take 16 KiB.
_MAX_QUEUED: Final = 4000
_MAX_BATCH: Final = 500
# What comes within this time becomes durable together.
_GATHER_SECONDS: Final = 0.02
# How often is looked for transfers that have gone on for long, and a failed spool tried again.
_TURN_SECONDS: Final = 2.0
_STOP_SECONDS: Final = 2.0
# A loss that goes on is logged so often.
_TOLD_AGAIN_SECONDS: Final = 60.0

# Made into a message in the audit's own thread, as the index may have to be asked.
Draft = Callable[[], Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the settings say; ``targets`` by their names, SYSLOG and FILE."""

    node: Ourselves
    source: AuditSource
    spool_path: Path
    spool_bytes: int
    targets: Mapping[str, tuple[str, Target]]


class Audit:
    """The audit trail of a node; without ``options`` it is off, and takes nothing.

    ``studies`` returns what the index knows of a study, None when it holds nothing of it; called
    in a thread, raises CatalogError.
    """

    def __init__(
        self,
        options: Options | None,
        log: Logger,
        registry: CollectorRegistry,
        studies: Callable[[str], Study | None],
    ) -> None:
        self._options = options
        self._log = log
        self._studies = studies
        self._queue: deque[Draft] = deque()
        self._transfers = Transfers()
        self._lock = threading.Lock()
        self._lost_messages = self._lost_untold = 0
        self._told_at: dict[str, float] = {}
        self._spool_error = ""
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._deliveries: list[Delivery] = []
        self._metrics = AuditMetrics(registry, self._states)
        if options is not None:
            self._spool = Spool(options.spool_path, options.spool_bytes)
            self._deliveries = [
                Delivery(name, where, target, self._spool, log, self._lost)
                for name, (where, target) in options.targets.items()
            ]
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    @property
    def enabled(self) -> bool:
        """Whether anything is written."""
        return self._options is not None

    def figures(self) -> dict[str, Any]:
        """Return what /api/status shows."""
        targets = []
        for delivery in self._deliveries:
            waiting = self._spool.waiting(delivery.name)
            targets.append(
                {
                    "target": delivery.where,
                    "waiting": waiting.messages,
                    "waiting_bytes": waiting.bytes,
                    "error": delivery.error,
                }
            )
        return {
            "enabled": self.enabled,
            "lost": self._lost_messages,
            "spool_error": self._spool_error,
            "targets": targets,
        }

    def _states(self) -> list[tuple[str, int, bool]]:
        return [
            (each.name, self._spool.waiting(each.name).messages, not each.error)
            for each in self._deliveries
        ]

    # -- start and stop --------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while it is entered, from Application Start to Application Stop.

        Raises OSError when the spool cannot be opened.
        """
        if self._options is None:
            yield
            return
        await asyncio.to_thread(self.start)
        try:
            yield
        finally:
            await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Open the spool and go on with what is in it; blocks. Raises OSError."""
        assert self._options is not None
        if aside := self._spool.open():
            self._log.error(f"the spool of the audit trail is damaged, and was put at {aside}")
        try:
            dropped = self._spool.forget_others(self._options.targets)
        except OSError:
            self._spool.close()
            raise
        if dropped:
            self._lost("target removed", dropped)
        for delivery in self._deliveries:
            delivery.start()
        self._thread.start()
        self._put(partial(events.application_activity, self._options.node, started=True))

    def stop(self) -> None:
        """Make durable what was told, and deliver what can be delivered at once; blocks."""
        assert self._options is not None
        self._conclude(self._transfers.take_older(-math.inf))
        self._put(partial(events.application_activity, self._options.node, started=False))
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        for delivery in self._deliveries:
            delivery.stop(_STOP_SECONDS)
        self._spool.close()

    # -- what happened ---------------------------------------------------------------------------

    def query(
        self, peer: Peer, sop_class_uid: str, transfer_syntax_uid: str, identifier: bytes
    ) -> None:
        """A peer asked for what matches ``identifier``, a data set."""
        if (options := self._options) is None:
            return
        message = events.query(options.node, peer, sop_class_uid, transfer_syntax_uid, identifier)
        self._put(lambda: message)

    def security_alert(
        self,
        alert: Alert,
        words: str,
        peer: Peer | None = None,
        outcome: Outcome = Outcome.MINOR_FAILURE,
    ) -> None:
        """Something that whoever answers for security should know; ``peer`` is whom it is about."""
        if (options := self._options) is None:
            return
        message = events.security_alert(options.node, alert, words, peer, outcome)
        self._put(lambda: message)

    def user_authenticated(self, user: str, peer: Peer, *, failure: str = "") -> None:
        """A user has said who it is, at ``peer``; ``failure`` says why that was not believed."""
        if (options := self._options) is None:
            return
        message = events.user_authentication(options.node, user, peer, failure=failure)
        self._put(lambda: message)

    def received(
        self,
        association: Hashable,
        study_instance_uid: str,
        sop_class_uid: str,
        source: Peer,
        *,
        created: bool,
        failure: str = "",
        requested: bool = False,
    ) -> None:
        """An object came from ``source``; ``requested`` says that we had asked for it."""
        if (options := self._options) is None:
            return
        transfer = Transfer(
            source=source,
            destination=options.node,
            requestor=options.node if requested else source,
            study_instance_uid=study_instance_uid,
        )
        kind = Kind(association, study_instance_uid, transfer, created, failure)
        self._conclude(self._transfers.count(kind, sop_class_uid)[1])

    def sent(
        self,
        association: Hashable,
        study_instance_uid: str,
        sop_class_uid: str,
        destination: Peer,
        *,
        originator: Peer | None = None,
        failure: str = "",
    ) -> None:
        """An object was sent, or was not taken; ``originator`` is who asked for it, if not we.

        It may be the destination itself (C-GET).
        """
        if (options := self._options) is None:
            return
        transfer = _outgoing(options.node, study_instance_uid, destination, originator)
        kind = Kind(association, study_instance_uid, transfer, failure=failure)
        self._conclude(self._transfers.count(kind, sop_class_uid)[1])

    def sending(
        self,
        study_instance_uid: str,
        destination: Peer,
        *,
        originator: Peer | None = None,
    ) -> None:
        """The first object of a study is about to be sent."""
        if (options := self._options) is None:
            return
        transfer = _outgoing(options.node, study_instance_uid, destination, originator)
        at = time.time()
        self._put(
            lambda: events.begin_transferring(transfer, self._study(study_instance_uid)[0], at)
        )

    def exported(self, study_instance_uid: str, sop_classes: Mapping[str, int], media: str) -> None:
        """Objects of a study were written to ``media``."""
        if (options := self._options) is None:
            return
        at = time.time()

        def draft() -> Message:
            study, _ = self._study(study_instance_uid)
            return events.exported(options.node, media, study_instance_uid, study, sop_classes, at)

        self._put(draft)

    def deleted(
        self,
        study_instance_uid: str,
        sop_class_uid: str,
        study: Study | None,
        by: str = "",
        reason: str = "",
    ) -> None:
        """An object was deleted here, of a study of which ``study`` was known.

        ``by`` is on whose order, "" for this node's own.
        """
        if self._options is not None:
            kind = Kind(Deletion(by, reason), study_instance_uid)
            self._conclude(self._transfers.count(kind, sop_class_uid, study)[1])

    def deletion_ended(self, by: str, reason: str) -> None:
        """Nothing more is deleted on this order for now: write what was."""
        self.ended(Deletion(by, reason))

    def ended(self, association: Hashable) -> None:
        """An association has ended: write what went over it."""
        if self._options is not None:
            self._conclude(self._transfers.take(association))

    # -- in any thread ---------------------------------------------------------------------------

    def _put(self, draft: Draft) -> None:
        if len(self._queue) >= _MAX_QUEUED:
            self._lost("queue full", 1)
            return
        self._queue.append(draft)
        if not self._wake.is_set():
            self._wake.set()

    def _conclude(self, tallies: Sequence[Tally]) -> None:
        for tally in tallies:
            self._put(partial(self._concluded, tally))

    def _lost(self, cause: str, number: int) -> None:
        now = time.monotonic()
        with self._lock:
            self._lost_messages += number
            self._lost_untold += number
            is_told = now < self._told_at.get(cause, -_TOLD_AGAIN_SECONDS) + _TOLD_AGAIN_SECONDS
            if not is_told:
                self._told_at[cause] = now
        self._metrics.lost(cause, number)
        if not is_told:
            lost = counted(self._lost_messages, "message", "messages")
            self._log.error(
                f"audit messages are being lost ({cause}): {lost} since start",
                advice="dicomnode status says where they cannot be written; audit.spool_bytes"
                " bounds what waits.",
            )

    # -- in the audit's thread -------------------------------------------------------------------

    def study(self, uid: str) -> Study:
        """Return what is known of a study; blocks."""
        return self._study(uid)[0]

    def _study(self, uid: str) -> tuple[Study, bool]:
        """Return what the index knows of a study, and whether it holds anything of it."""
        try:
            found = self._studies(uid)
        except CatalogError as error:
            self._log.warning(f"a patient could not be looked up for the audit trail: {error}")
            return Study(), True
        return found or Study(), found is not None

    def _concluded(self, tally: Tally) -> Message:
        assert self._options is not None
        uid, kind = tally.kind.study_instance_uid, tally.kind
        study, is_held = self._study(uid)
        transfer = tally.transfer()
        if transfer is not None:
            return events.instances_transferred(
                transfer, study, tally.last, created=kind.created, failure=kind.failure
            )
        known = tally.study or study
        return events.deleted(
            self._options.node,
            uid,
            known,
            tally.sop_classes,
            tally.last,
            whole=not is_held,
            order=kind.association if isinstance(kind.association, Deletion) else Deletion(),
        )

    def _run(self) -> None:
        pending: list[tuple[str, bytes]] = []
        while True:
            stopping = self._stopping.is_set()
            if not pending and not stopping:
                self._wake.wait(_TURN_SECONDS)
                self._stopping.wait(_GATHER_SECONDS)
                self._wake.clear()
            self._conclude(self._transfers.take_older(MAX_SECONDS))
            while pending or self._queue:
                pending = pending or self._entries()
                if not self._keep(pending):
                    break
                pending = []
            if stopping and not pending:
                return
            if stopping:
                unmade, made = len(self._queue), len(pending) // len(self._deliveries)
                self._lost("spool failed", made + unmade)
                return
            if pending:
                self._stopping.wait(_TURN_SECONDS)

    def _entries(self) -> list[tuple[str, bytes]]:
        """Make messages of what is queued, for each target in its form."""
        entries: list[tuple[str, bytes]] = []
        for _ in range(min(len(self._queue), _MAX_BATCH)):
            entries += self._entry(self._queue.popleft())
        return entries

    def _entry(self, draft: Draft) -> list[tuple[str, bytes]]:
        options = self._options
        assert options is not None
        try:
            message = draft()
            xml = to_xml(message, options.source)
        except Exception as error:
            # One message must not cost the others.
            self._log.exception("internal error in the audit trail", error)
            self._lost("internal error", 1)
            return []
        self._metrics.made(message.event.value.meaning)
        return _for_targets(options, message, xml)

    def _keep(self, entries: Sequence[tuple[str, bytes]]) -> bool:
        """Put messages into the spool; tell whether that could be done."""
        try:
            refused = self._spool.add(entries) if entries else Counter[str]()
        except OSError as error:
            if str(error) != self._spool_error:
                self._spool_error = str(error)
                self._log.error(f"the spool of the audit trail cannot be written: {error}")
            return False
        if self._spool_error:
            self._spool_error = ""
            self._log.info("the spool of the audit trail can be written again")
        for delivery in self._deliveries:
            delivery.wake()
        for number in refused.values():
            self._lost("spool full", number)
        if not refused:
            self._tell_of_loss()
        return True

    def _tell_of_loss(self) -> None:
        """Say in the trail that it has a gap."""
        with self._lock:
            lost, self._lost_untold = self._lost_untold, 0
        if lost:
            words = f"{counted(lost, 'audit message was', 'audit messages were')} lost"
            self.security_alert(Alert.AUDIT_RECORDING_STARTED, words)


def leave_in_spool(options: Options, messages: Iterable[Message]) -> None:
    """Put messages into the spool of a node that does not run, which delivers them once it does.

    Raises OSError.
    """
    spool = Spool(options.spool_path, options.spool_bytes)
    spool.open()
    try:
        for message in messages:
            spool.add(_for_targets(options, message, to_xml(message, options.source)))
    finally:
        spool.close()


def _for_targets(options: Options, message: Message, xml: bytes) -> list[tuple[str, bytes]]:
    """Return a message in the form of each target."""
    node = options.node
    forms = {
        SYSLOG: lambda: syslog_message(xml, message.at, node.hostname, node.process_id),
        FILE: lambda: xml,
    }
    return [(name, forms[name]()) for name in options.targets]


def _outgoing(
    node: Ourselves, study_instance_uid: str, destination: Peer, originator: Peer | None
) -> Transfer:
    return Transfer(
        source=node,
        destination=destination,
        requestor=originator or node,
        originator=None if originator is destination else originator,
        study_instance_uid=study_instance_uid,
    )


def ourselves(process_id: int, titles: Sequence[str]) -> Ourselves:
    """Return this node as it calls itself in the trail."""
    return Ourselves(process_id, tuple(titles), socket.gethostname())
