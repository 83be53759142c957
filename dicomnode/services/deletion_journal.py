"""Tells log, metrics, explanations and audit trail what is deleted, and what may not be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.audit.events import Study
from dicomnode.index.catalog import Catalog
from dicomnode.index.deletions import Order
from dicomnode.index.entry import InstanceRow
from dicomnode.observe.deletion_metrics import DeletionMetrics
from dicomnode.observe.logs import Logger
from dicomnode.observe.words import counted, duration, size
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.explanations import Explanations
from dicomnode.services.outcomes import Finding
from dicomnode.services.removing import Why

OURSELVES: Final = "dicomnode"
"""Who deletes what nobody has ordered."""

_MOST_REASONS: Final = 5
_PENDING: Final = (
    "dicomnode outbox list shows what waits to be sent or committed, dicomnode status the storage"
    " commitments; delete once they are through, or drop them."
)


class DeletionJournal:
    """A ``removing.Witness`` and a ``deletion.Observer``; callable from any thread."""

    def __init__(
        self,
        log: Logger,
        metrics: DeletionMetrics,
        explanations: Explanations,
        auditing: Auditing,
        catalog: Catalog,
        custodian: Custodian | None,
    ) -> None:
        self.metrics = metrics
        self._log = log
        self._explanations = explanations
        self._auditing = auditing
        self._catalog = catalog
        self._custodian = custodian

    # -- what goes ---------------------------------------------------------------------------------

    def leaving(self, cursor: DBAPICursor, rows: Sequence[InstanceRow], why: Why) -> None:
        """Objects go in the transaction of ``cursor``: so does what the custody log says of it."""
        if self._custodian is not None:
            self._custodian.leaving(cursor, rows, why.reason, why.asked_by)

    def look(self, sop_instance_uids: Iterable[str]) -> object:
        """Return whose the objects are, for the audit trail."""
        return self._auditing.whose(self._catalog, sop_instance_uids)

    def gone(self, rows: Sequence[InstanceRow], why: Why, known: object) -> None:
        """Objects are deleted, durably."""
        self.metrics.deleted(why.cause, len(rows), sum(row.size_bytes for row in rows))
        studies = cast("Mapping[str, Study]", known)
        by = "" if why.asked_by == OURSELVES else why.asked_by
        self._auditing.deleted(rows, studies, by, why.reason)

    def file_stays(self, path: str, why: str) -> None:
        """The file of a deleted object could not be removed, or not for sure."""
        self.metrics.file_stays()
        self._log.error(
            f"the file of a deleted object cannot be removed: {why}",
            path=path,
            advice="The object is gone from the index; its file is tried again each minute, and"
            " at the next start.",
        )

    # -- orders ------------------------------------------------------------------------------------

    def refused(self, what: str, asked_by: str, words: str, pending: Mapping[str, str]) -> None:
        """An order was not taken."""
        self._log.warning(f"deletion of {what} refused: {words}", asked_by=asked_by)
        findings = [Finding(f"{uid} {why}") for uid, why in list(pending.items())[:_MOST_REASONS]]
        asked, answer = f"deletion of {what}", f"refused: {len(pending)} objects may not go"
        self._explanations.not_deleted(asked_by, asked, answer, findings, _PENDING)

    def ordered(self, order: Order) -> None:
        """An order was taken, or is gone on with."""
        begun = f", from object {order.position + 1}" if order.position else ""
        self._log.info(
            f"deletion {order.id} of {order.what}: {counted(order.total, 'object', 'objects')},"
            f" {size(order.total_bytes)}{begun}",
            asked_by=order.asked_by,
        )

    def carried_out(self, order: Order) -> None:
        """An order is through."""
        self._auditing.audit.deletion_ended(order.asked_by, order.reason)
        took = duration(max(order.ended_at - order.asked_at, 0.0))
        line = (
            f"deletion {order.id}: {counted(order.deleted, 'object', 'objects')} deleted,"
            f" {size(order.deleted_bytes)}, {took}"
        )
        if not order.kept:
            self._log.info(line)
            return
        kept = counted(order.kept, "object stays", "objects stay")
        self._log.warning(f"{line}; {kept}: {order.last_error}")
        findings = [Finding(order.last_error)]
        asked = f"deletion {order.id} of {order.what}"
        self._explanations.not_deleted(order.asked_by, asked, kept, findings, _PENDING)

    # -- retention ---------------------------------------------------------------------------------

    def ran(self, rule: str, objects: int, size_bytes: int, held: Mapping[str, str]) -> None:
        """A retention rule has been applied; ``held`` says of UIDs why they stay."""
        self._auditing.audit.deletion_ended("", order_of_rule(rule)[1])
        self.metrics.ran(rule, "complete", len(held))
        if objects:
            noun = counted(objects, "object", "objects")
            self._log.info(f"retention {rule!r}: {noun} deleted, {size(size_bytes)}")
        if held:
            kept = counted(len(held), "object is", "objects are")
            uid, why = next(iter(held.items()))
            self._log.warning(
                f"retention {rule!r}: {kept} due and may not go: {why}", sop_instance_uid=uid
            )
            findings = [Finding(f"{uid} {why}") for uid, why in list(held.items())[:_MOST_REASONS]]
            answer = f"{kept} due and may not go yet"
            self._explanations.not_deleted("", f"retention {rule!r}", answer, findings, _PENDING)

    def broken_off(self, rule: str, result: str) -> None:
        """A run was interrupted, or failed; the next one goes on."""
        self._auditing.audit.deletion_ended("", order_of_rule(rule)[1])
        self.metrics.ran(rule, result, 0)

    def clock_jumped(self, words: str, advice: str) -> None:
        """Retention does nothing, as the clock cannot be trusted."""
        self.metrics.clock(trusted=False)
        self._log.error(f"retention does nothing: {words}", advice=advice)
        self._explanations.not_deleted("", "retention", "held", [Finding(words)], advice)

    def clock_trusted(self) -> None:
        """The clock is trusted."""
        self.metrics.clock(trusted=True)

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own."""
        self._log.exception(f"internal error in {what}", error)


def order_of_rule(rule: str) -> tuple[str, str]:
    """Return on whose order, and why, a retention rule deletes, as audit and custody have it."""
    return OURSELVES, f"retention rule {rule}"
