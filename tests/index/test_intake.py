"""What the index keeps of small objects until their files are durable."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.index import records, schema
from dicomnode.index.catalog import Added, AlreadyHeld, Catalog, Counts, Unsettled
from tests.index.entries import add, entry, remove, replace, sqlite_url, waited

CONTENTS = bytes(range(256)) * 50


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path), synchronous="FULL") as catalog:
        yield catalog


class Restored:
    """Takes the rows that are to be restored; with ``failure`` it cannot write them."""

    def __init__(self, failure: str = "") -> None:
        self.rows: list[Unsettled] = []
        self._failure = failure

    def __call__(self, rows: Iterator[Unsettled]) -> int:
        self.rows = list(rows)
        if self._failure:
            raise OutOfResources(self._failure)
        return len(self.rows)


def kept_paths(catalog: Catalog) -> list[str]:
    return [row.path for row in catalog.unsettled()]


def left_behind(directory: Path, *numbers: int) -> None:
    """Leave an index as a node does that ends without settling."""
    with Catalog(sqlite_url(directory), synchronous="FULL") as catalog:
        for number in numbers:
            add(catalog, entry(number), CONTENTS + bytes([number]))


def test_contents_are_kept_with_their_row_until_they_are_settled(catalog: Catalog) -> None:
    assert add(catalog, entry(1), CONTENTS) == Added()
    add(catalog, entry(2))
    add(catalog, entry(3), b"other")
    rows = list(catalog.unsettled())
    assert [(row.path, row.contents) for row in rows] == [
        (entry(1).path, CONTENTS),
        (entry(3).path, b"other"),
    ]
    counts = catalog.counts()
    assert (counts.instances, counts.unsettled) == (3, 2)
    assert counts.unsettled_bytes == len(CONTENTS) + 5
    catalog.settle(rows[0].id)
    assert kept_paths(catalog) == [entry(3).path]
    assert not catalog.is_unsettled(rows[0].id) and catalog.is_unsettled(rows[1].id)
    last = catalog.last_unsettled()
    assert last == rows[1].id
    catalog.settle(last)
    assert catalog.last_unsettled() is None
    assert catalog.counts().unsettled == catalog.counts().unsettled_bytes == 0
    assert catalog.counts().instances == 3


def test_many_are_settled_in_steps(catalog: Catalog) -> None:
    told = threading.Semaphore(0)
    with catalog.grouped():
        for number in range(600):
            catalog.add(entry(number), lambda outcome: told.release(), b"contents")
    for _ in range(600):
        assert told.acquire(timeout=20)
    last = catalog.last_unsettled()
    assert last is not None
    catalog.settle(last)
    assert catalog.counts().unsettled == 0 and list(catalog.unsettled()) == []


def test_nothing_is_kept_of_an_object_that_is_held(catalog: Catalog) -> None:
    add(catalog, entry(1), CONTENTS)
    assert isinstance(add(catalog, entry(1), b"newcomer"), AlreadyHeld)
    assert [row.contents for row in catalog.unsettled()] == [CONTENTS]


def test_who_removes_or_replaces_an_object_takes_its_contents_along(catalog: Catalog) -> None:
    add(catalog, entry(1), CONTENTS)
    add(catalog, entry(2), CONTENTS)
    add(catalog, entry(3), CONTENTS)
    remove(catalog, entry(1).sop_instance_uid)
    assert kept_paths(catalog) == [entry(2).path, entry(3).path]
    replace(catalog, entry(2))
    assert kept_paths(catalog) == [entry(3).path]
    assert catalog.counts().unsettled == 1
    catalog.truncate()
    assert kept_paths(catalog) == []
    assert catalog.counts() == Counts()


def test_what_a_failed_transaction_kept_is_not_counted(catalog: Catalog) -> None:
    def failing(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(catalog._registrar._sql.add_intake, "run", failing)
        assert isinstance(add(catalog, entry(1), CONTENTS), CatalogError)
    assert catalog.counts() == Counts()
    assert add(catalog, entry(1), CONTENTS) == Added()


def test_only_an_index_that_is_flushed_keeps_contents(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    assert Catalog(url, synchronous="FULL").keeper == str(tmp_path / "index.sqlite")
    assert Catalog(url, synchronous="OFF").keeper == ""


# -- opening ---------------------------------------------------------------------------------------


def test_what_was_left_is_restored_before_it_is_forgotten(tmp_path: Path) -> None:
    left_behind(tmp_path, 1, 2)
    catalog, restored = Catalog(sqlite_url(tmp_path), synchronous="FULL"), Restored()
    catalog.open(restored)
    assert [(row.path, row.contents[-1]) for row in restored.rows] == [
        (entry(1).path, 1),
        (entry(2).path, 2),
    ]
    assert (catalog.restored, catalog.unrestored) == (2, "")
    assert list(catalog.unsettled()) == []
    assert catalog.counts().instances == 2 and catalog.counts().unsettled == 0
    catalog.close()


def test_what_cannot_be_restored_stays(tmp_path: Path) -> None:
    left_behind(tmp_path, 1)
    catalog = Catalog(sqlite_url(tmp_path), synchronous="FULL")
    catalog.open(Restored(failure="disk full"))
    assert catalog.unrestored == "disk full"
    assert kept_paths(catalog) == [entry(1).path]
    assert catalog.counts().unsettled_bytes == len(CONTENTS) + 1
    catalog.close()


@pytest.mark.parametrize("version", ["3", "5", "999"])
def test_another_schema_version_is_restored_before_its_database_goes(
    tmp_path: Path, version: str
) -> None:
    left_behind(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as index, index:
        index.execute("UPDATE meta SET value = ?", (version,))
        # Whatever else that version has, the table of contents is the same in all.
        index.execute("ALTER TABLE instance RENAME COLUMN sha256 TO digest")
    catalog = Catalog(sqlite_url(tmp_path), synchronous="FULL")
    with pytest.raises(CatalogError, match=r"only copy.*disk full"):
        catalog.open(Restored(failure="disk full"))
    with pytest.raises(CatalogError, match="only copy"):
        catalog.open()
    restored = Restored()
    catalog.open(restored)
    assert [row.path for row in restored.rows] == [entry(1).path]
    assert catalog.rebuilt_from == version
    assert catalog.counts() == Counts()
    catalog.close()


def test_a_version_without_that_table_is_replaced_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(tmp_path)
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as index, index:
        index.execute("DROP TABLE intake")
        index.execute("UPDATE meta SET value = '2'")
    catalog, restored = Catalog(sqlite_url(tmp_path), synchronous="FULL"), Restored()
    catalog.open(restored)
    assert catalog.rebuilt_from == "2" and restored.rows == []
    catalog.close()


def test_the_table_has_the_shape_that_every_version_can_read() -> None:
    assert [column.name for column in schema.intake.columns] == ["id", "path", "bytes"]


# -- groups ----------------------------------------------------------------------------------------


def test_what_is_entered_in_a_group_is_committed_at_its_end(catalog: Catalog) -> None:
    told: list[object] = []
    finished = threading.Event()
    with catalog.grouped():
        for number in (1, 2):
            catalog.add(entry(number), told.append)
        catalog.add(entry(3), lambda outcome: finished.set())
        assert told == []
        assert catalog.get(entry(1).sop_instance_uid) is None
    assert finished.wait(20)
    assert told == [Added(), Added()]
    assert catalog.counts().instances == 3


def test_others_do_not_wait_for_a_group(catalog: Catalog) -> None:
    with catalog.grouped():
        waited_for: list[object] = []
        other = threading.Thread(target=lambda: waited_for.append(add(catalog, entry(2))))
        catalog.add(entry(1), lambda outcome: None)
        other.start()
        other.join(20)
        assert waited_for == [Added()]


class Attached:
    """Notes in ``meta``, which stands for the tables of others, that an object was entered."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.commits = 0
        self._failure = failure

    def apply(self, cursor: Any) -> None:
        cursor.execute("INSERT INTO meta VALUES ('attached', 'yes')")
        if self._failure is not None:
            raise self._failure

    def committed(self) -> None:
        self.commits += 1

    def undo(self, cursor: Any) -> None:
        cursor.execute("DELETE FROM meta WHERE name = 'attached'")


