"""The index: one row for each thing, durable before anyone is told, and cheap to ask."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sqlalchemy.dialects import postgresql

from dicomnode.errors import CatalogError
from dicomnode.index import schema, series_paths
from dicomnode.index.catalog import (
    Added,
    AlreadyHeld,
    Catalog,
    Counts,
    InstanceEntry,
)
from dicomnode.index.writer import Operation
from tests.index.entries import add, entry, held_writer, remove, replace, sqlite_url, waited


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        yield catalog


def rows(tmp_path: Path, statement: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


# -- adding ----------------------------------------------------------------------------------------


def test_what_was_added_is_found_with_all_that_was_said_of_it(catalog: Catalog) -> None:
    new = entry()
    assert add(catalog, new) == Added()
    row = catalog.get("1.2.3.4.1")
    assert row is not None
    for name in row.__slots__:
        assert getattr(row, name) == getattr(new, name), name
    assert catalog.get("1.2.3.4.2") is None


def test_every_key_reaches_the_row_of_its_level(tmp_path: Path, catalog: Catalog) -> None:
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.ScheduledProcedureStepID = "SPS1"
    new = entry(
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Müller^Jörg^^=山田",
        OtherPatientIDs=["A", "B"],
        StudyDate="2024.01.31",
        StudyTime="10:20:30",
        SeriesNumber=7,
        ImageType=["ORIGINAL", "PRIMARY"],
        Rows=512,
        RequestAttributesSequence=Sequence([request]),
    )
    add(catalog, new)
    assert rows(
        tmp_path,
        "SELECT patient_id, patient_name, patient_name_alphabetic, patient_name_ideographic,"
        " other_patient_ids FROM patient",
    ) == [("4711", "Müller^Jörg^^=山田", "muller^jorg", "山田", "A\\B")]
    assert rows(tmp_path, "SELECT study_instance_uid, study_date, study_time FROM study") == [
        ("1.2.3", "20240131", "102030")
    ]
    ((number, modality, requests),) = rows(
        tmp_path, "SELECT series_number, modality, request_attributes FROM series"
    )
    assert (number, modality) == (7, "CT")
    assert json.loads(requests) == [
        {"RequestedProcedureID": "RP1", "ScheduledProcedureStepID": "SPS1"}
    ]
    assert rows(
        tmp_path, "SELECT instance_number, image_type, rows, number_of_frames FROM instance"
    ) == [(1, "ORIGINAL\\PRIMARY", 512, None)]


def test_the_same_uid_changes_nothing_and_is_told_what_is_held(catalog: Catalog) -> None:
    add(catalog, entry())
    held = catalog.get("1.2.3.4.1")
    before = catalog.counts()
    for again in (entry(), entry(PatientName="Other")):
        assert add(catalog, again) == AlreadyHeld(held)
    assert catalog.counts() == before


def test_a_uid_held_in_another_study_makes_no_empty_study(catalog: Catalog) -> None:
    add(catalog, entry())
    elsewhere = entry(study="9.9", series="9.9.1", SOPInstanceUID="1.2.3.4.1")
    assert isinstance(add(catalog, elsewhere), AlreadyHeld)
    assert catalog.counts().studies == 1


def test_a_series_uid_used_in_two_studies_is_a_series_in_each(catalog: Catalog) -> None:
    add(catalog, entry(1))
    add(catalog, entry(2, study="9.9"))
    assert catalog.counts().series == 2
    assert [path for path, _ in catalog.series_paths()] == sorted(
        entry(study=study).path.rsplit("/", 1)[0] for study in ("1.2.3", "9.9")
    )


def test_first_objects_of_one_study_from_many_threads_make_one_row(catalog: Catalog) -> None:
    outcomes: list[object] = []
    barrier = threading.Barrier(8)

    def store(number: int) -> None:
        barrier.wait()
        outcomes.append(add(catalog, entry(number)))

    threads = [threading.Thread(target=store, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [Added()] * 8
    counts = catalog.counts()
    assert (counts.patients, counts.studies, counts.series, counts.instances) == (1, 1, 1, 8)


def test_the_outcome_is_told_after_the_commit(tmp_path: Path, catalog: Catalog) -> None:
    seen: list[int] = []

    def start(done: Any) -> None:
        def told(outcome: object) -> None:
            seen.append(len(rows(tmp_path, "SELECT 1 FROM instance")))
            done(outcome)

        catalog.add(entry(), told)

    waited(start)
    assert seen == [1]


def test_a_failing_entry_does_not_fail_its_neighbours(tmp_path: Path, catalog: Catalog) -> None:
    finished = threading.Semaphore(0)
    outcomes: dict[int, object] = {}
    bad = entry(2, study="5.5")
    object.__setattr__(bad, "size_bytes", object())
    # What is queued while the writer is busy is one batch.
    with held_writer(catalog, entry(100)):
        for number, new in enumerate([entry(1), bad, entry(3)]):

            def done(outcome: object, number: int = number) -> None:
                outcomes[number] = outcome
                finished.release()

            catalog.add(new, done)
    for _ in range(3):
        assert finished.acquire(timeout=20)
    assert outcomes[0] == outcomes[2] == Added()
    assert isinstance(outcomes[1], CatalogError)
    assert catalog.counts().studies == 1
    assert rows(tmp_path, "SELECT count(*) FROM study") == [(1,)]


def test_a_listener_that_fails_does_not_stop_the_writer(catalog: Catalog) -> None:
    def fails(outcome: object) -> None:
        raise ValueError("listener")

    catalog.add(entry(1), fails)
    assert add(catalog, entry(2)) == Added()


def test_a_database_that_fails_is_told_as_such_and_may_recover(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(catalog._backend, "begin", fail)
        outcome = add(catalog, entry(1))
    assert isinstance(outcome, CatalogError)
    assert "disk is full" in str(outcome)
    assert add(catalog, entry(1)) == Added()


def test_what_is_queued_is_committed_before_closing(tmp_path: Path) -> None:
    told: list[object] = []
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        for number in range(500):
            catalog.add(entry(number), told.append)
    assert told == [Added()] * 500
    assert rows(tmp_path, "SELECT count(*) FROM instance") == [(500,)]


def test_adding_after_the_end_is_an_error_and_not_a_silence(tmp_path: Path) -> None:
    catalog = Catalog(sqlite_url(tmp_path), synchronous="OFF")
    with pytest.raises(CatalogError):
        catalog.counts()
    catalog.open()
    catalog.close()
    catalog.close()
    assert isinstance(add(catalog, entry()), CatalogError)


# -- replacing and removing ------------------------------------------------------------------------


def test_a_replacement_takes_the_place_even_in_another_study(catalog: Catalog) -> None:
    add(catalog, entry())
    held = catalog.get("1.2.3.4.1")
    newcomer = entry(study="9.9", series="9.9.1", SOPInstanceUID="1.2.3.4.1", Rows=512)
    assert replace(catalog, newcomer) == Added(replaced=held)
    row = catalog.get("1.2.3.4.1")
    assert row is not None and row.path == newcomer.path
    assert catalog.counts() == Counts(1, 1, 1, 1, newcomer.size_bytes)


def test_replacing_nothing_is_adding(catalog: Catalog) -> None:
    assert replace(catalog, entry()) == Added()
    assert catalog.counts().instances == 1


def test_removing_the_last_object_removes_what_it_was_of(tmp_path: Path, catalog: Catalog) -> None:
    add(catalog, entry(1))
    add(catalog, entry(2))
    first = catalog.get("1.2.3.4.1")
    assert remove(catalog, "1.2.3.4.1") == first
    assert catalog.counts().studies == 1
    remove(catalog, "1.2.3.4.2")
    assert catalog.counts() == Counts()
    for table in ("patient", "study", "series", "instance"):
        assert rows(tmp_path, f"SELECT * FROM {table}") == []
    assert remove(catalog, "1.2.3.4.2") is None
    assert add(catalog, entry(1)) == Added()


def test_truncating_leaves_nothing(catalog: Catalog) -> None:
    for number in range(3):
        add(catalog, entry(number, study=f"1.{number}"))
    catalog.truncate()
    assert catalog.counts() == Counts()
    assert list(catalog.series_paths()) == []
    assert add(catalog, entry(1)) == Added()


# -- reading ---------------------------------------------------------------------------------------


def test_counts_are_the_same_after_opening_again(tmp_path: Path) -> None:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        for number in range(10):
            add(catalog, entry(number, f"1.{number % 4}", f"1.{number % 4}.{number % 2}"))
        remove(catalog, "1.1.1.1")
        before = catalog.counts()
    assert before.studies == 4 and before.instances == 9
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        assert catalog.counts() == before


def test_paths_come_series_by_series_in_order(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(series_paths, "_STUDIES_PER_STEP", 3)
    for number in range(40):
        study = f"1.{number % 8}"
        add(catalog, entry(number, study, f"{study}.{number % 3}"))
    found = list(catalog.series_paths())
    directories = [directory for directory, _ in found]
    assert directories == sorted(directories, key=lambda path: path.rsplit("/", 1))
    assert len(directories) == 24
    paths = {path: uid for _, group in found for path, uid in group.items()}
    assert len(paths) == 40
    for path, uid in paths.items():
        row = catalog.get(uid)
        assert row is not None and row.path == path


def test_readers_in_many_threads_do_not_wait_for_the_writer(catalog: Catalog) -> None:
    add(catalog, entry(0))
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(catalog.get("1.2.3.4.0"))) for _ in range(12)
    ]
    with held_writer(catalog, entry(1)):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 12 and None not in found
    catalog.check()


# -- opening ---------------------------------------------------------------------------------------


def test_tables_of_another_version_are_replaced_by_empty_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        assert catalog.rebuilt_from is None
        add(catalog, entry())
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 999)
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        assert catalog.rebuilt_from is not None
        assert catalog.counts() == Counts()
        add(catalog, entry())
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        assert catalog.rebuilt_from is None
        assert catalog.counts().instances == 1


def test_a_damaged_database_says_that_it_can_be_built_anew(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(CatalogError, match="reindex"):
        Catalog(sqlite_url(tmp_path), synchronous="FULL").open()


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("OFF", 0)])
def test_commits_are_as_durable_as_asked(tmp_path: Path, synchronous: Any, level: int) -> None:
    with Catalog(sqlite_url(tmp_path), synchronous=synchronous) as catalog:
        levels: list[Any] = []

        def look(cursor: Any) -> None:
            levels.append(cursor.execute("PRAGMA synchronous").fetchone()[0])
            levels.append(cursor.execute("PRAGMA journal_mode").fetchone()[0])

        waited(lambda done: catalog._submit(Operation(look, done)))
    assert levels == [level, "wal"]


def test_the_tables_can_be_made_in_postgresql() -> None:
    from sqlalchemy.schema import CreateTable

    for table in schema.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


def test_an_entry_takes_its_uids_from_the_header() -> None:
    new: InstanceEntry = entry(3)
    assert new.sop_instance_uid == "1.2.3.4.3"
    assert (new.study_instance_uid, new.series_instance_uid) == ("1.2.3", "1.2.3.4")


def test_the_row_id_of_a_removed_object_is_not_given_to_another(catalog: Catalog) -> None:
    add(catalog, entry(1))
    held = catalog.select_instances({"SOPInstanceUID": ["1.2.3.4.1"]})
    remove(catalog, "1.2.3.4.1")
    add(catalog, entry(2))
    assert catalog.instance_rows(held) == []
    assert list(held) != list(catalog.select_instances({"SOPInstanceUID": ["1.2.3.4.2"]}))
