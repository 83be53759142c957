"""Messages of performed steps in the queue: in order, together, and never without an N-CREATE."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Attachment
from dicomnode.outbox.items import Failure, Item, Settlement
from dicomnode.storage.json_model import Attributes
from tests.outbox.queueing import Bench

STEP, OTHER = "1.2.3.1", "1.2.3.2"
CT: Attributes = {"00080060": {"vr": "CS", "Value": ["CT"]}}
OF_STEPS = {"what": "mpps"}


class Steps(Bench):
    """A queue for steps; what is told of is kept."""

    def __init__(self, directory: Path, *tables: dict[str, object]) -> None:
        super().__init__(directory, *(OF_STEPS | table for table in tables or ({},)))
        self.woken: list[str] = []

    def create(self, uid: str = STEP, attributes: Attributes = CT, source: str = "CT_1") -> None:
        orders = self.rules.step_orders(attributes, source)
        self._commit(self.queue.messages.created(uid, attributes, orders, self.woken.extend))

    def change(self, uid: str = STEP, *, is_over: bool = False) -> None:
        self._commit(self.queue.messages.changed(uid, CT, self.woken.extend, is_over=is_over))

    def _commit(self, entry: Attachment) -> None:
        self.catalog.transact(entry.apply)
        entry.committed()

    def shown(self, destination: str = "ARCHIVE") -> list[tuple[str, str]]:
        return [(item.operation, item.sop_instance_uid) for item in self.take(destination)]

    def settle(self, items: Sequence[Item], until: float | None = 0.0, words: str = "") -> None:
        """Say that items were sent; with ``words``, that they failed."""
        if words:
            failed = [Failure(item, words, until) for item in items]
            self.queue.settle(Settlement(failed=failed))
        else:
            self.queue.settle(Settlement(done=list(items)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Steps]:
    bench = Steps(tmp_path)
    yield bench
    bench.close()


def test_of_a_step_one_message_is_taken_at_a_time(bench: Steps) -> None:
    bench.create()
    bench.create(OTHER)
    bench.change()
    bench.change(is_over=True)
    assert bench.shown() == [("N-CREATE", STEP), ("N-CREATE", OTHER)]
    bench.settle(bench.take()[:1])
    assert bench.shown() == [("N-CREATE", OTHER), ("N-SET", STEP)]
    assert set(bench.woken) == {"ARCHIVE"}


@pytest.mark.parametrize("until", [2_000_000_000.0, None])
def test_what_waits_or_is_set_aside_is_not_overtaken(bench: Steps, until: float | None) -> None:
    bench.create()
    bench.change()
    bench.settle(bench.take(), until, "refused")
    assert bench.shown() == []
    bench.reopen()
    assert bench.shown() == []
    bench.queue.revive("ARCHIVE")
    assert bench.shown() == [("N-CREATE", STEP)]


def test_each_destination_is_told_for_itself(tmp_path: Path) -> None:
    bench = Steps(tmp_path, {"to": ["ARCHIVE", "BACKUP"]})
    bench.create()
    bench.change()
    bench.settle(bench.take())
    assert bench.shown() == [("N-SET", STEP)]
    assert bench.shown("BACKUP") == [("N-CREATE", STEP)]
    bench.close()


def test_a_message_keeps_its_attributes_until_it_is_sent(bench: Steps) -> None:
    bench.create(attributes=CT | {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Dö^J"}]}})
    (item,) = bench.take()
    bench.reopen()
    message = bench.queue.messages.get(item.id)
    assert message is not None
    assert message.attributes["00100010"]["Value"] == [{"Alphabetic": "Dö^J"}]
    bench.settle([item])
    assert bench.queue.messages.get(item.id) is None


def test_whoever_got_no_n_create_gets_no_n_set(bench: Steps) -> None:
    bench.change()
    bench.create(OTHER, attributes={}, source="ARCHIVE")
    bench.change(OTHER)
    assert bench.counts() == {}
    assert bench.woken == []


def test_a_step_goes_on_to_where_it_began_though_the_rule_is_gone(bench: Steps) -> None:
    bench.create()
    bench.settle(bench.take())
    bench.rules = type(bench.rules)([], bench.registry, strict=False)
    bench.change(is_over=True)
    assert bench.shown() == [("N-SET", STEP)]
    bench.change()
    assert bench.counts() == {"ARCHIVE READY": 1}


def test_an_alternate_gets_steps_that_have_not_begun_with_all_that_follows(bench: Steps) -> None:
    bench.create()
    bench.settle(bench.take())
    bench.change()
    bench.create(OTHER)
    bench.change(OTHER)
    assert bench.queue.redirect("ARCHIVE", "BACKUP", ["rule 0"]) == 1
    bench.change(OTHER, is_over=True)
    assert bench.shown() == [("N-SET", STEP)]
    assert bench.counts() == {"ARCHIVE READY": 1, "BACKUP READY": 3}
    for operation in ("N-CREATE", "N-SET", "N-SET"):
        items = bench.take("BACKUP")
        assert [(item.operation, item.meant_for) for item in items] == [(operation, "ARCHIVE")]
        bench.settle(items)


def test_with_an_n_create_all_that_follows_is_dropped(bench: Steps) -> None:
    bench.create()
    bench.change()
    bench.create(OTHER)
    bench.change(OTHER)
    bench.settle(bench.take()[:1], None, "refused")
    assert bench.queue.drop("ARCHIVE", dead_only=True) == 2
    bench.change(is_over=True)
    assert bench.counts() == {"ARCHIVE READY": 2}
    assert bench.shown() == [("N-CREATE", OTHER)]


def test_an_n_set_that_is_dropped_lets_the_next_one_go(bench: Steps) -> None:
    bench.create()
    bench.settle(bench.take())
    bench.change()
    bench.change()
    bench.settle(bench.take(), None, "refused")
    assert bench.shown() == []
    assert bench.queue.drop("ARCHIVE", dead_only=True) == 1
    assert bench.shown() == [("N-SET", STEP)]


def test_what_was_set_aside_is_listed_with_its_operation(bench: Steps) -> None:
    bench.create()
    bench.settle(bench.take(), None, "refused")
    (dead,) = bench.queue.dead(None, 10)
    assert (dead["what"], dead["sop_instance_uid"]) == ("N-CREATE", STEP)


def test_a_transaction_that_fails_leaves_no_row(
    bench: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("dicomnode.index.backend.Prepared.run", full)
        with pytest.raises(CatalogError):
            bench.create()
    assert bench.counts() == {}
    assert bench.woken == []
