"""What was sent is to be committed, and is deleted here only when all destinations keep it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import CannotAsk
from dicomnode.forward_settings import ForwardingSettings
from dicomnode.index.commitment_requests import CommitmentRequests, Outcome, State
from dicomnode.index.entry import InstanceRow
from dicomnode.outbox.commitments import CommitmentRows
from dicomnode.outbox.committing import Committing
from dicomnode.outbox.items import Settlement
from tests.index.entries import entry
from tests.outbox.queueing import Bench, numbers

BOTH = {"to": ["ARCHIVE", "BACKUP"], "commit": True, "delete_when_committed": True}
SETTINGS = ForwardingSettings(retry_seconds=100.0, max_refusals=2)

Instance = tuple[str, str]


class Ward:
    """Objects that have been sent, a requester whose peers answer as told, and an observer."""

    def __init__(self, directory: Path, *tables: dict[str, object]) -> None:
        self.bench = Bench(directory, *(tables or (BOTH,)))
        # Requests are kept with the system's time.
        self.bench.clock.now = time.time()
        self.requests = CommitmentRequests(self.bench.catalog)
        self.asked: list[tuple[str, str, list[str]]] = []
        self.refuses = False
        self.told: list[str] = []
        self.deleted_uids: list[str] = []
        self.woken: list[str] = []
        self.threads = ThreadPoolExecutor(1)
        self.restart()

    def restart(self) -> None:
        rows = CommitmentRows(self.bench.catalog, self.bench.clock)
        self.committing = Committing(
            rows,
            self,
            self.remove,
            SETTINGS,
            self,
            self.threads,
            self.woken.append,
            now=self.bench.clock,
        )

    def remove(self, uids: Sequence[str], chosen: Any) -> list[InstanceRow]:
        return self.bench.catalog.remove_if(uids, chosen, lambda cursor, rows: None)

    def close(self) -> None:
        self.threads.shutdown()
        self.bench.close()

    def send(self, *destinations: str) -> None:
        """Let destinations take what waits for them."""
        for title in destinations:
            self.bench.queue.settle(Settlement(done=self.bench.take(title)))

    # -- the requester -----------------------------------------------------------------------------

    async def ask(self, peer_title: str, instances: Sequence[Instance]) -> str:
        if self.refuses:
            raise CannotAsk("it is not in ae.toml")
        uid = f"2.25.{len(self.asked) + 1}"
        self.requests.enter(uid, peer_title, instances)
        self.asked.append((peer_title, uid, [instance for _, instance in instances]))
        self.requests.answered(uid, State.WAITING)
        return uid

    def report(self, number: int, failed: Sequence[str] = (), unmentioned: int = 0) -> None:
        """Report on the request with a number."""
        _, uid, uids = self.asked[number]
        found = self.requests.instances(uid)
        outcome = Outcome(
            len(uids) - len(failed) - unmentioned,
            tuple((*one, 0x0112) for one in found if one[1] in failed),
            tuple(found[:unmentioned]),
            "",
            f"digest {uid}",
        )
        assert self.requests.conclude(uid, outcome)

    # -- the observer ------------------------------------------------------------------------------

    def cannot_ask(self, destination: str, words: str) -> None:
        self.told.append(f"{destination}: {words}")

    def not_committed(self, destination: str, count: int, words: str) -> None:
        self.told.append(f"{destination} {count}: {words}")

    def deleted(self, rows: Sequence[InstanceRow]) -> None:
        self.deleted_uids += [row.sop_instance_uid for row in rows]

    def internal_error(self, what: str, error: BaseException) -> None:
        raise error


MakeWard = Callable[..., Ward]


@pytest.fixture
def make_ward(tmp_path: Path) -> Iterator[MakeWard]:
    made: list[Ward] = []

    def make(*tables: dict[str, object]) -> Ward:
        made.append(Ward(tmp_path, *tables))
        return made[-1]

    yield make
    for ward in made:
        ward.close()


UIDS = [entry(number).sop_instance_uid for number in (1, 2)]


async def test_an_object_is_deleted_when_the_last_destination_has_committed(
    make_ward: MakeWard,
) -> None:
    ward = make_ward()
    ward.bench.fill(2)
    ward.send("ARCHIVE")
    assert await ward.committing.look()
    assert ward.asked == [("ARCHIVE", "2.25.1", UIDS)]
    ward.report(0)
    assert await ward.committing.look()
    assert ward.bench.counts() == {"ARCHIVE COMMITTED": 2, "BACKUP READY": 2}
    ward.send("BACKUP")
    await ward.committing.look()
    assert ward.bench.catalog.counts().instances == 2, "BACKUP has said nothing yet"
    ward.restart()
    ward.report(1)
    assert not await ward.committing.look()
    assert sorted(ward.deleted_uids) == UIDS
    assert ward.bench.catalog.counts().instances == 0
    assert ward.bench.counts() == {}


async def test_what_is_not_to_be_deleted_stays_when_it_is_committed(make_ward: MakeWard) -> None:
    ward = make_ward({"commit": True})
    ward.bench.fill(2)
    ward.send("ARCHIVE")
    await ward.committing.look()
    ward.report(0)
    assert not await ward.committing.look()
    assert ward.bench.counts() == {}
    assert ward.bench.catalog.counts().instances == 2


async def test_what_a_destination_does_not_keep_is_sent_to_it_again(make_ward: MakeWard) -> None:
    ward = make_ward(BOTH | {"to": ["ARCHIVE"]})
    ward.bench.fill(2)
    ward.send("ARCHIVE")
    await ward.committing.look()
    ward.report(0, failed=UIDS[1:])
    assert await ward.committing.look() is False
    assert ward.deleted_uids == UIDS[:1]
    assert ward.told == ["ARCHIVE 1: not committed: 0112H"]
    assert ward.woken == ["ARCHIVE"]
    ward.bench.clock.now += 100
    assert numbers(ward.bench.take()) == [2]
    ward.send("ARCHIVE")
    await ward.committing.look()
    ward.report(1, unmentioned=1)
    await ward.committing.look()
    (dead,) = ward.bench.queue.dead(None, 10)
    assert dead["last_error"] == "not committed: not mentioned in the report"
    assert ward.bench.catalog.counts().instances == 1


async def test_a_destination_that_cannot_be_asked_is_asked_again_later(make_ward: MakeWard) -> None:
    ward = make_ward()
    ward.bench.fill(1)
    ward.send("ARCHIVE")
    ward.refuses = True
    assert await ward.committing.look()
    ward.refuses = False
    await ward.committing.look()
    assert ward.asked == []
    assert ward.told == ["ARCHIVE: it is not in ae.toml"]
    ward.bench.clock.now += 100
    await ward.committing.look()
    assert len(ward.asked) == 1


async def test_a_request_that_is_refused_or_forgotten_is_made_again(make_ward: MakeWard) -> None:
    ward = make_ward()
    ward.bench.fill(1)
    ward.send("ARCHIVE")
    await ward.committing.look()
    ward.requests.prune(4e9)
    await ward.committing.look()
    ward.bench.clock.now += 100
    await ward.committing.look()
    assert [uid for _, uid, _ in ward.asked] == ["2.25.1", "2.25.2"]


async def test_a_report_that_does_not_come_is_asked_for_again(make_ward: MakeWard) -> None:
    ward = make_ward()
    ward.bench.fill(1)
    ward.send("ARCHIVE")
    await ward.committing.look()
    request = ward.requests.get("2.25.1")
    assert request is not None
    ward.bench.clock.now = request.asked_at + 24 * 3600 + 1
    await ward.committing.look()
    assert ward.told == ["ARCHIVE: its report has not come"]
    ward.bench.clock.now += 100
    await ward.committing.look()
    assert len(ward.asked) == 2


async def test_an_object_that_another_rule_still_has_to_send_is_not_deleted(
    make_ward: MakeWard,
) -> None:
    ward = make_ward(BOTH | {"to": ["ARCHIVE"]}, {"to": ["TEACHING"]})
    ward.bench.fill(1)
    ward.send("ARCHIVE")
    await ward.committing.look()
    ward.report(0)
    assert await ward.committing.look()
    assert ward.bench.catalog.counts().instances == 1
    ward.send("TEACHING")
    await ward.committing.look()
    assert ward.deleted_uids == UIDS[:1]


async def test_what_is_dropped_for_one_destination_is_not_deleted(make_ward: MakeWard) -> None:
    ward = make_ward()
    ward.bench.fill(1)
    ward.send("ARCHIVE")
    await ward.committing.look()
    ward.report(0)
    await ward.committing.look()
    ward.bench.queue.drop("BACKUP", dead_only=False)
    assert not await ward.committing.look()
    assert ward.bench.counts() == {}
    assert ward.bench.catalog.counts().instances == 1


async def test_what_replaced_an_object_meanwhile_is_not_deleted_with_it(
    make_ward: MakeWard,
) -> None:
    ward = make_ward(BOTH | {"to": ["ARCHIVE"]})
    ward.bench.fill(1)
    ward.send("ARCHIVE")
    await ward.committing.look()
    ward.bench.enter(entry(PatientID="another"), replace=True)
    ward.report(0)
    await ward.committing.look()
    assert ward.deleted_uids == []
    assert ward.bench.counts() == {"ARCHIVE COMMITTED": 1, "ARCHIVE READY": 1}


async def test_what_replaced_an_object_and_is_under_no_rule_is_not_deleted_with_it(
    make_ward: MakeWard,
) -> None:
    ward = make_ward(BOTH | {"to": ["ARCHIVE"], "modalities": ["CT"]})
    ward.bench.fill(1)
    ward.send("ARCHIVE")
    await ward.committing.look()
    other = replace(entry(Modality="MR"), received_at=ward.bench.clock.now + 1)
    ward.bench.enter(other, replace=True)
    ward.report(0)
    assert not await ward.committing.look()
    assert (ward.deleted_uids, ward.bench.counts()) == ([], {})
    assert ward.bench.catalog.counts().instances == 1
