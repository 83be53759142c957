"""What takes objects out of the archive, on order and by rule, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dicomnode.index.catalog import Catalog
from dicomnode.index.entry import InstanceRow
from dicomnode.observe.deletion_metrics import DeletionMetrics
from dicomnode.observe.logs import Logger
from dicomnode.observe.metrics import Metrics
from dicomnode.retention.clock import received_now
from dicomnode.retention.rules import Rules
from dicomnode.retention.running import Retention
from dicomnode.retention.state import States
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.deletion import Deleting
from dicomnode.services.deletion_journal import OURSELVES, DeletionJournal
from dicomnode.services.explanations import Explanations
from dicomnode.services.removing import Cause, Chosen, Remover, Why
from dicomnode.services.turns import Turns
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore

_COMMITTED: Final = Why(Cause.COMMITTED, "all destinations have committed to keep it", OURSELVES)


@dataclass(frozen=True, slots=True)
class Removal:
    """The parts; ``remover`` is the only one that removes anything."""

    remover: Remover
    deleting: Deleting
    retention: Retention

    def start(self) -> None:
        """Go on with what was ordered, and begin to apply rules."""
        self.deleting.start()
        self.retention.start()

    def stop(self) -> None:
        """End after the batches that are under way. Blocks."""
        self.retention.stop()
        self.deleting.stop()

    def figures(self) -> dict[str, Any]:
        """Return what /api/status shows. Blocks; raises CatalogError."""
        return {"deletions": self.deleting.figures(), "retention": self.retention.figures()}

    def remove_committed(
        self, sop_instance_uids: Sequence[str], chosen: Chosen
    ) -> list[InstanceRow]:
        """Delete objects that all their destinations have committed to keep. Blocks."""
        return self.remover.remove(sop_instance_uids, chosen, _COMMITTED)


def retention_rules_of(settings: Settings) -> Rules:
    """Return which objects are deleted by rule, and how."""
    strict = settings.node.strict_ae_titles
    return Rules(settings.retention, settings.deletion, strict=strict)


def reception_clock(settings: Settings, catalog: Catalog) -> Callable[[], float]:
    """Return what tells when objects are received. Raises CatalogError."""
    rules = retention_rules_of(settings)
    return received_now(States(catalog).trusted_at(), rules.max_jump_seconds)


def make_removal(
    settings: Settings,
    log: Logger,
    metrics: Metrics,
    explanations: Explanations,
    auditing: Auditing,
    files: FileStore,
    catalog: Catalog,
    turns: Turns,
    custodian: Custodian | None,
) -> Removal:
    """Return all of it for one archive; to be started."""
    journal = DeletionJournal(
        log, DeletionMetrics(metrics.registry), explanations, auditing, catalog, custodian
    )
    remover = Remover(files, catalog, turns, journal)
    retention = Retention(catalog, remover, retention_rules_of(settings), journal, files.free_bytes)
    return Removal(remover, Deleting(catalog, remover, journal), retention)
