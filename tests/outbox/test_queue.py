"""The queue of the outbox: with the object or not at all, in order, and never forgotten."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Added, AlreadyHeld
from dicomnode.outbox.items import Down, Failure, Settlement
from tests.index.entries import entry, waited
from tests.outbox.queueing import Bench, numbers

MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(*tables: dict[str, object]) -> Bench:
        made.append(Bench(tmp_path, *tables))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


# -- entering --------------------------------------------------------------------------------------


def test_an_object_is_queued_for_each_destination_with_its_row(make_bench: MakeBench) -> None:
    bench = make_bench({"to": ["ARCHIVE", "BACKUP"]}, {"modalities": ["MR"], "to": ["MR"]})
    assert bench.enter(entry()) == [Added()]
    assert bench.counts() == {"ARCHIVE READY": 1, "BACKUP READY": 1}
    (item,) = bench.take("BACKUP")
    assert item.row == bench.catalog.get(item.sop_instance_uid)
    assert [order.destination for order in bench.told] == ["ARCHIVE", "BACKUP"]
    assert sorted(bench.queue.destinations()) == ["ARCHIVE", "BACKUP"]


def test_an_object_that_is_held_already_is_not_queued_again(bench: Bench) -> None:
    first, again = bench.enter(entry(), entry())
    assert first == Added()
    assert isinstance(again, AlreadyHeld)
    assert bench.counts() == {"ARCHIVE READY": 1}
    assert len(bench.told) == 1


def test_an_object_that_replaces_another_is_queued_though_the_other_is_being_sent(
    bench: Bench,
) -> None:
    bench.enter(entry())
    taken = bench.take()
    bench.enter(entry(PatientID="another"), replace=True)
    bench.queue.settle(Settlement(done=taken))
    (left,) = bench.take()
    assert left.row is not None
    assert left.row.sha256 == entry(PatientID="another").sha256


def test_an_index_that_fails_leaves_neither_object_nor_row(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("dicomnode.index.backend.Prepared.run", full)
        (outcome,) = bench.enter(entry())
    assert isinstance(outcome, CatalogError)
    assert bench.catalog.counts().instances == 0
    assert bench.catalog.get(entry().sop_instance_uid) is None
    assert bench.counts() == {}
    assert bench.told == []


def test_a_queue_that_fails_leaves_the_object_out_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(bench.queue, "insert", full)
    (outcome,) = bench.enter(entry())
    assert isinstance(outcome, CatalogError)
    assert bench.catalog.get(entry().sop_instance_uid) is None
    assert bench.catalog.counts().instances == 0


def test_no_object_is_missed_in_the_figures_though_it_goes_from_state_to_state(
    bench: Bench,
) -> None:
    bench.fill(1)
    (item,) = bench.take()

    def move(*arguments: Any) -> None:
        if bench.queue.next_due("ARCHIVE") is None:
            bench.queue.settle(Settlement(failed=[Failure(item, "refused", 2e9)]))
        else:
            bench.queue.revive("ARCHIVE")

    figures = []
    for _ in range(2):
        event.listen(bench.catalog._backend.reader, "after_cursor_execute", move, once=True)
        figures.append(sum(tally.count for tally in bench.queue.tallies()))
    assert figures == [1, 1]


def test_the_rows_of_an_object_that_is_taken_back_go_with_it(make_bench: MakeBench) -> None:
    bench = make_bench({"to": ["ARCHIVE", "BACKUP"]})
    bench.fill(1)
    new = entry(2)
    also = bench.queue.attachment(new, bench.rules.orders(new), bench.told.extend)
    waited(lambda done: bench.catalog.add(new, done, b"contents", also))
    assert bench.counts() == {"ARCHIVE READY": 2, "BACKUP READY": 2}
    waited(lambda done: bench.catalog.remove(new.sop_instance_uid, done, also))
    assert bench.counts() == {"ARCHIVE READY": 1, "BACKUP READY": 1}
    assert numbers(bench.take()) == [1]


# -- taking ----------------------------------------------------------------------------------------


def test_objects_are_taken_in_the_order_of_priority_and_arrival(make_bench: MakeBench) -> None:
    bench = make_bench(
        {"attributes": {"InstanceNumber": "3"}, "priority": "low"},
        {"attributes": {"InstanceNumber": ["5", "6"]}, "priority": "high"},
        {},
    )
    bench.fill(6)
    assert numbers(bench.take()) == [5, 6, 1, 2, 4, 3]
    assert numbers(bench.take(limit=3)) == [5, 6, 1]


def test_what_is_taken_stays_until_it_is_settled(bench: Bench) -> None:
    bench.fill(3)
    first, second, third = bench.take()
    bench.reopen()
    assert bench.take() == [first, second, third]
    bench.queue.settle(Settlement(done=[second]))
    assert bench.take() == [first, third]


def test_an_object_that_failed_is_due_again_when_its_pause_is_over(bench: Bench) -> None:
    bench.fill(2)
    first, second = bench.take()
    due = bench.clock.now + 30
    bench.queue.settle(Settlement(failed=[Failure(first, "refused", due)]))
    assert bench.take() == [second]
    bench.reopen()
    assert bench.queue.next_due("ARCHIVE") == due
    bench.clock.now = due
    again = bench.take()
    assert numbers(again) == [1, 2]
    assert [item.attempts for item in again] == [1, 0]
    assert bench.queue.next_due("ARCHIVE") is None


def test_an_object_that_is_set_aside_is_shown_and_can_be_sent_again(bench: Bench) -> None:
    bench.fill(2)
    first, second = bench.take()
    bench.queue.settle(Settlement(done=[second], failed=[Failure(first, "refused", None)]))
    assert bench.take() == []
    (dead,) = bench.queue.dead("ARCHIVE", 10)
    assert (dead["sop_instance_uid"], dead["last_error"]) == (first.sop_instance_uid, "refused")
    assert bench.queue.dead("BACKUP", 10) == []
    bench.clock.now += 1_000_000
    assert bench.queue.revive("ARCHIVE") == 1
    (again,) = bench.take()
    assert (again.attempts, again.queued_at) == (0, bench.clock.now)


def test_an_object_that_waits_for_a_time_has_not_failed(bench: Bench) -> None:
    bench.fill(1)
    (item,) = bench.take()
    bench.queue.settle(Settlement(deferred=[(item, bench.clock.now + 3600)]))
    assert bench.take() == []
    bench.clock.now += 3600
    assert bench.take() == [item]


def test_an_object_that_is_gone_is_told_as_such(bench: Bench) -> None:
    bench.fill(1)
    bench.catalog.transact(
        lambda cursor: bench.catalog._registrar.remove(cursor, entry().sop_instance_uid)
    )
    (item,) = bench.take()
    assert item.row is None


# -- complete studies ------------------------------------------------------------------------------


def test_a_study_goes_when_nothing_has_come_for_it_for_a_while(make_bench: MakeBench) -> None:
    bench = make_bench({"when": "study_stable", "stable_seconds": 60, "to": ["ARCHIVE", "BACKUP"]})
    stable = {"rule 0": 60.0}
    start = bench.clock.now
    bench.fill(2)
    bench.enter(entry(study="1.9", series="1.9.1"))
    assert bench.take() == []
    bench.clock.now = start + 50
    bench.enter(entry(3))
    assert bench.queue.release_studies(stable) == (set(), start + 60)
    bench.clock.now = start + 60
    bench.reopen()
    assert bench.queue.release_studies(stable) == ({"ARCHIVE", "BACKUP"}, start + 110)
    assert len(bench.take()) == 1
    bench.clock.now = start + 110
    assert bench.queue.release_studies(stable) == ({"ARCHIVE", "BACKUP"}, None)
    assert len(bench.take()) == 4
    assert bench.queue.release_studies(stable) == (set(), None)


def test_objects_that_no_rule_takes_keep_their_study_waiting_too(make_bench: MakeBench) -> None:
    bench = make_bench({"when": "study_stable", "stable_seconds": 60, "modalities": ["CT"]})
    start = bench.clock.now
    bench.enter(entry())
    report = entry(2, Modality="SR")
    bench.enter(dataclasses.replace(report, received_at=start + 40))
    bench.clock.now = start + 60
    assert bench.queue.release_studies({"rule 0": 60.0}) == (set(), start + 100)


def test_a_study_of_a_rule_that_is_gone_waits_no_longer(make_bench: MakeBench) -> None:
    bench = make_bench({"when": "study_stable"})
    bench.fill(1)
    assert bench.queue.release_studies({}) == ({"ARCHIVE"}, None)
    assert numbers(bench.take()) == [1]


# -- destinations that are down --------------------------------------------------------------------


def test_a_destination_that_is_down_is_remembered_over_a_restart(bench: Bench) -> None:
    down = Down(bench.clock.now, 3, bench.clock.now + 240, "connection refused")
    bench.queue.set_down("ARCHIVE", Down(bench.clock.now, 2, bench.clock.now + 120, "x"))
    bench.queue.set_down("ARCHIVE", down)
    bench.reopen()
    assert bench.queue.downs() == {"ARCHIVE": down}
    bench.queue.set_down("ARCHIVE", None)
    assert bench.queue.downs() == {}


def test_what_waits_is_given_to_the_alternate_by_the_rules_that_name_it(
    make_bench: MakeBench,
) -> None:
    bench = make_bench({}, {})
    bench.fill(4)
    (first, *_) = bench.take()
    bench.queue.settle(Settlement(failed=[Failure(first, "refused", bench.clock.now + 9)]))
    assert bench.queue.redirect("ARCHIVE", "BACKUP", ["rule 1"]) == 0
    assert bench.queue.redirect("ARCHIVE", "BACKUP", ["rule 0"]) == 4
    assert bench.counts() == {"BACKUP READY": 3, "BACKUP PAUSED": 1}
    assert {item.meant_for for item in bench.take("BACKUP")} == {"ARCHIVE"}
    assert bench.queue.redirect("BACKUP", "ARCHIVE", ["rule 0"]) == 0, "it goes nowhere else"


def test_what_has_waited_too_long_is_set_aside(bench: Bench) -> None:
    bench.fill(2)
    bench.clock.now += 100
    bench.enter(entry(3))
    assert bench.queue.give_up("ARCHIVE", bench.clock.now - 50, "connection refused") == 2
    assert bench.counts() == {"ARCHIVE READY": 1, "ARCHIVE DEAD": 2}
    assert {each["last_error"] for each in bench.queue.dead(None, 10)} == {"connection refused"}


def test_what_waits_can_be_dropped_for_one_destination(make_bench: MakeBench) -> None:
    bench = make_bench({"to": ["ARCHIVE", "BACKUP"]})
    bench.fill(3)
    first, *_ = bench.take()
    bench.queue.settle(Settlement(failed=[Failure(first, "refused", None)]))
    assert bench.queue.drop("ARCHIVE", dead_only=True) == 1
    assert bench.counts() == {"ARCHIVE READY": 2, "BACKUP READY": 3}
    assert bench.queue.drop("ARCHIVE", dead_only=False) == 2
    assert bench.counts() == {"BACKUP READY": 3}


def test_retrying_ends_every_pause(bench: Bench) -> None:
    bench.fill(2)
    first, _ = bench.take()
    bench.queue.settle(Settlement(failed=[Failure(first, "refused", bench.clock.now + 99)]))
    assert bench.queue.revive("ARCHIVE") == 1
    assert numbers(bench.take()) == [1, 2]


def test_a_pause_does_not_last_for_years_because_a_clock_was_wrong(bench: Bench) -> None:
    bench.queue.longest_wait_seconds = 3600.0
    bench.fill(2)
    bench.clock.now += 100_000_000
    first, second = bench.take()
    pauses = [
        Failure(first, "refused", bench.clock.now + 30),
        Failure(second, "refused", bench.clock.now - 100_000_000 + 30),
    ]
    bench.queue.settle(Settlement(failed=pauses))
    bench.clock.now -= 100_000_000
    assert numbers(bench.take()) == [1]
    assert bench.queue.next_due("ARCHIVE") == bench.clock.now + 30


# -- many rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("look", "index"),
    [
        (lambda queue: queue.take("ARCHIVE", 10), "outbox_ready"),
        (lambda queue: queue.next_due("ARCHIVE"), "outbox_paused"),
        (lambda queue: queue.release_studies({}), "outbox_unsettled"),
        (lambda queue: queue.tallies(), "outbox_dead"),
    ],
)
def test_what_is_due_is_found_by_an_index_of_its_state(
    bench: Bench, look: Callable[[Any], object], index: str
) -> None:
    statements: list[tuple[str, Any]] = []

    def executed(connection: Any, cursor: Any, text: str, values: Any, *rest: Any) -> None:
        statements.append((text, values))

    engine = bench.catalog._backend.reader
    event.listen(engine, "before_cursor_execute", executed)
    look(bench.queue)
    event.remove(engine, "before_cursor_execute", executed)
    plans = []
    with engine.connect() as connection:
        for text, values in statements:
            if "outbox_object" in text:
                rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)
                plans += [row[-1] for row in rows]
    assert any(index in plan for plan in plans), plans
    assert not any(plan.startswith("SCAN outbox_object") and "INDEX" not in plan for plan in plans)
    assert not any("TEMP B-TREE FOR ORDER" in plan for plan in plans), plans