def is_attached(catalog: Catalog) -> bool:
    with catalog.read() as connection:
        names = connection.execute(select(schema.meta.c.name)).scalars().all()
    return "attached" in names


def test_row_contents_and_attachment_of_a_group_are_one_transaction(catalog: Catalog) -> None:
    also, outcomes = Attached(), list[object]()
    with catalog.grouped():
        catalog.add(entry(1), outcomes.append, CONTENTS, also)
        catalog.add(entry(2), outcomes.append, CONTENTS)
        assert not outcomes and not kept_paths(catalog) and not is_attached(catalog)
    assert outcomes == [Added(), Added()] and also.commits == 1
    assert kept_paths(catalog) == [entry(1).path, entry(2).path]
    assert is_attached(catalog)


def test_an_attachment_that_fails_leaves_neither_row_nor_contents(catalog: Catalog) -> None:
    also, outcomes = Attached(OutOfResources("no room")), list[object]()
    with catalog.grouped():
        catalog.add(entry(1), outcomes.append, CONTENTS, also)
        catalog.add(entry(2), outcomes.append, CONTENTS)
    assert isinstance(outcomes[0], OutOfResources) and outcomes[1] == Added()
    assert kept_paths(catalog) == [entry(2).path]
    assert catalog.counts().unsettled == 1
    assert also.commits == 0 and not is_attached(catalog)


def test_an_object_that_is_taken_back_takes_its_attachment_along(catalog: Catalog) -> None:
    also = Attached()
    waited(lambda done: catalog.add(entry(1), done, CONTENTS, also))
    waited(lambda done: catalog.remove(entry(1).sop_instance_uid, done, also))
    assert not is_attached(catalog)
    assert catalog.counts() == Counts()


def test_files_are_restored_before_another_version_drops_tables_and_records_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
        database.execute("INSERT INTO outbox_destination VALUES ('PACS', 1, 1, 1, 'down')")
        database.commit()
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 999)
    catalog, restored = Catalog(sqlite_url(tmp_path), synchronous="FULL"), Restored()
    catalog.open(restored)
    with closing(catalog), catalog.read() as connection:
        assert [row.path for row in restored.rows] == [entry(1).path]
        assert catalog.is_new and catalog.counts() == Counts()
        assert connection.scalar(select(records.outbox_destination.c.title)) == "PACS"
