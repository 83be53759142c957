"""Tells the custody log what happens to objects.

What is stored, forwarded or deleted is recorded in the transaction that does it: what was
acknowledged has its record. What changes nothing in the index, such as a retrieval, is recorded
soon after (``custody_recorder``); a retrieval waits for that before its final response.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.dimse.channel import Channel
from dicomnode.errors import CatalogError
from dicomnode.index.attachment import ObjectAttachment
from dicomnode.index.catalog import Catalog, InstanceEntry, InstanceRow
from dicomnode.index.custody import Custody
from dicomnode.index.reading import batches
from dicomnode.integrity.record import Detail, Event, Happening
from dicomnode.services.custody_recorder import BATCH, Recorder

NOT_STORED: Final = "its file could not be given its name, and its sender was told so"

Details = Mapping[str, Detail]


class Custodian:
    """Knows what is recorded of each happening; usable from any thread.

    Only what says so waits for the disk.
    """

    def __init__(self, custody: Custody, recorder: Recorder, catalog: Catalog) -> None:
        self.custody = custody
        self.recorder = recorder
        self._catalog = catalog

    def figures(self) -> dict[str, Any]:
        """Return what /api/status shows; blocks. Raises CatalogError."""
        sequence, own = self.custody.head()
        return {
            "enabled": True,
            "records": sequence,
            "head": f"{sequence}:{own}",
            "waiting": self.recorder.waiting,
            "failures": self.recorder.failures,
            "lost": self.recorder.lost,
        }

    def counts(self) -> dict[str, int]:
        """Return what the metrics show; blocks. Raises CatalogError."""
        return {"recorded": self.custody.head()[0], "waiting": self.recorder.waiting}

    # -- objects that come in ----------------------------------------------------------------------

    def received(
        self, entry: InstanceEntry, source: Details, replaced: InstanceRow | None = None
    ) -> ObjectAttachment:
        """Return the record of an object that is stored, for the transaction that enters it.

        ``source`` is what ``came_from`` says; ``replaced`` is the row that gives way.
        """
        details = {**source, **_contents(entry)}
        if replaced is None:
            return _Record(self.custody, _happening(Event.RECEIVED, entry, details))
        details["replaced_sha256"] = replaced.sha256
        details["replaced_file_sha256"] = replaced.file_sha256
        told = [_happening(Event.REPLACED, entry, details)]
        if replaced.study_instance_uid != entry.study_instance_uid:
            # Else the story of that study would not say that it is gone.
            words = f"replaced by one of study {entry.study_instance_uid}"
            told.insert(0, _of(Event.DELETED, replaced, _why(replaced, words)))
        return _Record(self.custody, *told)

    def received_again(self, entry: InstanceEntry, source: Details, *, mends: bool) -> None:
        """An object came that is held with these bytes; ``mends``: its file was not whole."""
        mended: Details = {"mended": "the stored file was missing or damaged"} if mends else {}
        self.recorder.tell(_happening(Event.RECEIVED_AGAIN, entry, {**source, **mended}))

    def kept_aside(
        self, entry: InstanceEntry, source: Details, why: str, kept: str, *, wait: bool = True
    ) -> None:
        """An object was put into the quarantine, as the file ``kept``.

        Blocks until that is recorded, unless told not to wait; what fails is tried again later.
        """
        details = {**source, **_contents(entry), "reason": why, "kept": kept}
        happening = _happening(Event.QUARANTINED, entry, details)
        if wait:
            try:
                self.custody.append([happening])
                return
            except CatalogError as error:
                self.recorder.failed(error)
        self.recorder.tell(happening)

    def entered(
        self, entry: InstanceEntry, how: str, *, is_other: bool = False
    ) -> ObjectAttachment:
        """Return what records that a stored file was indexed, if nothing was recorded of it yet.

        ``how`` is the occasion. Where other bytes were recorded than the file has, that is what is
        recorded: it is not taken for what was received, unless it ``is_other``, which was taking
        the place of what was held.
        """
        return _Entered(self.custody, entry, how, is_other=is_other)

    # -- objects that go out -----------------------------------------------------------------------

    def forwarded(self, row: InstanceRow, to: Channel, rule: str, syntax: str) -> Happening:
        """Return what is recorded when a destination has taken an object."""
        details = {**_sent_to(to, row, syntax), "rule": rule}
        return _of(Event.FORWARDED, row, details)

    def retrieved(
        self, row: InstanceRow, to: Channel, asked_on: Channel, syntax: str, status: int
    ) -> None:
        """An object was handed out over ``to``, as was asked on an association (or that one)."""
        details = _sent_to(to, row, syntax)
        if asked_on is not to:
            details["asked_by"] = asked_on.peer_ae_title.strip()
            details["asked_from"] = asked_on.peer_address
            details["asked_on"] = asked_on.number
        if asked_on.negotiated.user:
            details["user"] = asked_on.negotiated.user
        details["service"] = "C-GET" if asked_on is to else "C-MOVE"
        if status:
            details["status"] = f"{status:04X}"
        self.recorder.tell(_of(Event.RETRIEVED, row, details))

    async def settled(self) -> None:
        """Wait until what has been told is durable; where that fails, the log has said so."""
        await self.recorder.settled()

    # -- who keeps it, and who does not ------------------------------------------------------------

    def committed(self, sop_instance_uids: Iterable[str], details: Details) -> None:
        """Record that somebody has committed to keep objects, as far as they are held.

        Blocks, in steps; raises CatalogError.
        """
        for uids in batches(dict.fromkeys(sop_instance_uids), BATCH):
            self._append(Event.COMMITTED, self._held(uids), details)

    def leaving(
        self, cursor: DBAPICursor, rows: Sequence[InstanceRow], reason: str, asked_by: str
    ) -> None:
        """Record that objects are deleted, in the transaction that does it."""
        self.custody.enter(
            cursor,
            [_of(Event.DELETED, row, {**_why(row, reason), "asked_by": asked_by}) for row in rows],
        )

    # -- what others tell --------------------------------------------------------------------------

    def told(
        self, event: Event, uids: Sequence[str], details: Details
    ) -> tuple[list[InstanceRow], list[str]]:
        """Record what a command has done with objects that are held.

        Returns those that are, and which are not. Blocks, in steps; raises CatalogError.
        """
        recorded: dict[str, InstanceRow] = {}
        for some in batches(dict.fromkeys(uids), BATCH):
            rows = self._held(some)
            self._append(event, rows, details)
            recorded.update((row.sop_instance_uid, row) for row in rows)
        unknown = [uid for uid in dict.fromkeys(uids) if uid not in recorded]
        return list(recorded.values()), unknown

    def _append(self, event: Event, rows: Sequence[InstanceRow], details: Details) -> None:
        if rows:
            self.custody.append([_of(event, row, details) for row in rows])

    def _held(self, uids: Sequence[str]) -> list[InstanceRow]:
        ids = self._catalog.select_instances({"SOPInstanceUID": uids})
        return self._catalog.instance_rows(ids)


def came_from(channel: Channel | None, source_ae_title: str) -> Details:
    """Say where an object came from; without a channel this node has asked for it itself."""
    if channel is None:
        return {"fetched_from": source_ae_title.strip()}
    details: dict[str, Detail] = {
        "calling_ae_title": channel.calling_ae_title.strip(),
        "address": channel.peer_address,
        "association": channel.number,
    }
    if channel.negotiated.user:
        details["user"] = channel.negotiated.user
    return details


class _Record:
    """The record of an object that is stored (``index.attachment.ObjectAttachment``)."""

    def __init__(self, custody: Custody, *happenings: Happening) -> None:
        self._custody = custody
        self._happenings = happenings

    def apply(self, cursor: DBAPICursor) -> None:
        self._custody.enter(cursor, self._happenings)

    def committed(self) -> None:
        pass

    def undo(self, cursor: DBAPICursor) -> None:
        # A record is never taken back: what has become of it is another one.
        told = self._happenings[-1]
        uids = told.study_instance_uid, told.sop_instance_uid
        gone = Happening(Event.DELETED, *uids, {"reason": NOT_STORED})
        self._custody.enter(cursor, (gone,))


class _Entered:
    """The record of a stored file that is indexed (``index.attachment.ObjectAttachment``)."""

    def __init__(self, custody: Custody, entry: InstanceEntry, how: str, *, is_other: bool) -> None:
        self._custody = custody
        self._entry = entry
        self._how = how
        self._is_other = is_other

    def apply(self, cursor: DBAPICursor) -> None:
        entry = self._entry
        known = self._custody.contents(cursor, entry.study_instance_uid, entry.sop_instance_uid)
        if known is not None and known.get("file_sha256") == entry.file_sha256:
            return
        details = {**_contents(entry), "found_by": self._how}
        event = Event.ENTERED
        if known is not None:
            # Not damaged, which others look for (``known_digests``): it came while nothing was
            # recorded, or was taking another's place when the node ended.
            event = Event.REPLACED if self._is_other else Event.ENTERED
            details["recorded_sha256"] = known.get("sha256", "")
            details["recorded_file_sha256"] = known.get("file_sha256", "")
        elif entry.source_ae:
            details["source_ae_title"] = entry.source_ae
        self._custody.enter(cursor, (_happening(event, entry, details),))

    def committed(self) -> None:
        pass

    def undo(self, cursor: DBAPICursor) -> None:
        pass


def _why(row: InstanceRow, reason: str) -> dict[str, Detail]:
    return {"reason": reason, "series_instance_uid": row.series_instance_uid}


def _contents(entry: InstanceEntry) -> dict[str, Detail]:
    return {
        "data_set_bytes": entry.data_set_bytes,
        "file_bytes": entry.size_bytes,
        "file_sha256": entry.file_sha256,
        "series_instance_uid": entry.series_instance_uid,
        "sha256": entry.sha256,
        "transfer_syntax_uid": entry.transfer_syntax_uid,
    }


def _sent_to(channel: Channel, row: InstanceRow, syntax: str) -> dict[str, Detail]:
    details: dict[str, Detail] = {
        "to": channel.peer_ae_title.strip(),
        "address": channel.peer_address,
        "association": channel.number,
    }
    if syntax != row.transfer_syntax_uid:
        details["converted_to"] = syntax
    return details


def _happening(event: Event, entry: InstanceEntry, details: Details) -> Happening:
    return Happening(event, entry.study_instance_uid, entry.sop_instance_uid, details)


def _of(event: Event, row: InstanceRow, details: Details) -> Happening:
    return Happening(event, row.study_instance_uid, row.sop_instance_uid, details)
