"""Storage commitments in the index: their states, what is due, and what outlives what."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.index import commitments as module
from dicomnode.index.catalog import Catalog
from dicomnode.index.commitments import Commitments, Referenced, Standing, State
from tests.index.entries import sqlite_url

CT = "1.2.840.10008.5.1.4.1.1.2"
LATEST = 1e9
TWO = [(CT, "1.2.3"), (CT, "1.2.4")]


class Clock:
    """A ``time`` whose hands the test moves."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def catalog(tmp_path: Path, clock: Clock) -> Iterator[Catalog]:
    with Catalog(sqlite_url(tmp_path)) as catalog:
        yield catalog


@pytest.fixture
def commitments(catalog: Catalog) -> Commitments:
    commitments = Commitments(catalog)
    commitments.open()
    return commitments


def add(
    commitments: Commitments,
    transaction_uid: str,
    references: list[Referenced] = TWO,
    requester: str = "CT_1",
) -> int:
    """Enter a commitment; return its id."""
    assert commitments.add(requester, "DICOMNODE", transaction_uid, references)
    found: set[int] = set()
    while (pending := commitments.next_pending(found, smallest=False)) is not None:
        found.add(pending.standing.id)
    return max(found)


def checked(commitments: Commitments, transaction_uid: str, requester: str = "CT_1") -> Standing:
    """Enter a commitment and the outcome of its check."""
    id = add(commitments, transaction_uid, requester=requester)
    commitments.checked(id, {1: 0x0112})
    commitment = commitments.get(id)
    assert commitment is not None
    return commitment.standing


def test_a_transaction_uid_is_taken_once_of_a_requester(commitments: Commitments) -> None:
    assert commitments.add("CT_1", "DICOMNODE", "1.1", TWO)
    assert not commitments.add("CT_1", "DICOMNODE", "1.1", TWO)
    assert commitments.add("CT_2", "DICOMNODE", "1.1", TWO)
    assert commitments.counts()[State.PENDING] == 2


def test_of_the_same_transaction_uid_at_once_one_is_taken(commitments: Commitments) -> None:
    barrier, taken = threading.Barrier(8), []

    def run() -> None:
        barrier.wait()
        taken.append(commitments.add("CT_1", "DICOMNODE", "1.1", TWO))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_it_stays_taken_when_all_is_over(commitments: Commitments) -> None:
    commitments.deliver(checked(commitments, "1.1").id)
    assert not commitments.add("CT_1", "DICOMNODE", "1.1", TWO)


def test_what_came_first_is_pending_first_unless_the_smallest_is_asked_for(
    commitments: Commitments,
) -> None:
    first, second = add(commitments, "1.1"), add(commitments, "1.2", TWO[:1])
    for smallest, id in ((False, first), (True, second)):
        pending = commitments.next_pending((), smallest=smallest)
        assert pending is not None and pending.standing.id == id
    pending = commitments.next_pending({first}, smallest=False)
    assert pending is not None and pending.standing.id == second
    assert commitments.next_pending({first, second}, smallest=True) is None


def test_instances_and_reasons_come_back_as_they_went_in(commitments: Commitments) -> None:
    references = [(CT, f"1.2.{number}") for number in range(100_000)]
    id = add(commitments, "1.1", references)
    reasons = {7: 0x0112, 99_999: 0x0119}
    commitments.checked(id, reasons)
    commitment = commitments.get(id)
    assert commitment is not None
    assert list(commitment.references) == references
    assert commitment.reasons == reasons
    assert (commitment.standing.instances, commitment.standing.failures) == (100_000, 2)


def test_a_checked_one_is_due_at_once_to_its_requester_alone(
    commitments: Commitments, clock: Clock
) -> None:
    add(commitments, "1.1", requester="CT_2")
    standing = checked(commitments, "1.2")
    assert commitments.destinations(clock.now, LATEST) == (["CT_1"], None)
    assert commitments.due("CT_1", clock.now, LATEST, 10) == [standing]
    assert commitments.due("CT_2", clock.now, LATEST, 10) == []


def test_one_that_is_put_off_is_due_later_with_its_attempts_counted(
    commitments: Commitments, clock: Clock
) -> None:
    commitments.put_off([checked(commitments, "1.1")], clock.now + 30, "not there")
    assert commitments.destinations(clock.now, LATEST) == ([], clock.now + 30)
    assert commitments.due("CT_1", clock.now + 29, LATEST, 10) == []
    (standing,) = commitments.due("CT_1", clock.now + 30, LATEST, 10)
    assert (standing.attempts, standing.last_error) == (1, "not there")


def test_one_that_was_put_off_before_the_clock_went_back_is_due_at_once(
    commitments: Commitments, clock: Clock
) -> None:
    standing = checked(commitments, "1.1")
    commitments.put_off([standing], clock.now + 1e6, "not there")
    latest = clock.now + 7200
    assert commitments.destinations(clock.now, latest) == (["CT_1"], None)
    assert [each.id for each in commitments.due("CT_1", clock.now, latest, 10)] == [standing.id]


