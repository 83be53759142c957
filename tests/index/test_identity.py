"""Whose an object is: never merged by itself, always flagged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.index.catalog import Added, Catalog
from tests.index.entries import add, entry, remove, replace, sqlite_url


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        yield catalog


def held(catalog: Catalog) -> tuple[int, int]:
    counts = catalog.counts()
    assert counts.identity_conflicts == len(catalog.identity_conflicts())
    return counts.patients, counts.identity_conflicts


def test_studies_of_one_patient_share_a_row(catalog: Catalog) -> None:
    add(catalog, entry(study="1.1"))
    add(catalog, entry(study="1.2", series="1.2.1"))
    assert held(catalog) == (1, 0)


def test_one_patient_id_with_two_names_and_birth_dates_is_stored_flagged_and_not_merged(
    tmp_path: Path, catalog: Catalog
) -> None:
    add(catalog, entry(study="1.1"))
    other = entry(
        study="1.2", series="1.2.1", PatientName="Roe^Richard", PatientBirthDate="19991231"
    )
    assert add(catalog, other) == Added()
    assert held(catalog) == (2, 1)
    (conflict,) = catalog.identity_conflicts()
    assert (conflict.patient_id, conflict.issuer_of_patient_id) == ("4711", "")
    assert (conflict.held_name, conflict.held_birth_date) == ("Doe^Jane", "19700101")
    assert (conflict.other_name, conflict.other_birth_date) == ("Roe^Richard", "19991231")
    assert (conflict.study_instance_uid, conflict.sop_instance_uid) == ("1.2", "1.2.1.1")
    assert conflict.source_ae == "CT_1" and conflict.noticed_at > 0
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    names = connection.execute(
        "SELECT patient_name, study_instance_uid FROM patient JOIN study "
        "ON study.patient = patient.id ORDER BY 2"
    ).fetchall()
    connection.close()
    assert names == [("Doe^Jane", "1.1"), ("Roe^Richard", "1.2")]


def test_a_conflict_is_flagged_once_and_each_identity_finds_its_own_row(catalog: Catalog) -> None:
    other = {"PatientName": "Roe^Richard", "PatientBirthDate": "19991231"}
    for number in range(3):
        add(catalog, entry(study=f"1.{number}", series=f"1.{number}.1"))
        add(catalog, entry(study=f"2.{number}", series=f"2.{number}.1", **other))
    assert held(catalog) == (2, 1)
    third = {"PatientName": "Poe^Paul", "PatientBirthDate": "18000101"}
    add(catalog, entry(study="3.1", series="3.1.1", **third))
    assert held(catalog) == (3, 2)


@pytest.mark.parametrize(
    "same",
    [
        {"PatientName": "DOE^JANE^^"},
        {"PatientName": "Doe-Smith^Jane"},  # married
        {"PatientBirthDate": "19700102"},  # mistyped
        {"PatientBirthDate": "", "PatientName": "Roe^Richard"},
        {"PatientName": "", "PatientBirthDate": "19991231"},
        {"PatientName": "Doe^Jane=山田^花子", "PatientBirthDate": "19991231"},
        {"PatientBirthDate": "1970.01.01", "PatientName": "Roe^Richard"},
    ],
    ids=str,
)
def test_what_differs_in_one_thing_or_lacks_one_is_no_conflict(
    catalog: Catalog, same: dict[str, str]
) -> None:
    add(catalog, entry(study="1.1"))
    add(catalog, entry(study="1.2", series="1.2.1", **same))
    assert held(catalog) == (1, 0)


def test_another_issuer_is_another_patient(catalog: Catalog) -> None:
    add(catalog, entry(study="1.1", IssuerOfPatientID="EAST"))
    add(
        catalog,
        entry(
            study="1.2",
            series="1.2.1",
            IssuerOfPatientID="WEST",
            PatientName="Roe",
            PatientBirthDate="19991231",
        ),
    )
    assert held(catalog) == (2, 0)


def test_studies_without_a_patient_id_are_of_nobody_in_common(catalog: Catalog) -> None:
    for number in range(3):
        new = entry(1, f"1.{number}", f"1.{number}.1", PatientID="", PatientName="", Rows=1)
        add(catalog, new)
        add(catalog, entry(2, f"1.{number}", f"1.{number}.1", PatientID="", PatientName=""))
    assert held(catalog) == (3, 0)


def test_another_identity_inside_a_study_is_flagged_and_the_study_keeps_its_patient(
    catalog: Catalog,
) -> None:
    other = {"PatientName": "Roe^Richard", "PatientBirthDate": "19991231"}
    add(catalog, entry(1))
    add(catalog, entry(2))
    for number in range(3, 8):
        add(catalog, entry(number, **other))
        add(catalog, entry(number + 10))
    assert held(catalog) == (1, 1)


def test_a_conflict_inside_a_known_study_is_seen_after_opening_again(tmp_path: Path) -> None:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        add(catalog, entry(1))
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        add(catalog, entry(2))
        assert held(catalog) == (1, 0)
        add(catalog, entry(3, PatientName="Roe", PatientBirthDate="19991231"))
        assert held(catalog) == (1, 1)


def test_a_conflict_goes_when_one_of_its_patients_has_gone(catalog: Catalog) -> None:
    other = {"PatientName": "Roe^Richard", "PatientBirthDate": "19991231"}
    add(catalog, entry(1, study="1.1"))
    add(catalog, entry(1, study="1.2", series="1.2.1", **other))
    replace(catalog, entry(1, study="1.2", series="1.2.1", **other))
    assert held(catalog) == (2, 1)
    remove(catalog, "1.2.1.1")
    assert held(catalog) == (1, 0)
