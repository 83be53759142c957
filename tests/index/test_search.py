"""Searches: what SQL finds is what the matches accept, and what they are told of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sqlalchemy import literal_column, select

from dicomnode.errors import CatalogError
from dicomnode.index import keys
from dicomnode.index.backend import Question
from dicomnode.index.catalog import Catalog, SearchStopped, Stop, Wanted
from dicomnode.index.conditions import Condition, combined_condition, condition
from dicomnode.index.entry import key_values
from dicomnode.index.keys import BY_KEYWORD, COMPUTED_KEYS, Level
from dicomnode.index.matching import BadKey, Items, combined, read_key
from dicomnode.index.reading import reading
from dicomnode.index.schema import study
from dicomnode.index.statements import value_columns
from dicomnode.storage.header import Header, read_identifier
from tests.index.entries import add, entry, sqlite_url
from tests.storage.objects import EXPLICIT, encoded

COMPUTED = {key.keyword: key for key in COMPUTED_KEYS}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        yield catalog


def where(**values: str) -> list[Condition]:
    made = []
    for keyword, value in values.items():
        key = BY_KEYWORD[keyword]
        match = read_key(key.vr, value.split("\\"), multiple=key.multiple)
        if match is not None:
            made.append(condition(key, match))
    return made


def found(catalog: Catalog, level: Level, *conditions: Condition, limit: int = 100) -> list[str]:
    """Return the unique keys of what is found."""
    ids = catalog.find(level, conditions, limit, Stop())
    unique = keys.UNIQUE_KEYS[level]
    return [row[0] for row in catalog.fetch(Wanted(level, (unique,)), ids, Stop())]


# -- SQL and the truth -------------------------------------------------------------------------

ALPHABET = "aAbBéÉß^=*?%_\\ 12山"
VALUES = st.text(ALPHABET, max_size=8)


def header(**values: object) -> Header:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return read_identifier(encoded(ds), EXPLICIT, 100_000)


class Judge:
    """A catalog of one object whose values are changed at will."""

    def __init__(self, directory: Path) -> None:
        self.catalog = Catalog(sqlite_url(directory), synchronous="OFF")
        self.catalog.open()
        add(self.catalog, entry())
        self.connection = sqlite3.connect(directory / "index.sqlite", isolation_level=None)

    def agrees(self, keyword: str, stored: object, key_value: str) -> None:
        key = BY_KEYWORD[keyword]
        try:
            match = read_key(key.vr, key_value.split("\\"), multiple=key.multiple)
        except BadKey:
            return
        if match is None:
            return
        values = key_values(header(**{keyword: stored}), (key,))
        names = value_columns((key,))
        assignments = ", ".join(f"{name} = ?" for name in names)
        self.connection.execute(f"UPDATE {key.level.name.lower()} SET {assignments}", values)
        ids = self.catalog.find(key.level, [condition(key, match)], 10, Stop())
        assert bool(ids) == match.accepts(values[0]), (keyword, stored, key_value)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    judge = Judge(tmp_path_factory.mktemp("judge"))
    yield judge
    judge.connection.close()
    judge.catalog.close()


often = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])


@often
@given(VALUES, VALUES, st.sampled_from(["PatientID", "StudyDescription", "OtherPatientIDs"]))
def test_sql_matches_text_as_the_truth_does(
    judge: Judge, stored: str, key: str, keyword: str
) -> None:
    judge.agrees(keyword, stored, key)


@often
@given(VALUES, VALUES, st.sampled_from(["PatientName", "OtherPatientNames"]))
def test_sql_matches_names_as_the_truth_does(
    judge: Judge, stored: str, key: str, keyword: str
) -> None:
    judge.agrees(keyword, stored, key)


@often
@given(st.data())
def test_sql_matches_what_was_stored(judge: Judge, data: st.DataObject) -> None:
    """Patterns made of the stored value, so that much matches."""
    keyword = data.draw(st.sampled_from(["PatientID", "PatientName", "OtherPatientNames"]))
    stored = data.draw(st.text("aBé^=山 ", min_size=1, max_size=6))
    key = "".join(data.draw(st.sampled_from([c, c.swapcase(), "?", "*", ""])) for c in stored)
    judge.agrees(keyword, stored, key)


DATES = st.sampled_from(["", "20240101", "20240131", "19700101", "20241231", "2024"])


@often
@given(DATES, DATES, DATES, st.sampled_from(["{0}-{1}", "{0}-", "-{1}", "{0}", "{0}\\{1}"]))
def test_sql_matches_dates_as_the_truth_does(
    judge: Judge, stored: str, first: str, last: str, form: str
) -> None:
    judge.agrees("StudyDate", stored, form.format(first, last))


TIMES = st.sampled_from(["", "10", "1030", "103059", "103059.5", "103059.999999", "11", "235960"])


@often
@given(TIMES, TIMES, TIMES, st.sampled_from(["{0}-{1}", "{0}-", "-{1}", "{0}", "{0}\\{1}"]))
def test_sql_matches_times_as_the_truth_does(
    judge: Judge, stored: str, first: str, last: str, form: str
) -> None:
    judge.agrees("StudyTime", stored, form.format(first, last))


@often
@given(
    st.sampled_from([None, 0, 7, -7, 2**31 - 1]),
    st.sampled_from(["7", "07", "-7", "0", '""', "7\\8", "99999999999"]),
)
def test_sql_matches_numbers_as_the_truth_does(judge: Judge, stored: int, key: str) -> None:
    judge.agrees("SeriesNumber", stored, key)


# -- levels ------------------------------------------------------------------------------------


def three_studies(catalog: Catalog) -> None:
    """One patient with a CT study of two series, and a second with a CT and an MR study."""
    add(catalog, entry(1, "1.1", "1.1.1", PatientID="P1", InstitutionName="North"))
    add(catalog, entry(2, "1.1", "1.1.1", PatientID="P1"))
    add(catalog, entry(1, "1.1", "1.1.2", PatientID="P1", Modality="SR", InstitutionName="West"))
    add(catalog, entry(1, "1.2", "1.2.1", PatientID="P2", StudyDate="20240131", StudyTime="1200"))
    add(
        catalog,
        entry(1, "1.3", "1.3.1", PatientID="P2", Modality="MR", SOPClassUID="1.9", StudyTime="13"),
    )


def test_each_level_is_found_by_keys_of_it_and_above(catalog: Catalog) -> None:
    three_studies(catalog)
    assert found(catalog, Level.PATIENT) == ["P1", "P2"]
    assert found(catalog, Level.STUDY, *where(PatientID="P2")) == ["1.2", "1.3"]
    assert found(catalog, Level.SERIES, *where(PatientID="P?", Modality="CT\\SR")) == [
        "1.1.1",
        "1.1.2",
        "1.2.1",
    ]
    assert found(catalog, Level.INSTANCE, *where(StudyInstanceUID="1.1", InstanceNumber="2")) == [
        "1.1.1.2"
    ]


def test_keys_below_the_level_match_by_anything_below_and_find_each_once(catalog: Catalog) -> None:
    three_studies(catalog)
    assert found(catalog, Level.PATIENT, *where(Modality="CT")) == ["P1", "P2"]
    assert found(catalog, Level.STUDY, *where(SOPInstanceUID="1.1.1.1\\1.1.1.2")) == ["1.1"]


def test_a_study_is_found_by_what_its_series_and_objects_are(catalog: Catalog) -> None:
    three_studies(catalog)

    def within(key: keys.Key, value: str) -> Condition:
        match = read_key(key.vr, value.split("\\"))
        assert match is not None
        return condition(key, match, within=Level.STUDY)

    ct, sr = (within(BY_KEYWORD["Modality"], value) for value in ("CT", "S*"))
    assert found(catalog, Level.STUDY, ct) == ["1.1", "1.2"]
    assert found(catalog, Level.STUDY, ct, sr) == ["1.1"]
    assert found(catalog, Level.SERIES, sr) == ["1.1.1", "1.1.2"]
    assert found(catalog, Level.STUDY, within(BY_KEYWORD["SOPClassUID"], "1.9\\1.8")) == ["1.3"]


def test_values_are_worked_out_of_what_lies_below(catalog: Catalog) -> None:
    three_studies(catalog)
    ids = catalog.find(Level.STUDY, [], 100, Stop())
    wanted = Wanted(
        Level.STUDY,
        (BY_KEYWORD["StudyInstanceUID"],),
        (
            COMPUTED["NumberOfStudyRelatedInstances"],
            COMPUTED["ModalitiesInStudy"],
            COMPUTED["NumberOfPatientRelatedStudies"],
            BY_KEYWORD["InstitutionName"],
            COMPUTED["SOPClassesInStudy"],
            COMPUTED["NumberOfStudyRelatedSeries"],
            COMPUTED["NumberOfPatientRelatedSeries"],
            COMPUTED["NumberOfPatientRelatedInstances"],
        ),
    )
    ct = "1.2.840.10008.5.1.4.1.1.2"
    assert catalog.fetch(wanted, ids, Stop()) == [
        ("1.1", 3, "CT\\SR", 1, "North\\West", ct, 2, 2, 3),
        ("1.2", 1, "CT", 2, "", ct, 1, 2, 2),
        ("1.3", 1, "MR", 2, "", "1.9", 1, 2, 2),
    ]


def test_values_above_the_level_and_of_the_file_can_be_had(catalog: Catalog) -> None:
    three_studies(catalog)
    ids = catalog.find(Level.INSTANCE, where(SOPInstanceUID="1.2.1.1"), 100, Stop())
    wanted = Wanted(
        Level.INSTANCE,
        (BY_KEYWORD["PatientID"],),
        (COMPUTED["ModalitiesInStudy"], COMPUTED["NumberOfSeriesRelatedInstances"]),
        stored=True,
    )
    ((patient_id, modalities, count, path, syntax, *digests),) = catalog.fetch(wanted, ids, Stop())
    held = catalog.get("1.2.1.1")
    assert held is not None
    assert (patient_id, modalities, count) == ("P2", "CT", 1)
    assert (path, syntax, *digests) == (
        held.path,
        held.transfer_syntax_uid,
        held.sha256,
        held.data_set_bytes,
        held.file_sha256,
    )


def test_no_more_is_found_than_the_limit(catalog: Catalog) -> None:
    three_studies(catalog)
    assert len(found(catalog, Level.STUDY, limit=2)) == 2


def test_what_is_gone_meanwhile_is_left_out(catalog: Catalog) -> None:
    three_studies(catalog)
    assert len(catalog.fetch(Wanted(Level.STUDY, ()), [1, 77, 2], Stop())) == 2


def test_date_and_time_are_combined(catalog: Catalog) -> None:
    three_studies(catalog)
    interval = combined(read_key("DA", ["20240130-20240131"]), read_key("TM", ["13-1130"]))
    assert interval is not None
    one = combined_condition(BY_KEYWORD["StudyDate"], BY_KEYWORD["StudyTime"], interval)
    assert found(catalog, Level.STUDY, one) == []
    interval = combined(read_key("DA", ["20240130-20240131"]), read_key("TM", ["13-1200"]))
    assert interval is not None
    one = combined_condition(BY_KEYWORD["StudyDate"], BY_KEYWORD["StudyTime"], interval)
    assert found(catalog, Level.STUDY, one) == ["1.2"]


def test_the_items_of_a_sequence_are_matched(catalog: Catalog) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "7", "99", 'a "b" %'
    add(catalog, entry(1, ProcedureCodeSequence=Sequence([code])))
    key = BY_KEYWORD["ProcedureCodeSequence"]

    def studies(**values: str) -> list[str]:
        matches = tuple((word, read_key("SH", [value])) for word, value in values.items())
        return found(catalog, Level.STUDY, condition(key, Items(matches)))  # type: ignore[arg-type]

    assert studies(CodeValue="7", CodingSchemeDesignator="9?") == ["1.2.3"]
    assert studies(CodeMeaning='a "b" %') == ["1.2.3"]
    assert studies(CodeValue="8") == []


def test_a_list_may_be_very_long(catalog: Catalog) -> None:
    three_studies(catalog)
    many = "\\".join(["1.3", *(f"9.{number}" for number in range(20_000))])
    assert found(catalog, Level.STUDY, *where(StudyInstanceUID=many)) == ["1.3"]


def test_as_many_patterns_as_a_key_may_have_are_searched_for(catalog: Catalog) -> None:
    three_studies(catalog)
    patterns = "\\".join(f"{letter}*^*^*^*^*" for letter in "ABCDEFGHIJKLMNOP")
    many = where(PatientName=patterns, ReferringPhysicianName=patterns, StudyDescription=patterns)
    assert found(catalog, Level.STUDY, *many) == []
    assert len(found(catalog, Level.STUDY, *where(PatientName=patterns))) == 3


# -- stopping ----------------------------------------------------------------------------------


def test_a_search_that_was_stopped_does_not_begin(catalog: Catalog) -> None:
    stop = Stop()
    stop.stop()
    with pytest.raises(SearchStopped):
        catalog.find(Level.STUDY, [], 10, stop)


def test_a_running_search_is_stopped_and_its_connection_serves_others(catalog: Catalog) -> None:
    three_studies(catalog)
    stop = Stop()

    def stops(stored: object) -> bool:
        stop.stop()
        return False

    one = Condition(where(OtherPatientIDs="x*")[0].shape, ("%",), stops)
    add(catalog, entry(1, "1.4", "1.4.1", PatientID="P3", OtherPatientIDs="x1"))
    with pytest.raises(SearchStopped):
        catalog.find(Level.STUDY, [one], 10, stop)
    assert found(catalog, Level.STUDY, *where(PatientID="P1")) == ["1.1"]


def test_a_search_in_a_broken_index_is_a_catalog_error(catalog: Catalog, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("ALTER TABLE study RENAME TO gone")
    connection.commit()
    connection.close()
    with pytest.raises(CatalogError, match="index failed"):
        catalog.find(Level.STUDY, [], 10, Stop())


def test_a_name_to_begin_with_goes_before_a_wide_range_of_dates(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        uid = f"1.{number}"
        name = "Smith^John" if number % 2 else "Doe^Jane"
        values = {"PatientID": f"P{number}", "StudyDate": f"2020010{number}"}
        add(catalog, entry(number, uid, f"{uid}.1", PatientName=name, **values))
    conditions = where(PatientName="smi*", StudyDate="20200102-")
    statements: list[str] = []
    run = Question.run

    def noted(question: Question, cursor: object, values: object) -> None:
        statements.append(question._sql)
        run(question, cursor, values)  # type: ignore[arg-type]

    monkeypatch.setattr(Question, "run", noted)
    assert found(catalog, Level.STUDY, *conditions) == ["1.3", "1.5", "1.7"]
    assert not any("+ study.study_date" in statement for statement in statements)
    wide = select(literal_column("1")).select_from(study).limit(1)
    monkeypatch.setattr(catalog._search, "_dates", Question(wide, catalog._backend.reader))
    assert found(catalog, Level.STUDY, *conditions) == ["1.3", "1.5", "1.7"]
    (steered,) = (each for each in statements if "+ study.study_date" in each)
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("PRAGMA case_sensitive_like = ON")
    values = ["x"] * steered.count("?")
    plan = str(connection.execute(f"EXPLAIN QUERY PLAN {steered}", values).fetchall())
    connection.close()
    assert "patient_by_alphabetic_name" in plan
    assert "study_by_date" not in plan


def test_a_stop_before_the_statement_begins_ends_it_too(catalog: Catalog) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT sum(x) FROM n"
    stop = Stop()
    with pytest.raises(SearchStopped), reading(catalog._backend, stop) as cursor:
        stop.stop()
        cursor.execute(endless)
        cursor.fetchall()
