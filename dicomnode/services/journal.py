"""Tells logs and metrics what happens to associations, operations and objects.

The log's words are the standard's; values that a peer chose go to metrics only where their number
is bounded.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from dicomnode.dimse.channel import Channel, Refused
from dicomnode.dimse.status import Category, category
from dicomnode.observe.logs import Logger, duration, size
from dicomnode.observe.metrics import Metrics
from dicomnode.services.dispatch import Operation
from dicomnode.services.intake import Arrival
from dicomnode.ul.pdu import AAssociateRQ

_REMEMBERED_REJECTIONS = 20


@dataclass(slots=True)
class AssociationRecord:
    """What is known of an association while it lasts; ``since`` is monotonic, in seconds."""

    channel: Channel
    since: float
    operations: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Rejection:
    """An association that was rejected; ``at`` is seconds since the epoch."""

    at: float
    peer_address: str
    calling_ae_title: str
    words: str
    why: str


class Journal:
    """Observes everything; called on the event loop and, where said, from worker threads."""

    def __init__(self, log: Logger, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self.associations: dict[int, AssociationRecord] = {}
        self.rejections: deque[Rejection] = deque(maxlen=_REMEMBERED_REJECTIONS)

    # -- connections and associations ------------------------------------------------------------

    def connected(self) -> None:
        self._metrics.connection_opened()

    def accepted(self, channel: Channel) -> None:
        negotiated = channel.negotiated
        self.associations[channel.number] = AssociationRecord(channel, time.monotonic())
        self._metrics.association_accepted(channel.calling_ae_title)
        accepted, refused = len(negotiated.contexts), len(negotiated.refused)
        self._log.info(
            f"{_way(channel)} association accepted from {channel.peer_address},"
            f" {accepted} of {accepted + refused} presentation contexts"
        )
        for context in negotiated.refused:
            self._metrics.context_refused(context.abstract_syntax, context.words)
            self._log.info(
                f"{_way(channel)} presentation context {context.context_id} refused:"
                f" {context.words}",
                abstract_syntax=context.abstract_syntax,
                transfer_syntaxes=" ".join(context.transfer_syntaxes),
            )

    def rejected(self, peer_address: str, request: AAssociateRQ, refused: Refused) -> None:
        words = refused.rejection.words
        title = request.calling_ae_title
        self.rejections.append(Rejection(time.time(), peer_address, title, words, refused.why))
        self._metrics.association_rejected(words)
        self._log.warning(
            f"{title} -> {request.called_ae_title} association rejected from {peer_address}:"
            f" {words}: {refused.why}"
        )

    def ended(self, channel: Channel, how: str, why: str) -> None:
        record = self.associations.pop(channel.number)
        self._metrics.association_ended()
        line = f"{_way(channel)} association {how}" + (f": {why}" if why else "")
        took = duration(time.monotonic() - record.since)
        summary = f"{line}, {record.operations} operations, {size(record.received_bytes)}, {took}"
        if how == "released":
            self._log.info(summary)
            return
        by = {"aborted by peer": "peer", "connection lost": "connection"}.get(how, "us")
        self._metrics.association_aborted(by, how)
        self._log.warning(summary)

    def failed(self, peer_address: str, how: str, why: str) -> None:
        by = "peer" if how == "aborted by peer" else "us"
        self._metrics.association_aborted(by, how)
        self._log.warning(f"connection from {peer_address} {how} before any association: {why}")

    # -- operations ------------------------------------------------------------------------------

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None:
        channel = operation.channel
        record = self.associations.get(channel.number)
        if record is not None:
            record.operations += 1
            record.received_bytes += operation.received_bytes
        seconds = time.monotonic() - operation.started
        self._metrics.request_finished(
            operation.service, channel.calling_ae_title, status, seconds, operation.received_bytes
        )
        volume = f" {size(operation.received_bytes)}" if operation.received_bytes else ""
        line = (
            f"{_way(channel)} {operation.service} {operation.request.message_id}"
            f" {status:04X}{volume} {duration(seconds)}"
        )
        details = {
            "association": channel.number,
            "calling_aet": channel.calling_ae_title,
            "service": operation.service,
            "message_id": operation.request.message_id,
            "status": f"{status:04X}",
            "bytes": operation.received_bytes,
            "seconds": seconds,
        }
        match category(status):
            case Category.SUCCESS | Category.PENDING | Category.CANCEL:
                self._log.info(line, details=details)
            case _:
                uid = getattr(operation.request, "sop_instance_uid", None) or ""
                self._log.warning(f"{line}: {comment}", sop_instance_uid=uid, details=details)

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

    def internal_error(self, what: str, error: BaseException) -> None:
        self._log.exception(f"internal error in {what}", error)


def _way(channel: Channel) -> str:
    return f"{channel.calling_ae_title} -> {channel.called_ae_title} #{channel.number}"
