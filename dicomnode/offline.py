"""The archive of a node that does not run, opened for a command that removes objects.

Everything is made to agree first, as at a start of the node; log and audit trail are written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from dicomnode.archive import recording
from dicomnode.assembly import make_auditing
from dicomnode.index.catalog import Catalog
from dicomnode.observe.logs import Log
from dicomnode.observe.metrics import Metrics
from dicomnode.outbox.forwarding import Outbox
from dicomnode.parameters import forward_rules_of, synchronous_of
from dicomnode.reload import Configuration
from dicomnode.removal import Removal, make_removal
from dicomnode.services.explanations import Explanations
from dicomnode.services.recovery import reconcile
from dicomnode.services.settling import restore
from dicomnode.services.turns import Turns
from dicomnode.storage.files import FileStore


@contextmanager
def removal_offline(configuration: Configuration, files: FileStore) -> Iterator[Removal]:
    """Lend what removes objects of ``files``, which are open; nothing of it is started.

    Raises CatalogError, OSError.
    """
    settings, registry = configuration.settings, configuration.registry
    with ExitStack() as undo:
        log = Log(settings.log.model_copy(update={"level": "warning"}))
        log.start()
        undo.callback(log.stop)
        metrics = Metrics(known_title=lambda title: registry.lookup(title) is not None)
        catalog = Catalog(settings.index_url, synchronous=synchronous_of(settings))
        catalog.open(partial(restore, files))
        undo.callback(catalog.close)
        auditing = make_auditing(settings, log.logger, metrics, lambda: catalog)
        if auditing.audit.enabled:
            auditing.audit.start()
            undo.callback(auditing.audit.stop)
        custodian = undo.enter_context(recording(settings, catalog))
        outbox = Outbox(catalog, forward_rules_of(settings, registry), custodian)
        reconcile(files, catalog, log=log.logger, forwarding=outbox, custodian=custodian)
        explanations = Explanations(
            lambda: registry, patient_data=settings.log.patient_data, now=time.time
        )
        yield make_removal(
            settings,
            log.logger,
            metrics,
            explanations,
            auditing,
            files,
            catalog,
            Turns(),
            custodian,
        )
