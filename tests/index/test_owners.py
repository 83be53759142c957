"""Whose a study is."""

from __future__ import annotations

from pathlib import Path

from dicomnode.index.catalog import Catalog
from dicomnode.index.owners import owner_of
from tests.index.entries import add, entry, remove, sqlite_url


def test_a_study_has_an_owner_while_something_of_it_is_held(tmp_path: Path) -> None:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        new = entry(PatientID="4711", PatientName="Doe^Jane", AccessionNumber="A1")
        uid = new.study_instance_uid
        assert owner_of(catalog, uid) is None
        add(catalog, new)
        assert owner_of(catalog, uid) == ("4711", "Doe^Jane", "A1")
        remove(catalog, new.sop_instance_uid)
        assert owner_of(catalog, uid) is None
