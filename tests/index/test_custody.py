"""The custody log in the index."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog
from dicomnode.index.custody import Custody
from dicomnode.index.schema import SCHEMA_VERSION
from dicomnode.integrity.record import Event, Happening
from tests.index.entries import add, entry, held_writer, sqlite_url
from tests.integrity.chains import STUDY, chain, happening
from tests.peers import eventually

RECORDS = [
    *(happening(number, size=512_000, calling_ae_title="CT_1") for number in range(1, 6)),
    happening(2, Event.RETRIEVED, to="WS_1"),
    happening(3, Event.DELETED, reason="Jürgen said so"),
]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        yield catalog


@pytest.fixture
def custody(catalog: Catalog) -> Custody:
    return Custody(catalog)


def found(custody: Custody) -> list[int]:
    return [fault.sequence for fault in custody.check()]


def test_what_is_appended_is_a_chain_and_comes_back_in_order(custody: Custody) -> None:
    assert custody.head() == (0, "0" * 64)
    custody.append(RECORDS[:3])
    custody.append(RECORDS[3:])
    expected = chain(RECORDS)
    assert custody.of_study(STUDY) == expected
    assert custody.of_instance(f"{STUDY}.2") == [expected[1], expected[5]]
    assert custody.of_instance(f"{STUDY}.2", STUDY) == [expected[1], expected[5]]
    assert custody.head() == (7, expected[-1].hash)
    assert not found(custody)


def test_a_text_that_is_longer_than_a_record_may_have_is_cut(custody: Custody) -> None:
    custody.append([happening(1, reason=5000 * "\u00e9", size=4)])
    (record,) = custody.of_study(STUDY)
    assert record.details == {"reason": 4096 * "\u00e9", "size": 4}
    assert not found(custody)


def test_an_object_is_found_in_each_study_that_it_came_in(custody: Custody) -> None:
    uids = [f"1.{study}" for study in range(40)]
    custody.append(
        Happening(Event.RECEIVED, uid, "9.9" if uid in uids[::13] else "8") for uid in uids
    )
    of_object = custody.of_instance("9.9")
    assert [record.study_instance_uid for record in of_object] == uids[::13]
    assert not custody.of_instance("9.9.9")


def test_a_record_is_rolled_back_with_its_transaction(catalog: Catalog, custody: Custody) -> None:
    custody.append(RECORDS[:1])

    def fails(cursor: DBAPICursor) -> None:
        custody.enter(cursor, RECORDS[1:3])
        raise ValueError("after all")

    with pytest.raises(CatalogError):
        catalog.transact(fails)
    custody.append(RECORDS[1:])
    assert custody.of_study(STUDY) == chain(RECORDS)


def test_what_is_appended_beside_a_change_that_fails_is_recorded_once(
    catalog: Catalog, custody: Custody
) -> None:
    def fails(cursor: DBAPICursor) -> None:
        raise ValueError("nothing to do with custody")

    def refused() -> None:
        with pytest.raises(CatalogError):
            catalog.transact(fails)

    def recorded() -> None:
        custody.append(each for each in RECORDS)

    queue: Any = catalog._opened()._queue
    threads = [threading.Thread(target=change) for change in (recorded, refused)]
    with held_writer(catalog, entry()):
        for thread in threads:
            thread.start()
        # Both are in the queue, for one transaction, when the writer goes on.
        eventually(lambda: queue.qsize() == 2)
    for thread in threads:
        thread.join()
    assert custody.of_study(STUDY) == chain(RECORDS)


def test_records_are_kept_when_the_archive_is_emptied_or_made_anew(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path)
    with Catalog(url, synchronous="OFF") as catalog:
        add(catalog, entry())
        Custody(catalog).append(RECORDS)
        catalog.truncate()
    changed = sqlite3.connect(tmp_path / "index.sqlite")
    changed.execute("UPDATE meta SET value = ?", (SCHEMA_VERSION - 1,))
    changed.commit()
    changed.close()
    with Catalog(url, synchronous="OFF") as catalog:
        assert catalog.rebuilt_from
        assert Custody(catalog).of_study(STUDY) == chain(RECORDS)
        Custody(catalog).append(RECORDS)
        assert not found(Custody(catalog))


# -- what somebody changed in the database ---------------------------------------------------------


@pytest.fixture
def changed(tmp_path: Path, catalog: Catalog, custody: Custody) -> Iterator[Callable[..., None]]:
    """Return what changes the database behind the node's back."""
    custody.append(RECORDS)
    database = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    database.text_factory = bytes
    database.execute("PRAGMA synchronous = OFF")
    yield database.execute
    database.close()


