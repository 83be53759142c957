"""How many bytes are held of whom, through all that changes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path

import pytest
from sqlalchemy.engine.interfaces import DBAPICursor

from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog, InstanceEntry
from tests.index.entries import add, entry, remove, replace, sqlite_url


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        yield catalog


def sent(number: int, source: str, size: int) -> InstanceEntry:
    return changed(entry(number), source_ae=source, size_bytes=size)


def test_what_was_held_before_counts_whatever_its_spelling(catalog: Catalog) -> None:
    for number, (source, size) in enumerate(
        [("CT_1", 1000), ("ct_1", 200), ("CT_1 ", 30), ("MR_1", 4)], start=1
    ):
        add(catalog, sent(number, source, size))
    assert catalog.held("CT_1") is None
    catalog.follow_sources(["CT_1", "NEW"], str.casefold)
    assert catalog.held("Ct_1") == 1230
    assert catalog.held("NEW") == 0
    assert catalog.held("MR_1") is None


def test_with_strict_titles_each_spelling_counts_alone(catalog: Catalog) -> None:
    add(catalog, sent(1, "CT_1", 1000))
    add(catalog, sent(2, "ct_1", 200))
    catalog.follow_sources(["CT_1"], str)
    assert (catalog.held("CT_1"), catalog.held("ct_1")) == (1000, None)


def test_what_comes_and_goes_counts_from_then_on(catalog: Catalog) -> None:
    catalog.follow_sources(["CT_1"], str.casefold)
    add(catalog, sent(1, "ct_1", 1000))
    add(catalog, sent(2, "CT_1", 200))
    add(catalog, sent(2, "CT_1", 999))  # held already
    assert catalog.held("CT_1") == 1200
    replace(catalog, sent(2, "MR_1", 50))  # another sender's takes its place
    assert catalog.held("CT_1") == 1000
    remove(catalog, "1.2.3.4.1")
    assert catalog.held("CT_1") == 0
    catalog.follow_sources(["CT_1", "MR_1"], str.casefold)
    assert (catalog.held("CT_1"), catalog.held("MR_1")) == (0, 50)
    catalog.truncate()
    assert (catalog.held("CT_1"), catalog.held("MR_1")) == (0, 0)


def test_an_object_whose_bytes_the_index_keeps_counts_and_no_more_once_taken_back(
    catalog: Catalog,
) -> None:
    catalog.follow_sources(["CT_1"], str.casefold)
    add(catalog, sent(1, "CT_1", 1000), b"the file")
    add(catalog, sent(2, "CT_1", 200), b"another")
    assert catalog.held("CT_1") == 1200
    last = catalog.last_unsettled()
    assert last is not None
    catalog.settle(last)
    assert catalog.held("CT_1") == 1200
    remove(catalog, "1.2.3.4.2")
    assert catalog.held("CT_1") == 1000


def test_what_is_rolled_back_does_not_count(catalog: Catalog) -> None:
    catalog.follow_sources(["CT_1"], str.casefold)
    add(catalog, sent(1, "CT_1", 1000))

    def fail_after(cursor: DBAPICursor) -> None:
        catalog._registrar.add(cursor, sent(2, "CT_1", 500))
        raise RuntimeError("no")

    with pytest.raises(CatalogError):
        catalog.transact(fail_after)
    add(catalog, sent(3, "CT_1", 1))
    assert catalog.held("CT_1") == 1001


def test_whom_to_follow_may_be_asked_beside_what_is_entered(catalog: Catalog) -> None:
    """In one transaction, before and after an object: it counts once."""
    add(catalog, sent(1, "CT_1", 1000))
    sources = catalog._registrar.sources

    def together(cursor: DBAPICursor) -> None:
        catalog._registrar.add(cursor, sent(2, "CT_1", 200))
        sources.follow([("CT_1", 1200)], ["CT_1"])
        catalog._registrar.add(cursor, sent(3, "CT_1", 30))

    catalog.transact(together)
    assert catalog.held("CT_1") == 1230
