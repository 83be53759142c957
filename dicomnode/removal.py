"""What takes objects out of the archive, on order and by rule, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from dicomnode.index.catalog import Catalog
from dicomnode.observe.deletion_metrics import DeletionMetrics
from dicomnode.observe.logs import Logger
from dicomnode.observe.metrics import Metrics
from dicomnode.retention.rules import Rules
from dicomnode.retention.running import Retention
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.deletion import Deleting
from dicomnode.services.deletion_journal import OURSELVES, DeletionJournal
from dicomnode.services.explanations import Explanations
from dicomnode.services.removing import Cause, Remover, Why
from dicomnode.services.turns import Turns
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore


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

    @property
    def of_committed(self) -> Callable[..., Any]:
        """What removes objects that all their destinations have committed to keep."""
        reason = "all destinations have committed to keep it"
        return partial(self.remover.remove, why=Why(Cause.COMMITTED, reason, OURSELVES))


def retention_rules_of(settings: Settings) -> Rules:
    """Return which objects are deleted by rule, and how."""
    strict = settings.node.strict_ae_titles
    return Rules(settings.retention, settings.deletion, strict=strict)


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
