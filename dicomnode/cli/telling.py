"""Tells the node of the settings what a command has done with its objects."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import typer

from dicomnode.audit.events import Study, exported
from dicomnode.audit.messages import Message
from dicomnode.audit.trail import Options, leave_in_spool
from dicomnode.cli.asking import call
from dicomnode.cli.held import own_objects
from dicomnode.cli.peers import Called
from dicomnode.cli.worklist_access import store_alone, why_no_node
from dicomnode.errors import DicomnodeError
from dicomnode.index.catalog import Catalog
from dicomnode.index.custody import Custody
from dicomnode.index.entry import InstanceRow
from dicomnode.index.owners import owner_of
from dicomnode.integrity.record import Detail, Event, Happening
from dicomnode.parameters import audit_of, synchronous_of
from dicomnode.services.auditing import by_study
from dicomnode.services.settling import restore
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore

# A request has no more of them, nor a transaction.
_AT_ONCE: Final = 5000


def tell_node(
    settings: Settings, event: Event, rows: Sequence[InstanceRow], details: Mapping[str, Detail]
) -> None:
    """Have it recorded what happened to objects, durably, and audited what was exported.

    By the node while it runs; otherwise here, and the node delivers audit messages when it starts.
    Raises NodeUnavailable, Refused, CatalogError, OSError, or ends the command: then not all is
    recorded.
    """
    is_audited = event is Event.EXPORTED and settings.audit.enabled
    if not settings.custody.enabled and not is_audited:
        return
    if (unavailable := why_no_node(settings)) is not None:
        with store_alone(settings, unavailable) as files:
            _record(settings, files, event, rows, details)
        return
    for start in range(0, len(rows), _AT_ONCE):
        uids = [row.sop_instance_uid for row in rows[start : start + _AT_ONCE]]
        said = {"event": event.value, "instances": uids, "details": dict(details)}
        call(settings, "POST", "/api/custody", said)


def tell_sent(
    settings: Settings, sop_instance_uids: Sequence[str], target: Called, by: str
) -> None:
    """Have it recorded which objects of the store a command has sent; ``by`` names the command.

    Where that cannot be done, it is said on standard error: they have been sent all the same.
    """
    if not sop_instance_uids or not settings.custody.enabled:
        return
    details = {"by": by, "to": target.peer.title, "address": target.where}
    try:
        with own_objects(settings) as own:
            rows = list(own.rows({"SOPInstanceUID": sop_instance_uids}))
        tell_node(settings, Event.FORWARDED, rows, details)
    except (DicomnodeError, OSError) as error:
        typer.echo(f"dicomnode: that they were sent could not be recorded: {error}", err=True)
    except typer.Exit:
        # Why the node cannot be told has been said.
        typer.echo("dicomnode: that they were sent could not be recorded", err=True)


def _record(
    settings: Settings,
    files: FileStore,
    event: Event,
    rows: Sequence[InstanceRow],
    details: Mapping[str, Detail],
) -> None:
    catalog = Catalog(settings.index_url, synchronous=synchronous_of(settings))
    catalog.open(partial(restore, files))
    try:
        custody = Custody(catalog)
        for start in range(0, len(rows) if settings.custody.enabled else 0, _AT_ONCE):
            custody.append(
                Happening(event, row.study_instance_uid, row.sop_instance_uid, details)
                for row in rows[start : start + _AT_ONCE]
            )
        if event is Event.EXPORTED and (audited := audit_of(settings)) is not None:
            media = str(details.get("to", ""))
            leave_in_spool(audited, _messages(audited, catalog, rows, media))
    finally:
        catalog.close()


def _messages(
    audited: Options, catalog: Catalog, rows: Sequence[InstanceRow], media: str
) -> Iterator[Message]:
    """Yield what the audit trail says of an export: a message for each study."""
    for uid, sop_classes in by_study(rows).items():
        study = Study(*(owner_of(catalog, uid) or ()))
        yield exported(audited.node, media, uid, study, sop_classes, time.time())
