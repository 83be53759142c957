"""Objects of the node's own store, read through its index while it runs or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from dicomnode.cli.sources import Item, Skipped
from dicomnode.errors import CatalogError
from dicomnode.index.backend import Backend
from dicomnode.index.custody import CustodyRecords
from dicomnode.index.entry import InstanceRow
from dicomnode.index.schema import SCHEMA_VERSION, meta
from dicomnode.index.search import Search
from dicomnode.index.selection import Selection
from dicomnode.index.summaries import patients_of
from dicomnode.scu.objects import file_instance
from dicomnode.settings import Settings
from dicomnode.sync.own import OwnIndex

_ROWS_AT_ONCE = 1000


def held_digests(settings: Settings, sop_instance_uids: Sequence[str]) -> dict[str, str]:
    """Return the SHA-256 of those objects that are in the store. Raises CatalogError."""
    with _selection(settings) as selection:
        found: dict[str, str] = {}
        for start in range(0, len(sop_instance_uids), _ROWS_AT_ONCE):
            asked = sop_instance_uids[start : start + _ROWS_AT_ONCE]
            ids = selection.select_instances({"SOPInstanceUID": asked}, None)
            found |= {row.sop_instance_uid: row.sha256 for row in selection.instance_rows(ids)}
        return found


def held(settings: Settings, unique_keys: Mapping[str, Sequence[str]]) -> Iterator[Item | Skipped]:
    """Yield the objects that have, of each key, one of the values. Raises CatalogError.

    Nothing is written: a running node goes on undisturbed.
    """
    with own_objects(settings) as own:
        for row in own.rows(unique_keys):
            path = str(settings.storage.directory / row.path)
            yield Item(
                path,
                row.sop_class_uid,
                row.sop_instance_uid,
                row.transfer_syntax_uid,
                row.data_set_bytes,
                partial(file_instance, path),
            )


@dataclass(frozen=True, slots=True)
class OwnObjects:
    """What the index says of objects, and what is recorded of them."""

    selection: Selection
    custody: CustodyRecords
    connect: Callable[[], AbstractContextManager[Connection]]

    def patients(self, patient_id: str) -> int:
        """Return how many patients are told apart that have a Patient ID."""
        return patients_of(self.connect, patient_id)

    def rows(self, unique_keys: Mapping[str, Sequence[str]]) -> Iterator[InstanceRow]:
        """Yield the objects that have, of each key, one of the values: study by study."""
        ids = self.selection.select_instances(unique_keys, None)
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            yield from self.selection.instance_rows(ids[start : start + _ROWS_AT_ONCE])


@contextmanager
def own_objects(settings: Settings) -> Iterator[OwnObjects]:
    """Read index and custody log of the node of ``settings``. Raises CatalogError."""
    with opened_index(settings) as backend:
        connect = backend.reader.connect
        yield OwnObjects(Selection(backend), CustodyRecords(connect), connect)


class _Index:
    """What can be read of an index: ``sync.own.Reading``."""

    def __init__(self, backend: Backend) -> None:
        search, selection = Search(backend), Selection(backend)
        self.find, self.fetch = search.find, search.fetch
        self.select_instances = selection.select_instances
        self.instance_rows = selection.instance_rows


@contextmanager
def own_index(settings: Settings) -> Iterator[OwnIndex]:
    """Read the index of the node of ``settings``, while it runs or not. Raises CatalogError."""
    with opened_index(settings) as backend:
        yield OwnIndex(_Index(backend))


@contextmanager
def custody_records(settings: Settings) -> Iterator[CustodyRecords]:
    """Read the custody log of the node of ``settings``, while it runs or not.

    Raises CatalogError.
    """
    with opened_index(settings) as backend:
        yield CustodyRecords(backend.reader.connect)


@contextmanager
def _selection(settings: Settings) -> Iterator[Selection]:
    with opened_index(settings) as backend:
        yield Selection(backend)


@contextmanager
def opened_index(settings: Settings) -> Iterator[Backend]:
    """Lend the database of the index, to be read only. Raises CatalogError."""
    backend = Backend(settings.index_url, "FULL")
    try:
        _check(backend)
        yield backend
    except (DBAPIError, backend.driver_error) as error:
        raise CatalogError(f"the index {backend.name} cannot be read: {error}") from error
    finally:
        backend.dispose()


def _check(backend: Backend) -> None:
    """See that there is an index of this version; opening it otherwise would make one."""
    path = backend.url.database if backend.is_sqlite else None
    if path and not Path(path).is_file():
        raise CatalogError(f"there is no index {path}: no node has run on this storage yet")
    with backend.reader.connect() as connection:
        version = connection.scalar(
            meta.select().with_only_columns(meta.c.value).where(meta.c.name == "schema_version")
        )
    if version != str(SCHEMA_VERSION):
        raise CatalogError(
            f"the index {backend.name} has schema version {version}, this program needs"
            f" {SCHEMA_VERSION}: start the node, which makes it anew"
        )
