"""Worklist items in the index: entered, replaced, followed, listed and searched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.index.catalog import Catalog
from dicomnode.index.matching import Texts
from dicomnode.index.reading import SearchStopped, Stop
from dicomnode.index.worklist import Narrowed, NewItem, State, WorklistItems, candidates
from tests.index.entries import sqlite_url

STEP = "1.2.840.1"
EVERY = Narrowed(None, tuple(State), {})


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path), synchronous="OFF") as catalog:
        yield catalog


@pytest.fixture
def items(catalog: Catalog) -> WorklistItems:
    return WorklistItems(catalog)


def new(key: str, **values: str) -> NewItem:
    """Return an item whose step ID is its key."""
    step = {
        "00080060": {"vr": "CS", "Value": [values.get("modality", "CT")]},
        "00400001": {"vr": "AE", "Value": values.get("stations", "CT_1").split()},
        "00400002": {"vr": "DA", "Value": [values.get("date", "20261121")]},
        "00400009": {"vr": "SH", "Value": [values.get("step_id", key)]},
    }
    attributes: dict[str, Any] = {
        "00080050": {"vr": "SH", "Value": [f"A_{key}"]},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Müller^Jörg"}]},
        "0020000D": {"vr": "UI", "Value": [values.get("study", f"1.2.{len(key)}")]},
        "00400100": {"vr": "SQ", "Value": [step]},
    }
    return NewItem(key, values.get("origin", "file"), "1", values.get("title", ""), attributes)


def follow(
    catalog: Catalog,
    items: WorklistItems,
    state: State,
    *,
    study: str = "",
    step_id: str = "one",
    accession_number: str = "",
) -> list[str]:
    return catalog.transact(
        lambda cursor: items.follow(
            cursor, study, step_id, accession_number, lambda *_: (state, STEP)
        )
    )


def keys(items: WorklistItems, narrowed: Narrowed) -> list[str]:
    return [item.key for item in items.fetch(items.find(narrowed))]


# -- entering ----------------------------------------------------------------------------------


def test_an_item_comes_back_as_it_was_put(items: WorklistItems) -> None:
    item = new("one", title="OFFIS")
    items.put([item])
    held = items.get("one")
    assert held is not None
    assert held.attributes == item.attributes
    assert (held.key, held.origin, held.fingerprint) == ("one", "file", "1")
    assert (held.called_ae_title, held.state, held.step_uid) == ("OFFIS", State.SCHEDULED, "")
    assert items.get("two") is None


def test_items_are_still_there_when_the_index_is_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Catalog(sqlite_url(tmp_path)) as catalog:
            items = WorklistItems(catalog)
            if items.get("one") is None:
                items.put([new("one")])
    with Catalog(sqlite_url(tmp_path)) as catalog:
        assert WorklistItems(catalog).counts()[State.SCHEDULED] == 1


def test_reindexing_keeps_items(catalog: Catalog, items: WorklistItems) -> None:
    items.put([new("one")])
    catalog.truncate()
    assert items.get("one") is not None


def test_an_item_that_comes_again_keeps_its_state(catalog: Catalog, items: WorklistItems) -> None:
    items.put([new("one", study="1.2.3")])
    follow(catalog, items, State.IN_PROGRESS, study="1.2.3")
    items.put([new("one", study="1.2.3", modality="MR")])
    held = items.get("one")
    assert held is not None
    assert (held.state, held.step_uid) == (State.IN_PROGRESS, STEP)
    assert keys(items, Narrowed(None, tuple(State), {"modality": ["MR"]})) == ["one"]


def test_an_item_for_another_step_begins_anew(catalog: Catalog, items: WorklistItems) -> None:
    items.put([new("one", study="1.2.3")])
    follow(catalog, items, State.COMPLETED, study="1.2.3")
    items.put([new("one", study="1.2.4")])
    held = items.get("one")
    assert held is not None
    assert (held.state, held.step_uid) == (State.SCHEDULED, "")


def test_removed_items_are_gone(items: WorklistItems) -> None:
    items.put([new("one"), new("two"), new("three")])
    assert items.remove(["one", "three", "four"]) == 2
    assert keys(items, EVERY) == ["two"]
    assert keys(items, Narrowed(None, tuple(State), {}, stations=("CT_1",))) == ["two"]


def test_more_items_than_one_transaction_takes_are_put_and_removed(items: WorklistItems) -> None:
    names = [f"k{number:04}" for number in range(1200)]
    items.put([new(name) for name in names])
    assert keys(items, EVERY) == names
    assert items.remove(names) == 1200


# -- following a performed step ----------------------------------------------------------------


def test_items_follow_by_study_and_step(catalog: Catalog, items: WorklistItems) -> None:
    items.put([new("one", study="1.2.3"), new("two", study="1.2.3"), new("three", study="1.2.4")])
    assert follow(catalog, items, State.IN_PROGRESS, study="1.2.3", step_id="two") == ["two"]
    assert items.counts() == {
        State.SCHEDULED: 2,
        State.IN_PROGRESS: 1,
        State.COMPLETED: 0,
        State.DISCONTINUED: 0,
    }


def test_items_follow_by_accession_number_where_the_study_is_unknown(
    catalog: Catalog, items: WorklistItems
) -> None:
    items.put([new("one", study="1.2.3")])
    assert follow(catalog, items, State.COMPLETED, study="1.9", accession_number="A_one") == ["one"]


def test_an_unscheduled_step_is_followed_by_none(catalog: Catalog, items: WorklistItems) -> None:
    items.put([new("one", study="1.2.3", step_id="")])
    assert follow(catalog, items, State.COMPLETED, study="1.2.3", step_id="") == []


def test_items_stay_as_they_are_when_the_transaction_fails(
    catalog: Catalog, items: WorklistItems
) -> None:
    items.put([new("one", study="1.2.3")])

    def fail(cursor: Any) -> None:
        items.follow(cursor, "1.2.3", "one", "", lambda *_: (State.COMPLETED, STEP))
        raise RuntimeError

    with pytest.raises(Exception, match="index failed"):
        catalog.transact(fail)
    assert items.counts()[State.SCHEDULED] == 1


# -- listing and searching ---------------------------------------------------------------------


def test_items_are_listed_by_key_a_page_at_a_time(items: WorklistItems) -> None:
    items.put([new(name) for name in ("b", "a", "d", "c")])
    assert [item.key for item in items.listed(limit=2)] == ["a", "b"]
    assert [item.key for item in items.listed(limit=9, after="b")] == ["c", "d"]


def test_sources_are_those_of_an_origin(items: WorklistItems) -> None:
    items.put([new("one"), new("two", origin="http")])
    assert items.sources("file") == {"one": "1"}


@pytest.mark.parametrize(
    ("narrowed", "expected"),
    [
        (EVERY, ["late", "one", "two"]),
        (Narrowed("offis", tuple(State), {}), ["late", "one", "two"]),
        (Narrowed("other", tuple(State), {}), ["late", "two"]),
        (Narrowed(None, (State.SCHEDULED,), {}), ["one", "two"]),
        (Narrowed(None, tuple(State), {"modality": ["MR", "US"]}), ["two"]),
        (Narrowed(None, tuple(State), {"step_id": ["one"], "modality": ["CT"]}), ["one"]),
        (Narrowed(None, tuple(State), {}, stations=("CT_2",)), ["one"]),
        (Narrowed(None, tuple(State), {}, stations=("CT_1", "CT_2")), ["late", "one"]),
        (Narrowed(None, tuple(State), {}, dates=("20261122", "99999999")), ["two"]),
        (Narrowed(None, tuple(State), {}, ("CT_1",), ("0", "20261120")), ["late"]),
    ],
)
def test_a_search_is_narrowed_by_each_of_its_parts(
    catalog: Catalog, items: WorklistItems, narrowed: Narrowed, expected: list[str]
) -> None:
    items.put(
        [
            new("one", stations="CT_1 CT_2", title="Offis"),
            new("two", stations="MR_1", modality="MR", date="20261123"),
            new("late", date="20261120", study="1.2.9"),
        ]
    )
    follow(catalog, items, State.COMPLETED, study="1.2.9", step_id="late")
    assert sorted(keys(items, narrowed)) == expected


def test_a_search_uses_an_index_for_whatever_narrows_it(
    catalog: Catalog, items: WorklistItems
) -> None:
    """So that its time does not grow with the list."""
    scheduled = (State.SCHEDULED, State.DISCONTINUED)
    for narrowed in (
        Narrowed("X", scheduled, {"modality": ["CT"]}, dates=("20261121", "20261121")),
        Narrowed("X", scheduled, {}, stations=("CT_1",), dates=("20261121", "20261121")),
        Narrowed("X", scheduled, {"patient_id": ["1"]}),
        Narrowed("X", scheduled, {"accession_number": ["1"]}),
        Narrowed("X", scheduled, {"study_instance_uid": ["1"]}),
        Narrowed("X", scheduled, {"requested_procedure_id": ["1"]}),
    ):
        compiled = candidates(narrowed).compile(compile_kwargs={"literal_binds": True})
        with catalog.read() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
        assert not [step for *_, step in plan if str(step).startswith("SCAN")], plan


def test_a_search_that_tries_every_item_is_stopped_in_between(items: WorklistItems) -> None:
    items.put([new(f"k{number:04}") for number in range(1200)])
    stop, tried = Stop(), []

    class Stopping(Texts):
        def accepts(self, stored: str | int | None) -> bool:
            tried.append(stored)
            stop.stop()
            return False

    sieve = Stopping(frozenset(), ("*",), multiple=False)
    with pytest.raises(SearchStopped):
        items.find(Narrowed(None, tuple(State), {}, sieves={"patient_name": sieve}), stop=stop)
    assert 0 < len(tried) < 1200
