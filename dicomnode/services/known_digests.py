"""Files that are entered anew are compared with what was known of their objects.

A damaged file does not become what was received because an index was lost or made anew: its row
says what the object should have, and the file gets on the list of those that are not whole.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.catalog import Catalog, InstanceEntry
from dicomnode.index.custody import Custody
from dicomnode.index.earlier import EarlierDigests
from dicomnode.index.scrubbing import BadFile, Kind, ScrubRecords
from dicomnode.integrity.record import Event, Happening

_WORDS: Final = "the file is not what was received"


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged file (``index.attachment.ObjectAttachment``), to be entered as ``entry``."""

    entry: InstanceEntry
    happening: Happening
    records: ScrubRecords
    custody: Custody | None

    def apply(self, cursor: DBAPICursor) -> None:
        entry = self.entry
        uids = entry.sop_instance_uid, entry.study_instance_uid
        self.records.enter(cursor, BadFile(entry.path, *uids, Kind.DAMAGED, _WORDS, time.time()))
        if self.custody is not None:
            self.custody.enter(cursor, (self.happening,))

    def committed(self) -> None:
        pass

    def undo(self, cursor: DBAPICursor) -> None:
        pass


class KnownDigests:
    """What was known of objects: by the index before, and by the custody log. Blocks."""

    def __init__(self, catalog: Catalog, custody: Custody | None, occasion: str) -> None:
        self._catalog = catalog
        self._custody = custody
        self._occasion = occasion
        self._earlier = EarlierDigests(catalog)
        self._records = ScrubRecords(catalog)

    def damage_of(self, entry: InstanceEntry) -> Damage | None:
        """Return what to enter in the place of ``entry`` where its file is damaged.

        Raises CatalogError.
        """
        known = self._earlier.of(entry.sop_instance_uid) or self._recorded(entry)
        if known is None:
            return None
        sha256, file_sha256 = known
        if sha256 == entry.sha256 and file_sha256 in ("", entry.file_sha256):
            return None
        details = {
            "found_by": self._occasion,
            "words": _WORDS,
            "sha256": sha256,
            "file_sha256": file_sha256,
            "found_sha256": entry.sha256,
            "found_file_sha256": entry.file_sha256,
        }
        uids = entry.study_instance_uid, entry.sop_instance_uid
        return Damage(
            dataclasses.replace(entry, sha256=sha256, file_sha256=file_sha256),
            Happening(Event.DAMAGED, *uids, details),
            self._records,
            self._custody,
        )

    def _recorded(self, entry: InstanceEntry) -> tuple[str, str] | None:
        """Return the digests that the latest record of an object's bytes has."""
        custody = self._custody
        if custody is None:
            return None
        uids = entry.study_instance_uid, entry.sop_instance_uid
        found = self._catalog.transact(lambda cursor: custody.contents(cursor, *uids))
        if found is None or "sha256" not in found:
            # Nothing, or what somebody has changed since.
            return None
        return str(found["sha256"]), str(found.get("file_sha256", ""))

    def forget_entered(self) -> None:
        """Forget what was known of objects that are in the index again. Raises CatalogError."""
        self._earlier.forget_entered()