def test_all_that_wait_can_be_made_due(commitments: Commitments, clock: Clock) -> None:
    commitments.put_off([checked(commitments, "1.1")], clock.now + 30, "not there")
    commitments.make_due()
    assert commitments.destinations(clock.now, LATEST) == (["CT_1"], None)


def finish(commitments: Commitments, id: int, state: State) -> None:
    if state is State.DELIVERED:
        commitments.deliver(id)
    else:
        commitments.give_up(id, "why")


@pytest.mark.parametrize("state", [State.DELIVERED, State.GIVEN_UP])
def test_one_that_is_over_is_not_due_and_has_no_instances(
    commitments: Commitments, clock: Clock, state: State
) -> None:
    standing = checked(commitments, "1.1")
    finish(commitments, standing.id, state)
    assert commitments.destinations(clock.now, LATEST) == ([], None)
    assert commitments.get(standing.id) is None
    assert [each.last_error for each in commitments.given_up(10)] == (
        ["why"] if state is State.GIVEN_UP else []
    )


def test_what_was_given_up_is_taken_up_again_as_if_it_were_new(
    commitments: Commitments, clock: Clock
) -> None:
    standing = checked(commitments, "1.1")
    commitments.put_off([standing], clock.now + 30, "not there")
    commitments.give_up(standing.id, "not there")
    waits = checked(commitments, "1.2")
    commitments.put_off([waits], clock.now + 30, "not there")
    clock.now += 1000
    assert commitments.retry("CT_2") == 0
    (given_up,) = commitments.waiting(State.GIVEN_UP)
    assert (given_up.requester, given_up.count, given_up.next_attempt_at) == ("CT_1", 1, None)
    assert commitments.retry("CT_1") == 1
    revived, other = commitments.due("CT_1", clock.now, LATEST, 10)
    assert (revived.id, revived.attempts, revived.due_since) == (standing.id, 0, clock.now)
    assert (other.id, other.attempts) == (waits.id, 1)
    held = commitments.get(standing.id)
    assert held is not None and list(held.references) == TWO
    assert commitments.counts()[State.CHECKED] == 2
    (waiting,) = commitments.waiting(State.CHECKED)
    assert (waiting.count, waiting.since, waiting.next_attempt_at) == (2, clock.now, 1030.0)


def test_what_is_dropped_is_forgotten(commitments: Commitments) -> None:
    commitments.give_up(checked(commitments, "1.1").id, "not there")
    checked(commitments, "1.2")
    assert commitments.drop("CT_1", (State.GIVEN_UP,)) == 1
    assert commitments.drop("CT_1", (State.GIVEN_UP, State.CHECKED)) == 1
    assert sum(commitments.counts().values()) == 0
    assert commitments.add("CT_1", "DICOMNODE", "1.1", TWO)


def test_what_is_finished_or_checked_twice_counts_once(commitments: Commitments) -> None:
    standing = checked(commitments, "1.1")
    commitments.checked(standing.id, {})
    for _ in range(2):
        commitments.deliver(standing.id)
    commitments.give_up(standing.id, "why")
    counts = {state: number for state, number in commitments.counts().items() if number}
    assert counts == {State.DELIVERED: 1}


def test_all_of_it_survives_a_restart_and_is_counted(tmp_path: Path, clock: Clock) -> None:
    with Catalog(sqlite_url(tmp_path)) as catalog:
        before = Commitments(catalog)
        before.open()
        add(before, "1.1")
        standing = checked(before, "1.2")
        before.put_off([standing], clock.now + 30, "not there")
    with Catalog(sqlite_url(tmp_path)) as catalog:
        after = Commitments(catalog)
        after.open()
        assert after.counts() == before.counts()
        assert after.counts()[State.PENDING] == after.counts()[State.CHECKED] == 1
        pending = after.next_pending((), smallest=False)
        assert pending is not None and pending.standing.transaction_uid == "1.1"
        (due,) = after.due("CT_1", clock.now + 30, LATEST, 10)
        assert (due.id, due.attempts) == (standing.id, 1)


def test_it_survives_that_the_archive_is_indexed_anew(
    catalog: Catalog, commitments: Commitments
) -> None:
    id = add(commitments, "1.1")
    catalog.truncate()
    assert commitments.get(id) is not None


def test_only_what_is_over_for_long_is_forgotten(commitments: Commitments, clock: Clock) -> None:
    for uid, state in (("1.1", State.DELIVERED), ("1.2", State.GIVEN_UP)):
        finish(commitments, checked(commitments, uid).id, state)
    add(commitments, "1.3")
    checked(commitments, "1.4")
    commitments.prune(clock.now)
    assert sum(commitments.counts().values()) == 4
    clock.now += 1
    commitments.prune(clock.now)
    assert {state: number for state, number in commitments.counts().items() if number} == {
        State.PENDING: 1,
        State.CHECKED: 1,
    }
    assert commitments.add("CT_1", "DICOMNODE", "1.1", TWO)
