"""Performed procedure steps in the index, and the worklist items that follow them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog
from dicomnode.index.steps import PerformedStep, Steps
from dicomnode.index.worklist import NewItem, State, WorklistItems
from tests.index.entries import sqlite_url

STUDY, STEP_ID, ACCESSION = "1.2.3", "SPS1", "A1"


def text(vr: str, *values: str) -> dict[str, Any]:
    return {"vr": vr, "Value": list(values)} if values[0] else {"vr": vr}


def scheduled(study: str = STUDY, step_id: str = STEP_ID, accession: str = "") -> dict[str, Any]:
    return {
        "0020000D": text("UI", study),
        "00400009": text("SH", step_id),
        "00080050": text("SH", accession),
    }


def step(uid: str = "1.2.9", *references: dict[str, Any], **more: Any) -> PerformedStep:
    attributes = {"00400270": {"vr": "SQ", "Value": list(references or (scheduled(),))}}
    made = PerformedStep(uid, State.IN_PROGRESS, attributes, "CT_1", 1000.0, 1000.0)
    return replace(made, **more)


def item(key: str, study: str = STUDY, step_id: str = STEP_ID, accession: str = "") -> NewItem:
    inner = {"00400009": text("SH", step_id), "00400001": text("AE", "CT_1")}
    attributes = {
        "0020000D": text("UI", study),
        "00080050": text("SH", accession),
        "00400100": {"vr": "SQ", "Value": [inner]},
    }
    return NewItem(key, "command", "", "", attributes)


class Archive:
    def __init__(self, directory: Path) -> None:
        self.catalog = Catalog(sqlite_url(directory), synchronous="OFF")
        self.catalog.open()
        self.items = WorklistItems(self.catalog)
        self.steps = Steps(self.catalog, self.items)

    def state(self, key: str) -> tuple[str, str]:
        found = self.items.get(key)
        assert found is not None
        return found.state, found.step_uid

    def end(self, uid: str, status: State) -> list[str] | None:
        held = self.steps.get(uid)
        assert held is not None
        return self.steps.change(held, held.attributes, status, 2000.0)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path)
    with made.catalog:
        yield made


def test_a_step_is_read_back_as_it_was_created(archive: Archive) -> None:
    made = step()
    assert archive.steps.create(made) == []
    assert archive.steps.get("1.2.9") == made
    assert archive.steps.get("1.2.10") is None


def test_a_second_step_with_the_same_uid_changes_nothing(archive: Archive) -> None:
    archive.steps.create(step())
    assert archive.steps.create(step(source_ae_title="MR_1")) is None
    held = archive.steps.get("1.2.9")
    assert held is not None
    assert held.source_ae_title == "CT_1"
    assert archive.steps.counts()[State.IN_PROGRESS] == 1


def test_the_item_follows_the_step(archive: Archive) -> None:
    archive.items.put([item("one"), item("other", step_id="SPS2")])
    assert archive.steps.create(step()) == ["one"]
    assert archive.state("one") == (State.IN_PROGRESS, "1.2.9")
    assert archive.end("1.2.9", State.COMPLETED) == ["one"]
    assert archive.state("one") == (State.COMPLETED, "1.2.9")
    assert archive.state("other") == (State.SCHEDULED, "")


def test_a_discontinued_step_and_a_new_one_for_the_same_item(archive: Archive) -> None:
    archive.items.put([item("one")])
    archive.steps.create(step("1.1"))
    archive.end("1.1", State.DISCONTINUED)
    assert archive.state("one") == (State.DISCONTINUED, "1.1")
    archive.steps.create(step("1.2"))
    assert archive.state("one") == (State.IN_PROGRESS, "1.2")
    archive.end("1.2", State.COMPLETED)
    assert archive.state("one") == (State.COMPLETED, "1.2")


def test_an_item_is_in_progress_while_any_of_its_steps_is(archive: Archive) -> None:
    archive.items.put([item("one")])
    archive.steps.create(step("1.1"))
    archive.steps.create(step("1.2"))
    archive.end("1.2", State.DISCONTINUED)
    assert archive.state("one") == (State.IN_PROGRESS, "1.1")
    archive.end("1.1", State.COMPLETED)
    assert archive.state("one") == (State.COMPLETED, "1.1")


def test_what_is_completed_stays_so_when_a_further_step_is_discontinued(archive: Archive) -> None:
    archive.items.put([item("one")])
    archive.steps.create(step("1.1"))
    archive.end("1.1", State.COMPLETED)
    archive.steps.create(step("1.2"))
    archive.end("1.2", State.DISCONTINUED)
    assert archive.state("one") == (State.COMPLETED, "1.1")


def test_a_step_of_several_scheduled_steps_takes_all_items_along(archive: Archive) -> None:
    archive.items.put([item("one"), item("two", study="1.2.4", step_id="SPS2")])
    made = step("1.1", scheduled(), scheduled("1.2.4", "SPS2"), scheduled("1.2.5", "SPS3"))
    assert archive.steps.create(made) == ["one", "two"]
    assert archive.end("1.1", State.COMPLETED) == ["one", "two"]
    assert archive.state("two") == (State.COMPLETED, "1.1")


def test_an_item_is_found_by_accession_number_when_the_study_is_the_modalitys_own(
    archive: Archive,
) -> None:
    archive.items.put([item("one", accession=ACCESSION)])
    made = step("1.1", scheduled(study="1.9.9", accession=ACCESSION))
    assert archive.steps.create(made) == ["one"]


def test_steps_of_two_procedures_of_one_accession_number_are_told_apart(archive: Archive) -> None:
    # Each requested procedure may number its scheduled steps from one.
    archive.items.put(
        [item("one", accession=ACCESSION), item("two", study="1.2.4", accession=ACCESSION)]
    )
    archive.steps.create(step("1.1", scheduled(accession=ACCESSION)))
    archive.steps.create(step("1.2", scheduled("1.2.4", accession=ACCESSION)))
    archive.end("1.2", State.COMPLETED)
    assert archive.state("one") == (State.IN_PROGRESS, "1.1")
    assert archive.state("two") == (State.COMPLETED, "1.2")


def test_steps_of_the_items_study_and_of_another_one_are_of_one_item(archive: Archive) -> None:
    archive.items.put([item("one", accession=ACCESSION)])
    archive.steps.create(step("1.1", scheduled()))
    archive.steps.create(step("1.2", scheduled("1.9.9", accession=ACCESSION)))
    archive.end("1.2", State.COMPLETED)
    assert archive.state("one") == (State.IN_PROGRESS, "1.1")
    archive.end("1.1", State.DISCONTINUED)
    assert archive.state("one") == (State.COMPLETED, "1.2")


def test_an_item_that_comes_again_has_the_state_of_its_steps_at_once(archive: Archive) -> None:
    archive.steps.create(step("1.1"))
    archive.steps.create(step("1.2", scheduled("1.9.9", "SPS2", ACCESSION)))
    archive.end("1.1", State.COMPLETED)
    other = item("other", study="1.2.4", step_id="SPS2", accession=ACCESSION)
    archive.items.put([item("one"), other, item("new", step_id="SPS3")], archive.steps.begun)
    assert archive.state("one") == (State.COMPLETED, "1.1")
    assert archive.state("other") == (State.IN_PROGRESS, "1.2")
    assert archive.state("new") == (State.SCHEDULED, "")


def test_an_item_is_not_entered_where_its_state_cannot_be_found(archive: Archive) -> None:
    def fails(cursor: object, *step: str) -> None:
        raise OSError

    with pytest.raises(CatalogError):
        archive.items.put([item("one")], fails)
    assert archive.items.get("one") is None


@pytest.mark.parametrize(
    "reference", [scheduled(step_id=""), scheduled(step_id="", accession=ACCESSION)]
)
def test_an_unscheduled_step_takes_no_item_along(
    archive: Archive, reference: dict[str, Any]
) -> None:
    archive.items.put([item("one", accession=ACCESSION)])
    assert archive.steps.create(step("1.1", reference)) == []
    assert archive.state("one") == (State.SCHEDULED, "")


def test_steps_without_accession_number_have_nothing_to_do_with_one_another(
    archive: Archive,
) -> None:
    archive.items.put([item("one"), item("two", study="1.2.4")])
    archive.steps.create(step("1.1"))
    archive.steps.create(step("1.2", scheduled("1.2.4")))
    archive.end("1.2", State.COMPLETED)
    assert archive.state("one") == (State.IN_PROGRESS, "1.1")
    assert archive.state("two") == (State.COMPLETED, "1.2")


def test_a_change_of_what_has_changed_meanwhile_is_not_made(archive: Archive) -> None:
    archive.steps.create(step())
    held = archive.steps.get("1.2.9")
    assert held is not None
    first = held.attributes | {"00400280": text("ST", "first")}
    second = held.attributes | {"00400280": text("ST", "second")}
    assert archive.steps.change(held, first, State.COMPLETED, 2000.0) == []
    assert archive.steps.change(held, second, State.DISCONTINUED, 2001.0) is None
    now = archive.steps.get("1.2.9")
    assert now is not None
    assert (now.status, now.attributes, now.revision) == (State.COMPLETED, first, 1)


def test_of_many_changes_at_once_exactly_one_is_made(archive: Archive) -> None:
    archive.steps.create(step())
    held = archive.steps.get("1.2.9")
    assert held is not None
    made: list[object] = []
    start = threading.Barrier(8)

    def change() -> None:
        start.wait()
        made.append(archive.steps.change(held, held.attributes, State.COMPLETED, 2000.0))

    threads = [threading.Thread(target=change) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.count(None) == 7
    assert archive.steps.counts()[State.COMPLETED] == 1


def test_counts_are_kept_and_the_same_after_a_restart(archive: Archive, tmp_path: Path) -> None:
    for number in range(3):
        archive.steps.create(step(f"1.{number}"))
    archive.end("1.0", State.COMPLETED)
    archive.end("1.1", State.DISCONTINUED)
    expected = {State.IN_PROGRESS: 1, State.COMPLETED: 1, State.DISCONTINUED: 1}
    assert archive.steps.counts() == expected
    archive.catalog.close()
    again = Archive(tmp_path)
    with again.catalog:
        assert again.steps.counts() == expected


def test_the_steps_of_an_item_come_latest_first(archive: Archive) -> None:
    archive.steps.create(step("1.1", created_at=1.0))
    archive.steps.create(step("1.2", created_at=2.0))
    archive.steps.create(step("1.3", scheduled("1.9", accession=ACCESSION), created_at=3.0))
    archive.steps.create(step("1.4", scheduled(step_id="SPS2")))

    def found(accession: str, **more: int) -> list[str]:
        return [
            each.sop_instance_uid
            for each in archive.steps.steps_of(STUDY, STEP_ID, accession, **more)
        ]

    assert found("") == ["1.2", "1.1"]
    assert found(ACCESSION) == ["1.3", "1.2", "1.1"]
    assert found(ACCESSION, limit=1) == ["1.3"]


def test_a_step_tells_when_and_where_it_was_and_how_much_there_is_of_it() -> None:
    image = {"00081155": text("UI", "1.5")}
    series = {
        "00081140": {"vr": "SQ", "Value": [image, image]},
        "00400220": {"vr": "SQ", "Value": [image]},
    }
    made = step(
        attributes={
            "00400241": text("AE", "CT_1"),
            "00400244": text("DA", "20261121"),
            "00400245": text("TM", "093000"),
            "00400340": {"vr": "SQ", "Value": [series, {}]},
        }
    )
    assert (made.station, made.started, made.ended) == ("CT_1", "20261121 093000", "")
    assert (made.series, made.instances) == (2, 3)


def test_no_search_of_the_writer_reads_a_whole_table(archive: Archive) -> None:
    statements: list[str] = []
    archive.catalog.transact(lambda cursor: cursor.connection.set_trace_callback(statements.append))
    archive.items.put([item("one", accession=ACCESSION)], archive.steps.begun)
    archive.steps.create(step("1.1", scheduled(accession=ACCESSION)))
    archive.end("1.1", State.DISCONTINUED)
    archive.catalog.transact(lambda cursor: cursor.connection.set_trace_callback(None))
    searches = [each for each in statements if "performed_step" in each and "INSERT" not in each]
    assert len(searches) >= 5
    with archive.catalog.read() as connection:
        for each in searches:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {each}").fetchall()
            assert not any("SCAN" in row[3] for row in plan), each
