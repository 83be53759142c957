"""Worklist queries: how they are cancelled, and what happens when the index fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dicomnode.dimse.command import CCancelRQ
from dicomnode.errors import CatalogError
from dicomnode.services.sop_classes import MODALITY_WORKLIST
from tests.services.querying import written
from tests.services.scheduling import Scheduling, asked, new_item
from tests.storage.objects import EXPLICIT


@pytest_asyncio.fixture
async def worklist(tmp_path: Path) -> AsyncIterator[Scheduling]:
    fixture = Scheduling(tmp_path)
    yield fixture
    await asyncio.to_thread(fixture.close)


async def test_cancel_ends_the_answers_with_one_final_response(worklist: Scheduling) -> None:
    worklist.items.put([new_item(f"item_{number:03}") for number in range(300)])
    handler = worklist.associate(MODALITY_WORKLIST)
    worklist.channel.readable.clear()
    sent_first = asyncio.Event()
    worklist.channel.on_send = lambda count: sent_first.set() if count >= 128 else None
    worklist.ask(handler, written(asked(ScheduledProcedureStepID=""), EXPLICIT))
    await asyncio.wait_for(sent_first.wait(), 20)
    handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    worklist.channel.readable.set()
    await asyncio.wait_for(worklist.told.wait(), 20)
    statuses = [response.status for response, _ in worklist.channel.sent]
    assert statuses == [0xFF00] * 128 + [0xFE00]


async def test_cancel_stops_a_search_between_two_batches_of_items(
    worklist: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    worklist.items.put([new_item(f"item_{number:03}") for number in range(600)])
    begun, go_on = threading.Event(), threading.Event()
    fetch, fetched = worklist.items.fetch, []

    def slow(ids: Any) -> Any:
        fetched.append(len(ids))
        begun.set()
        go_on.wait(20)
        return fetch(ids)

    monkeypatch.setattr(worklist.items, "fetch", slow)
    handler = worklist.associate(MODALITY_WORKLIST)
    # Patient's Sex has no column: each item is looked at.
    worklist.ask(handler, written(asked(PatientSex="F"), EXPLICIT))
    assert await asyncio.to_thread(begun.wait, 20)
    handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert [response.status for response, _ in worklist.channel.sent] == [0xFE00]
    go_on.set()
    await asyncio.wait_for(worklist.told.wait(), 20)
    assert len(fetched) == 1


async def test_an_item_that_is_removed_while_it_is_answered_is_left_out(
    worklist: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    worklist.items.put([new_item("one"), new_item("two")])
    find = worklist.items.find

    def find_and_remove(*given: Any, **more: Any) -> Any:
        found = find(*given, **more)
        worklist.items.remove(["one"])
        return found

    monkeypatch.setattr(worklist.items, "find", find_and_remove)
    matches, final = await worklist.ask_for(asked(ScheduledProcedureStepID=""))
    assert (len(matches), final.status) == (1, 0x0000)


async def test_an_index_that_fails_is_answered_with_unable_to_process(
    worklist: Scheduling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **more: Any) -> Any:
        raise CatalogError("the disk is gone")

    monkeypatch.setattr(worklist.items, "find", fail)
    matches, final = await worklist.ask_for(asked(PatientID=""))
    assert (matches, final.status) == ([], 0xC000)
    assert final.error_comment == "the index failed"
