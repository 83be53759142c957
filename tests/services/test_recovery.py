"""Recovery: after any crash, index and files agree, and nothing that was stored is lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.archive import recording
from dicomnode.errors import CatalogError, OutOfResources
from dicomnode.index.catalog import Catalog, InstanceEntry
from dicomnode.index.scrubbing import ScrubReport
from dicomnode.observe.logs import Logger
from dicomnode.services import recovery
from dicomnode.services.custody import Custodian
from dicomnode.services.recovery import RecoveryReport, rebuild, reconcile
from dicomnode.settings import Settings
from dicomnode.storage.files import FileStore
from dicomnode.storage.header import HEADER_END
from dicomnode.storage.incoming import IncomingFile
from dicomnode.storage.part10 import file_meta
from tests.index.entries import add, entry, sqlite_url
from tests.storage.damage import flip_bit
from tests.storage.objects import CT_STORAGE, EXPLICIT, data_set, encoded


class Lines:
    """A log that keeps its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, message: str, **fields: object) -> None:
        self.warnings.append(message)

    error = warning


@pytest.fixture
def files(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path, durability="relaxed") as files:
        yield files


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        yield catalog


@pytest.fixture
def lines() -> Lines:
    return Lines()


def reconciled(
    files: FileStore, catalog: Catalog, lines: Lines, custodian: Custodian | None = None
) -> RecoveryReport:
    log: Logger = lines  # type: ignore[assignment]
    return reconcile(files, catalog, log=log, custodian=custodian)


def arriving(files: FileStore, data: bytes, uid: str = "1.2.3.4.1") -> IncomingFile:
    file = files.begin(file_meta(CT_STORAGE, uid, EXPLICIT, source_ae_title="CT_1"))
    file.append([memoryview(data)])
    return file


def placed(files: FileStore, number: int = 1, study: str = "1.2.3", series: str = "1.2.3.4") -> str:
    data = encoded(data_set(number, study, series))
    return arriving(files, data, f"{series}.{number}").place(study, series, f"{series}.{number}")


def stored(files: FileStore, catalog: Catalog, number: int = 1, study: str = "1.2.3") -> str:
    path = placed(files, number, study, f"{study}.4")
    add(catalog, entry(number, study, f"{study}.4"))
    return path


