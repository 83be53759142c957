"""Objects that are held already, and are queued by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.outbox.items import Failure, Settlement
from tests.index.entries import entry
from tests.outbox.queueing import Bench

TO_BE_DELETED = {"to": ("ARCHIVE",), "commit": True, "delete_when_committed": True}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, {"to": ("ARCHIVE",)})
    yield bench
    bench.close()


def objects(*numbers: int) -> dict[str, str]:
    made = [entry(number) for number in numbers]
    return {each.sop_instance_uid: each.study_instance_uid for each in made}


def test_they_are_sent_as_what_a_rule_takes(bench: Bench) -> None:
    bench.fill(3)
    assert bench.queue.enqueue("OTHER", "fetch x", 2, objects(1, 2, 3)) == {}
    items = bench.take("OTHER")
    assert [item.row is not None for item in items] == [True] * 3
    bench.queue.settle(Settlement(done=items))
    assert bench.counts() == {"ARCHIVE READY": 3}


def test_what_waits_already_is_not_queued_again(bench: Bench) -> None:
    bench.fill(3)
    assert bench.queue.enqueue("ARCHIVE", "fetch x", 2, objects(1, 2, 3)) == {}
    assert bench.counts() == {"ARCHIVE READY": 3}
    assert bench.queue.enqueue("OTHER", "fetch x", 2, objects(1)) == {}
    assert bench.queue.enqueue("OTHER", "fetch x", 2, objects(1, 2)) == {}
    assert bench.counts() == {"ARCHIVE READY": 3, "OTHER READY": 2}


def test_what_was_set_aside_stays_so_and_is_told(bench: Bench) -> None:
    bench.fill(1)
    (item,) = bench.take()
    bench.queue.settle(Settlement(failed=[Failure(item, "refused", None)]))
    told = bench.queue.enqueue("ARCHIVE", "fetch x", 2, objects(1))
    assert list(told) == list(objects(1))
    assert "outbox list --dead" in next(iter(told.values()))
    assert bench.counts() == {"ARCHIVE DEAD": 1}


def test_what_is_about_to_be_deleted_is_left_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, TO_BE_DELETED)
    bench.fill(1)
    told = bench.queue.enqueue("OTHER", "fetch x", 2, objects(1))
    assert "deleted" in next(iter(told.values()))
    assert bench.counts() == {"ARCHIVE READY": 1}
    bench.close()