COLUMNS = ("at", "event", "study_instance_uid", "sop_instance_uid", "details", "hash")


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("sequence", [1, 4, 7])
def test_each_changed_byte_is_found(
    changed: Callable[..., sqlite3.Cursor], custody: Custody, column: str, sequence: int
) -> None:
    cast = "BLOB" if column == "hash" else "TEXT"
    where = f"WHERE sequence = {sequence}"
    value = changed(f"SELECT CAST({column} AS BLOB) FROM custody {where}").fetchone()[0]
    for position in range(len(value)):
        for flip in (1, 0x80):
            other = bytearray(value)
            other[position] ^= flip
            changed(f"UPDATE custody SET {column} = CAST(? AS {cast}) {where}", (bytes(other),))
            assert sequence in found(custody), (position, flip)
    for other in (value[:-1], value + b" ", b"", value[::-1], None):
        if other is not None and other != value:
            changed(f"UPDATE custody SET {column} = CAST(? AS {cast}) {where}", (other,))
            assert sequence in found(custody)
    changed(f"UPDATE custody SET {column} = CAST(? AS {cast}) {where}", (value,))
    assert not found(custody)


@pytest.mark.parametrize(
    ("statement", "sequence"),
    [
        ("DELETE FROM custody WHERE sequence = 1", 2),
        ("DELETE FROM custody WHERE sequence = 4", 5),
        ("DELETE FROM custody WHERE sequence IN (3, 4)", 5),
        ("UPDATE custody SET sequence = 8 WHERE sequence = 4", 5),
        ("UPDATE custody SET sequence = 0 WHERE sequence = 1", 0),
        ("UPDATE custody SET sequence = -3 WHERE sequence = 1", -3),
        ("UPDATE custody SET sequence = 9000000000000000000 WHERE sequence = 7", 9 * 10**18),
        ("UPDATE custody SET sequence = 9 - sequence WHERE 0", None),
        ("INSERT INTO custody SELECT 8, at, event, study_instance_uid, sop_instance_uid, details,"
         " hash FROM custody WHERE sequence = 7", 8),
        ("INSERT INTO custody SELECT 0, at, event, study_instance_uid, sop_instance_uid, details,"
         " hash FROM custody WHERE sequence = 7", 0),
        ("UPDATE custody SET details = CAST(details AS BLOB) WHERE sequence = 4", 4),
        ("UPDATE custody SET details = 5 WHERE sequence = 4", 4),
        ("UPDATE custody SET hash = 'abc' WHERE sequence = 4", 4),
    ],
)  # fmt: skip
def test_removed_added_and_moved_records_are_found(
    changed: Callable[..., object], custody: Custody, statement: str, sequence: int | None
) -> None:
    changed(statement)
    assert (sequence in found(custody)) if sequence is not None else not found(custody)


def test_swapped_records_are_found(changed: Callable[..., object], custody: Custody) -> None:
    for old, new in ((3, 100), (4, 3), (100, 4)):
        changed("UPDATE custody SET sequence = ? WHERE sequence = ?", (new, old))
    assert found(custody)[:2] == [3, 4]


def test_a_cut_end_or_a_chain_written_anew_differs_from_what_was_noted(
    changed: Callable[..., object], custody: Custody
) -> None:
    noted = custody.head()
    assert not list(custody.check([noted, (0, "0" * 64)]))
    changed("DELETE FROM custody WHERE sequence > 5")
    assert not found(custody)
    assert [fault.sequence for fault in custody.check([noted])] == [7]
    changed("DELETE FROM custody")
    custody.append([*RECORDS[:6], happening(3, Event.DELETED, reason="nobody knows")])
    assert not found(custody)
    assert [fault.sequence for fault in custody.check([noted])] == [7]


def test_a_changed_record_is_not_shown_as_if_it_were_one(
    changed: Callable[..., object], custody: Custody
) -> None:
    changed("UPDATE custody SET event = 'sold' WHERE sequence = 4")
    with pytest.raises(CatalogError, match="custody record 4"):
        custody.of_study(STUDY)


def test_a_record_hidden_from_the_index_of_the_table_is_found(
    tmp_path: Path, changed: Callable[..., object], custody: Custody, catalog: Catalog
) -> None:
    changed("PRAGMA writable_schema = ON")
    changed(
        "UPDATE sqlite_master SET sql = sql || ' WHERE sequence <> 4'"
        " WHERE name = 'custody_by_study'"
    )
    changed("PRAGMA writable_schema = OFF")
    changed("PRAGMA wal_checkpoint")
    catalog.close()
    database = sqlite3.connect(tmp_path / "index.sqlite")
    database.execute("REINDEX custody_by_study")
    database.execute("PRAGMA writable_schema = ON")
    database.execute(
        "UPDATE sqlite_master SET sql = replace(sql, ' WHERE sequence <> 4', '')"
        " WHERE name = 'custody_by_study'"
    )
    database.commit()
    database.close()
    assert found(custody)