def test_where_everything_agrees_nothing_is_opened_or_changed(
    files: FileStore, catalog: Catalog, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        stored(files, catalog, number, f"1.{number % 3}")
    monkeypatch.setattr(files, "open_object", None)
    assert reconciled(files, catalog, lines) == RecoveryReport()
    assert lines.warnings == []
    assert catalog.counts().instances == 20


def test_a_file_without_its_row_is_indexed_as_if_it_had_just_been_stored(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    stored(files, catalog, 1, "1.1")
    path = placed(files, 2, "1.2", "1.2.4")
    stored(files, catalog, 3, "1.3")
    os.utime(files.abs_path(path), (1.0e9, 1.0e9))
    assert reconciled(files, catalog, lines).orphans_indexed == 1
    data = encoded(data_set(2, "1.2", "1.2.4"))
    row = catalog.get("1.2.4.2")
    assert row is not None
    assert (row.path, row.source_ae, row.transfer_syntax_uid) == (path, "CT_1", EXPLICIT)
    assert row.sha256 == hashlib.sha256(data).hexdigest()
    whole = Path(files.abs_path(path)).read_bytes()
    assert row.file_sha256 == hashlib.sha256(whole).hexdigest()
    assert row.data_set_bytes == len(data)
    assert row.size_bytes == os.path.getsize(files.abs_path(path))
    assert row.received_at == 1.0e9
    assert reconciled(files, catalog, lines) == RecoveryReport()


def test_an_index_that_is_gone_is_built_again_at_the_start(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    for number in range(600):
        placed(files, number, f"1.{number % 7}", f"1.{number % 7}.4")
    assert reconciled(files, catalog, lines).orphans_indexed == 600
    counts = catalog.counts()
    assert (counts.studies, counts.instances) == (7, 600)


def test_rows_without_a_file_are_reported_and_kept(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    for study in ("1.1", "1.2", "1.3", "1.4"):
        stored(files, catalog, 1, study)
    gone = [stored(files, catalog, 2, study) for study in ("1.1", "1.4")]
    gone.append(stored(files, catalog, 1, "1.5"))
    for path in gone:
        files.remove(path)
    report = reconciled(files, catalog, lines)
    assert report == RecoveryReport(rows_without_file=3, problems=lines.warnings)
    assert {line.rsplit(" ", 1)[1] for line in lines.warnings} == set(gone)
    assert catalog.counts().instances == 7


def test_a_file_that_cannot_be_understood_is_parked_and_reported(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    path = placed(files, 1)
    Path(files.abs_path(path)).write_bytes(b"rubbish")
    good = placed(files, 2)
    report = reconciled(files, catalog, lines)
    assert (report.unreadable, report.orphans_indexed) == (1, 1)
    assert path in lines.warnings[0] and "quarantine/1.2.3.4.1." in lines.warnings[0]
    assert not os.path.exists(files.abs_path(path))
    assert os.path.exists(files.abs_path(good))


def test_a_file_under_another_objects_name_is_parked(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    path = placed(files)
    os.rename(files.abs_path(path), files.abs_path(path.replace("4.1.dcm", "4.9.dcm")))
    assert reconciled(files, catalog, lines).unreadable == 1
    assert "not that of its UIDs" in lines.warnings[0]


def test_a_uid_that_is_held_elsewhere_is_parked_while_the_holder_has_its_file(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    stored(files, catalog)
    second = encoded(data_set(1, "9.9", "9.9.1", SOPInstanceUID="1.2.3.4.1"))
    arriving(files, second).place("9.9", "9.9.1", "1.2.3.4.1")
    report = reconciled(files, catalog, lines)
    assert (report.unreadable, report.orphans_indexed) == (1, 0)
    row = catalog.get("1.2.3.4.1")
    assert row is not None and row.study_instance_uid == "1.2.3"


def test_a_uid_whose_file_is_only_elsewhere_is_taken_from_there(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    files.remove(stored(files, catalog))
    second = encoded(data_set(1, "9.9", "9.9.1", SOPInstanceUID="1.2.3.4.1"))
    path = arriving(files, second).place("9.9", "9.9.1", "1.2.3.4.1")
    assert reconciled(files, catalog, lines).orphans_indexed == 1
    row = catalog.get("1.2.3.4.1")
    assert row is not None and row.path == path


def test_a_file_that_cannot_be_read_stays_and_the_others_are_indexed(
    files: FileStore, catalog: Catalog, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, _ = placed(files, 1), placed(files, 2)
    real = files.open_object

    def broken(rel: str) -> int:
        if rel == bad:
            raise OutOfResources("disk input/output error")
        return real(rel)

    monkeypatch.setattr(files, "open_object", broken)
    report = reconciled(files, catalog, lines)
    assert (report.unreadable, report.orphans_indexed) == (1, 1)
    assert "input/output" in lines.warnings[0]
    assert os.path.exists(files.abs_path(bad))


def test_what_is_no_object_is_left_alone(files: FileStore, catalog: Catalog, lines: Lines) -> None:
    path = Path(files.abs_path(stored(files, catalog)))
    for foreign in (path.parent / "notes.txt", path.parents[1] / "x.dcm", path.parents[3] / "y"):
        foreign.write_text("not ours")
    assert reconciled(files, catalog, lines) == RecoveryReport()


def test_many_problems_are_counted_and_the_first_hundred_said(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    for number in range(130):
        add(catalog, entry(number))
    report = reconciled(files, catalog, lines)
    assert report.rows_without_file == 130
    assert len(report.problems) == len(lines.warnings) == 100


# -- what was arriving -----------------------------------------------------------------------------


def test_what_was_arriving_is_removed_and_whole_objects_are_parked(
    tmp_path: Path, catalog: Catalog, lines: Lines
) -> None:
    data = encoded(data_set(BitsAllocated=8, PixelData=bytes(5000)))
    with FileStore(tmp_path, durability="relaxed") as crashed:
        for part in (b"", data[:100], data[:-1], data):
            os.close(arriving(crashed, part).fd)
    with FileStore(tmp_path, durability="relaxed") as files:
        report = reconciled(files, catalog, lines)
        assert (report.temps_removed, report.temps_quarantined) == (3, 1)
        assert os.listdir(tmp_path / "incoming") == []
        (kept,) = (tmp_path / "quarantine").glob("1.2.3.4.1.*.dcm")
        assert kept.read_bytes().endswith(data)
    assert catalog.counts().instances == 0


def test_a_leftover_of_an_object_that_is_stored_is_only_removed(
    tmp_path: Path, catalog: Catalog, lines: Lines
) -> None:
    """Its file has been written anew from the index."""
    with FileStore(tmp_path, durability="relaxed") as crashed:
        stored(crashed, catalog)
        os.close(arriving(crashed, encoded(data_set(1, "1.2.3", "1.2.3.4"))).fd)
        os.close(arriving(crashed, encoded(data_set(2, "1.2.3", "1.2.3.4"))).fd)
    with FileStore(tmp_path, durability="relaxed") as files:
        report = reconciled(files, catalog, lines)
        assert (report.temps_removed, report.temps_quarantined) == (1, 1)


def test_a_leftover_that_has_its_name_already_is_only_removed(
    tmp_path: Path, catalog: Catalog, lines: Lines
) -> None:
    with FileStore(tmp_path, durability="relaxed") as files:
        os.link(files.abs_path(placed(files)), tmp_path / "incoming" / "0-1.part")
        report = reconciled(files, catalog, lines)
        assert (report.temps_removed, report.orphans_indexed) == (1, 1)
        assert os.listdir(tmp_path / "quarantine") == []


def test_a_replacement_that_a_crash_cut_short_is_indexed_as_the_file_that_is_there(
    tmp_path: Path, catalog: Catalog, lines: Lines
) -> None:
    other = encoded(data_set(PatientName="Other"))
    with FileStore(tmp_path, durability="relaxed") as crashed:
        path = placed(crashed)
        with recording(Settings(), catalog) as custodian:
            assert reconciled(crashed, catalog, lines, custodian).orphans_indexed == 1
        newcomer = arriving(crashed, other)
        newcomer.place_over("1.2.3", "1.2.3.4", "1.2.3.4.1")
        os.close(newcomer.fd)
    with (
        FileStore(tmp_path, durability="relaxed") as files,
        recording(Settings(), catalog) as custodian,
    ):
        report = reconciled(files, catalog, lines, custodian)
        assert (report.orphans_indexed, report.temps_removed, report.damaged) == (1, 1, 0)
        assert custodian is not None
        told = custodian.custody.of_instance("1.2.3.4.1", "1.2.3")
        assert [record.event.value for record in told] == ["entered", "replaced"]
        row = catalog.get("1.2.3.4.1")
        assert row is not None and row.sha256 == hashlib.sha256(other).hexdigest()
        assert files.digest_file(path) == row.sha256
        assert reconciled(files, catalog, lines) == RecoveryReport()


def test_files_are_made_durable_before_a_row_says_that_they_are(
    files: FileStore, catalog: Catalog, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who put an orphan there may have died between its name and the flush of the directory."""
    rows_before: list[int] = []
    durable = lambda: rows_before.append(catalog.counts().instances)  # noqa: E731
    monkeypatch.setattr(files, "make_durable", durable)
    assert reconciled(files, catalog, lines) == RecoveryReport()
    assert rows_before == [], "nothing to enter, nothing to flush"
    for number in range(3):
        placed(files, number)
    assert reconciled(files, catalog, lines).orphans_indexed == 3
    assert rows_before == [0]


def test_an_index_whose_objects_cannot_be_written_is_said_and_never_emptied(
    files: FileStore, tmp_path: Path, lines: Lines
) -> None:
    def full(rows: object) -> int:
        raise OutOfResources("disk full")

    with Catalog(sqlite_url(tmp_path), synchronous="FULL") as left:
        add(left, entry(), b"contents")
    catalog = Catalog(sqlite_url(tmp_path), synchronous="FULL")
    catalog.open(full)
    with pytest.raises(CatalogError, match=r"only copy of 1 objects.*disk full"):
        rebuild(files, catalog)
    assert catalog.counts().unsettled == 1
    reconciled(files, catalog, lines)
    assert "only the index has" in lines.warnings[0]
    catalog.close()


# -- reindex ---------------------------------------------------------------------------------------


def test_reindexing_empties_the_index_and_enters_every_file(
    files: FileStore, catalog: Catalog
) -> None:
    add(catalog, entry(99, "8.8", "8.8.8"))
    for number in range(30):
        placed(files, number, f"1.{number % 3}", f"1.{number % 3}.4")
    steps: list[tuple[int, int | None]] = []
    report = rebuild(files, catalog, lambda done, total: steps.append((done, total)))
    assert report.orphans_indexed == 30
    assert steps == [(number, 30) for number in range(1, 31)]
    assert catalog.counts().instances == 30
    assert catalog.get("8.8.8.99") is None
    assert "files indexed 30" in str(report)


def test_an_index_that_fails_ends_the_recovery_with_its_error(
    files: FileStore, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(400):
        placed(files, number)

    def fail(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(recovery, "_OUTSTANDING", 8)
    catalog.truncate()
    monkeypatch.setattr(catalog._backend, "begin", fail)
    monkeypatch.setattr(catalog, "truncate", lambda: None)
    with pytest.raises(CatalogError, match="disk is full"):
        rebuild(files, catalog)


def test_an_index_of_another_version_is_announced(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    placed(files)
    catalog.rebuilt_from = "0"
    assert reconciled(files, catalog, lines).orphans_indexed == 1
    assert "another version" in lines.warnings[0]


# -- damage ----------------------------------------------------------------------------------------


def whole_store(files: FileStore, catalog: Catalog, lines: Lines) -> list[str]:
    paths = [placed(files, number, "1.2", "1.2.4") for number in range(3)]
    reconciled(files, catalog, lines)
    return paths


@pytest.mark.parametrize("at", [0, 400], ids=["preamble", "data set"])
def test_reindexing_does_not_take_a_damaged_file_for_what_was_received(
    files: FileStore, catalog: Catalog, lines: Lines, at: int
) -> None:
    paths = whole_store(files, catalog, lines)
    before = catalog.get("1.2.4.1")
    assert before is not None
    flip_bit(files.abs_path(paths[1]), at)
    for _ in range(2):  # whoever reindexes twice learns no other
        report = rebuild(files, catalog)
        assert (report.orphans_indexed, report.damaged) == (3, 1)
        assert f"{paths[1]} is damaged" in report.problems[0]
        after = catalog.get("1.2.4.1")
        assert after is not None
        assert (after.sha256, after.file_sha256) == (before.sha256, before.file_sha256)
    flip_bit(files.abs_path(paths[1]), at)
    assert rebuild(files, catalog).damaged == 0


def test_a_file_that_was_missing_at_a_reindex_is_compared_when_it_comes_back(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    paths = whole_store(files, catalog, lines)
    aside = files.abs_path("quarantine/aside")
    os.rename(files.abs_path(paths[2]), aside)
    assert rebuild(files, catalog).orphans_indexed == 2
    os.rename(aside, files.abs_path(paths[2]))
    flip_bit(files.abs_path(paths[2]), 0)
    assert reconciled(files, catalog, lines).damaged == 1


@pytest.mark.parametrize(("at", "damaged"), [(None, 0), (400, 1)])
def test_what_an_index_of_version_3_said_of_objects_is_not_forgotten(
    files: FileStore, catalog: Catalog, lines: Lines, tmp_path: Path, at: int | None, damaged: int
) -> None:
    """It had digests of data sets alone."""
    paths = whole_store(files, catalog, lines)
    before = catalog.get("1.2.4.1")
    assert before is not None
    catalog.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as index, index:
        index.execute("UPDATE meta SET value = '3'")
        index.execute("ALTER TABLE instance DROP COLUMN file_sha256")
    if at is not None:
        flip_bit(files.abs_path(paths[1]), at)
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as upgraded:
        assert upgraded.rebuilt_from == "3"
        assert reconciled(files, upgraded, lines).damaged == damaged
        after = upgraded.get("1.2.4.1")
        assert after is not None and after.sha256 == before.sha256
        assert after.file_sha256 == ("" if damaged else before.file_sha256)


class Forwards:
    """Decides what is forwarded, and remembers what it was asked about."""

    header_end = HEADER_END

    def __init__(self) -> None:
        self.asked: list[str] = []

    def attachment(self, entry: InstanceEntry) -> None:
        self.asked.append(entry.sop_instance_uid)


@pytest.mark.parametrize("broken_off", ["before the start", "reindexing"])
def test_what_is_entered_anew_is_not_forwarded_though_that_was_broken_off(
    tmp_path: Path, files: FileStore, lines: Lines, broken_off: str
) -> None:
    placed(files, 1, "1.2", "1.2.4")
    url = sqlite_url(tmp_path)
    if broken_off == "reindexing":
        with Catalog(url, synchronous="OFF") as catalog:
            reconcile(files, catalog, log=lines)  # type: ignore[arg-type]
            catalog.truncate()
    else:
        # A command such as `dicomnode worklist` makes the index, and enters nothing.
        Catalog(url, synchronous="OFF").__enter__().close()
    forwards = Forwards()
    with Catalog(url, synchronous="OFF") as catalog:
        reconcile(files, catalog, log=lines, forwarding=forwards)  # type: ignore[arg-type]
        assert catalog.counts().instances == 1 and forwards.asked == []
    placed(files, 2, "1.2", "1.2.4")
    with Catalog(url, synchronous="OFF") as catalog:
        reconcile(files, catalog, log=lines, forwarding=forwards)  # type: ignore[arg-type]
        assert forwards.asked == ["1.2.4.2"], "a crash left it between its file and its row"


def test_a_custody_record_that_somebody_has_changed_says_nothing_of_a_file(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    placed(files, 1, "1.2", "1.2.4")
    with recording(Settings(), catalog) as custodian:
        assert custodian is not None
        reconciled(files, catalog, lines, custodian)
        before = catalog.get("1.2.4.1")
        catalog.truncate()
        for change in ("DELETE FROM earlier_digest", "UPDATE custody SET details = 'rubbish'"):
            catalog.transact(lambda cursor, change=change: cursor.execute(change) and None)  # type: ignore[misc]
        assert reconciled(files, catalog, lines, custodian).damaged == 0
    assert catalog.get("1.2.4.1") == before


def test_damage_is_told_by_the_custody_log_where_nothing_else_knows_of_the_object(
    files: FileStore, catalog: Catalog, lines: Lines
) -> None:
    paths = [placed(files, number, "1.2", "1.2.4") for number in range(3)]
    with recording(Settings(), catalog) as custodian:
        assert custodian is not None
        reconciled(files, catalog, lines, custodian)
        before = catalog.get("1.2.4.1")
        catalog.truncate()
        catalog.transact(lambda cursor: cursor.execute("DELETE FROM earlier_digest") and None)
        flip_bit(files.abs_path(paths[1]), 400)
        assert reconciled(files, catalog, lines, custodian).damaged == 1
        after = catalog.get("1.2.4.1")
        assert before is not None and after is not None
        assert after.file_sha256 == before.file_sha256
        told = custodian.custody.of_instance("1.2.4.1", "1.2")
        assert [record.event.value for record in told] == ["entered", "damaged"]
    report = ScrubReport(catalog.read, catalog.byte_collation)
    assert [each.path for each in report.bad_files(10)] == [paths[1]]
