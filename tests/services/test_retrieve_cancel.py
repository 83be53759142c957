"""C-CANCEL of C-GET and C-MOVE, and the end of the association."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicomnode.dimse.command import CGetRQ
from dicomnode.errors import AssociationAborted
from dicomnode.index.catalog import Catalog
from tests.services.retrieving import STUDY_GET, Bench, FakeChannel, counters
from tests.storage.objects import data_set


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.close()


async def test_a_cancel_at_once_is_answered_before_anything_is_sent(bench: Bench) -> None:
    bench.keep_study(3)
    bench.get(StudyInstanceUID="1.2.3")
    bench.cancel()
    final = await bench.finished()
    assert final.status == 0xFE00
    assert bench.channel.stores == []


async def test_a_cancel_before_the_identifier_is_whole_is_answered_after_it(bench: Bench) -> None:
    handler = bench.channel.handler
    assert handler is not None
    request = CGetRQ(has_data_set=True, message_id=7, affected_sop_class_uid=STUDY_GET)
    sink = handler.message(1, request)
    bench.cancel()
    assert sink is not None
    sink.finish()
    assert (await bench.finished()).status == 0xFE00


async def test_a_cancel_in_the_middle_lands_between_two_objects(bench: Bench) -> None:
    bench.keep_study(5)

    def on_store(count: int) -> None:
        if count == 2:
            bench.cancel()

    bench.channel.on_store = on_store
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xFE00, (3, 2, 0, 0))
    assert len(bench.channel.stores) == 2
    assert bench.records.outcomes[0].remaining == 3


async def test_a_cancel_during_the_last_object_comes_too_late(bench: Bench) -> None:
    bench.keep_study(2)
    bench.channel.on_store = lambda count: bench.cancel() if count == 2 else None
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0x0000, (None, 2, 0, 0))
    bench.cancel()
    assert len(bench.channel.responses) == 2


async def test_a_cancel_while_another_retrieval_goes_on_ends_the_waiting_one(
    bench: Bench,
) -> None:
    bench.keep_study(2)
    bench.channel.behaviour = lambda count: None
    bench.get(7, StudyInstanceUID="1.2.3")
    bench.get(8, StudyInstanceUID="1.2.3")
    for _ in range(3):
        await asyncio.sleep(0)
    bench.cancel(8)
    async with asyncio.timeout(30):
        while not bench.channel.responses:
            await asyncio.sleep(0)
    assert bench.channel.final.message_id_being_responded_to == 8
    assert bench.channel.final.status == 0xFE00
    bench.channel.end("test over")
    await bench.finished()


async def test_a_cancel_of_a_waiting_retrieval_lets_no_other_go_before_its_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    selected: list[str] = []
    select = Catalog.select_instances

    def spy(self: Catalog, keys: Any, stop: Any) -> Any:
        selected.extend(keys["StudyInstanceUID"])
        return select(self, keys, stop)

    monkeypatch.setattr(Catalog, "select_instances", spy)
    bench.keep_study(1, "1.1")
    bench.channel.behaviour = lambda count: None
    bench.get(7, StudyInstanceUID="1.1")
    bench.get(8, StudyInstanceUID="1.2")
    bench.get(9, StudyInstanceUID="1.3")
    async with asyncio.timeout(30):
        while not bench.channel.stores:
            await asyncio.sleep(0)
    bench.cancel(8)
    bench.get(10, StudyInstanceUID="1.4")
    for _ in range(1000):
        await asyncio.sleep(0)
    assert bench.channel.final.message_id_being_responded_to == 8
    assert selected == ["1.1"]
    bench.channel.end("test over")
    await bench.finished()


async def test_the_end_of_the_association_stops_a_get(bench: Bench) -> None:
    bench.keep_study(5)
    bench.channel.behaviour = lambda count: 0 if count < 3 else AssociationAborted
    bench.get(StudyInstanceUID="1.2.3")
    assert await bench.finished() is None
    assert len(bench.channel.stores) == 3
    assert bench.records.outcomes[0].completed == 2


async def test_a_requester_that_does_not_answer_is_aborted(bench: Bench) -> None:
    bench.keep_study(3)
    await bench.service.close()
    bench.rules = replace(bench.rules, response_seconds=0.01)
    bench.start()
    channel = bench.requester()
    channel.behaviour = lambda count: None
    bench.get(StudyInstanceUID="1.2.3")
    await bench.finished()
    assert "C-STORE" in channel.aborted
    assert len(channel.stores) == 1


async def test_closing_the_service_answers_what_goes_on(bench: Bench) -> None:
    bench.keep_study(3)
    bench.channel.behaviour = lambda count: None
    bench.get(StudyInstanceUID="1.2.3")
    async with asyncio.timeout(30):
        while not bench.channel.stores:
            await asyncio.sleep(0)
    await bench.service.close()
    assert bench.channel.final.status == 0xA702
    assert bench.channel.final.error_comment == "the node is shutting down"


async def test_a_cancelled_move_releases_its_association(bench: Bench) -> None:
    bench.keep_study(5)

    def behave(count: int) -> int:
        if count == 2:
            bench.cancel()
        return 0

    bench.destinations.behaviours = [behave]
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xFE00, (3, 2, 0, 0))
    assert bench.destinations.channels[0].released


async def test_a_cancel_between_two_associations_makes_no_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.keep(
        *(data_set(n, SOPClassUID=f"1.2.826.0.1.3680043.10.{n}") for n in range(1, 66)),
    )
    release = FakeChannel.release

    async def cancelled_meanwhile(self: FakeChannel) -> None:
        bench.cancel()
        await release(self)

    monkeypatch.setattr(FakeChannel, "release", cancelled_meanwhile)
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xFE00, (1, 64, 0, 0))
    assert len(bench.destinations.proposals) == 1


async def test_a_cancel_as_the_association_is_lost_makes_no_other(bench: Bench) -> None:
    bench.keep_study(5)

    def behave(count: int) -> int | type[AssociationAborted]:
        if count == 2:
            bench.cancel()
            return AssociationAborted
        return 0

    bench.destinations.behaviours = [behave]
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xFE00, (3, 1, 1, 0))
    assert len(bench.destinations.proposals) == 1


async def test_a_cancel_while_the_destination_is_called_ends_the_call(bench: Bench) -> None:
    bench.keep_study(2)
    bench.destinations.hangs = True
    bench.destinations.on_associate = lambda: asyncio.get_running_loop().call_soon(bench.cancel)  # type: ignore[assignment, return-value]
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xFE00, (2, 0, 0, 0))


async def test_the_end_of_the_requesters_association_aborts_the_destinations(
    bench: Bench,
) -> None:
    bench.keep_study(5)

    def behave(count: int) -> int | None:
        if count == 2:
            bench.channel.end("aborted by peer")
            return None
        return 0

    bench.destinations.behaviours = [behave]
    bench.move(StudyInstanceUID="1.2.3")
    assert await bench.finished() is None
    (channel,) = bench.destinations.channels
    assert "requester" in channel.aborted
    assert len(channel.stores) == 2
