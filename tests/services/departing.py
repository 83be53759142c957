"""An archive that objects leave: real files and index, and a witness that remembers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.index.catalog import Catalog, InstanceEntry
from dicomnode.index.custody import Custody
from dicomnode.index.deletions import Order
from dicomnode.index.entry import InstanceRow
from dicomnode.integrity.record import Event, Happening
from dicomnode.services.recovery import RecoveryReport, reconcile
from dicomnode.services.removing import Cause, Remover, Why
from dicomnode.services.turns import Turns
from dicomnode.storage.files import FileStore
from dicomnode.storage.part10 import file_meta
from tests.index.entries import add, entry, sqlite_url
from tests.storage.objects import CT_STORAGE, EXPLICIT, data_set, encoded

WHY = Why(Cause.COMMAND, "sent twice", "jane")


class Killed(BaseException):
    """Stands for SIGKILL: nobody handles it."""


class Lines:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, message: str, **fields: object) -> None:
        self.lines.append(message)

    info = error = warning


class Witness:
    """Remembers what it is told, and records what goes in ``custody``."""

    custody: Custody

    def __init__(self) -> None:
        self.gone_uids: list[str] = []
        self.stays: list[str] = []
        self.told: list[str] = []

    def leaving(self, cursor: DBAPICursor, rows: Sequence[InstanceRow], why: Why) -> None:
        self.custody.enter(
            cursor,
            [
                Happening(Event.DELETED, row.study_instance_uid, row.sop_instance_uid)
                for row in rows
            ],
        )

    def look(self, sop_instance_uids: Iterable[str]) -> object:
        return None

    def gone(self, rows: Sequence[InstanceRow], why: Why, known: object) -> None:
        self.gone_uids += [row.sop_instance_uid for row in rows]

    def file_stays(self, path: str, why: str) -> None:
        self.stays.append(path)

    def refused(self, what: str, asked_by: str, words: str, pending: object) -> None:
        self.told.append(f"refused: {words}")

    def ordered(self, order: Order) -> None:
        self.told.append(f"ordered {order.what} from {order.position}")

    def carried_out(self, order: Order) -> None:
        self.told.append(f"deleted {order.deleted}, kept {order.kept}")

    def internal_error(self, what: str, error: BaseException) -> None:
        raise error


class Archive(Witness):
    """Objects with files and rows; ``reopen`` is a start after the process has ended."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        super().__init__()
        self.log = Lines()
        self._open()

    def _open(self) -> None:
        self.files = FileStore(self.directory, durability="full")
        self.files.open()
        self.catalog = Catalog(sqlite_url(self.directory), synchronous="OFF")
        self.catalog.open()
        self.custody = Custody(self.catalog)
        self.remover = Remover(self.files, self.catalog, Turns(), self)

    def close(self) -> None:
        self.catalog.close()
        self.files.close()

    def reopen(self) -> RecoveryReport:
        self.close()
        self._open()
        return reconcile(self.files, self.catalog, log=self.log)  # type: ignore[arg-type]

    def enter(
        self, *numbers: int, study: str = "1.2.3", received_at: float | None = None, **more: object
    ) -> list[str]:
        """Store objects with these Instance Numbers; return their UIDs."""
        uids = []
        for number in numbers:
            one = entry(number, study, f"{study}.4", **more)
            if received_at is not None:
                one = moved(one, received_at)
            self._place(number, study, **more)
            add(self.catalog, one)
            uids.append(one.sop_instance_uid)
        return uids

    def _place(self, number: int, study: str, **more: object) -> None:
        series, uid = f"{study}.4", f"{study}.4.{number}"
        data = encoded(data_set(number, study, series, **more))
        file = self.files.begin(file_meta(CT_STORAGE, uid, EXPLICIT, source_ae_title="CT_1"))
        file.append([memoryview(data)])
        file.place(study, series, uid)
        file.discard()

    def remove(self, *uids: str) -> list[str]:
        """Remove objects, without asking; return what went."""
        rows = self.remover.remove(uids, lambda cursor, held: uids, WHY)
        return [row.sop_instance_uid for row in rows]

    def held(self, *uids: str) -> list[bool]:
        """Tell of each object whether it is there; one is with row and file, or with neither."""
        found = []
        for uid in uids:
            row = self.catalog.get(uid)
            on_disk = list((self.directory / "objects").rglob(f"{uid}.dcm"))
            assert (row is not None) == bool(on_disk), f"{uid} is a ghost"
            found.append(row is not None)
        return found


def moved(one: InstanceEntry, received_at: float) -> InstanceEntry:
    """Return an entry as if received at another time."""
    values = {name: getattr(one, name) for name in type(one).__slots__}
    return type(one)(**{**values, "received_at": received_at})
