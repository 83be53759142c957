"""C-FIND: how a query goes and ends, and what is told of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dicomnode.dimse.command import CCancelRQ
from dicomnode.index.catalog import SearchStopped
from tests.services.querying import Fixture, keys, many, written
from tests.storage.objects import EXPLICIT


@pytest_asyncio.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Fixture]:
    fixture = Fixture(tmp_path)
    yield fixture
    await asyncio.to_thread(fixture.close)


# -- cancel, ends, turns -----------------------------------------------------------------------


async def test_cancel_ends_a_query_at_once_with_one_final_response(archive: Fixture) -> None:
    many(archive, 300)
    handler = archive.associate()
    archive.channel.readable.clear()
    sent_first = asyncio.Event()
    archive.channel.on_send = lambda count: sent_first.set() if count >= 128 else None
    archive.ask(handler, written(keys(StudyInstanceUID=""), EXPLICIT))
    await asyncio.wait_for(sent_first.wait(), 20)
    handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert archive.channel.sent[-1][0].status == 0xFE00
    archive.channel.readable.set()
    await asyncio.wait_for(archive.told.wait(), 20)
    statuses = [response.status for response, _ in archive.channel.sent]
    assert statuses == [0xFF00] * 128 + [0xFE00]
    handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert len(archive.channel.sent) == 129


async def test_cancel_stops_a_search_that_is_running(
    archive: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(level: object, conditions: object, limit: int, stop: Any) -> None:
        begun.set()
        while not stop.stopped:
            pass
        ended.set()
        raise SearchStopped

    monkeypatch.setattr(archive.catalog, "find", slow)
    handler = archive.associate()
    archive.ask(handler, written(keys(StudyInstanceUID=""), EXPLICIT))
    await asyncio.to_thread(begun.wait, 20)
    handler.message(1, CCancelRQ(message_id_being_responded_to=1))
    assert [response.status for response, _ in archive.channel.sent] == [0xFE00]
    assert await asyncio.to_thread(ended.wait, 20)
    await asyncio.wait_for(archive.told.wait(), 20)
    assert len(archive.channel.sent) == 1


async def test_the_end_of_the_association_ends_its_query(archive: Fixture) -> None:
    many(archive, 300)
    handler = archive.associate()
    archive.channel.readable.clear()
    sent_first = asyncio.Event()
    archive.channel.on_send = lambda count: sent_first.set() if count >= 128 else None
    archive.ask(handler, written(keys(StudyInstanceUID=""), EXPLICIT))
    await asyncio.wait_for(sent_first.wait(), 20)
    handler.closed("aborted by peer")
    archive.channel.readable.set()
    await asyncio.wait_for(archive.told.wait(), 20)
    assert len(archive.channel.sent) == 128
    assert archive.outcomes[0].matches == 128


async def test_no_more_is_read_than_the_peer_takes(archive: Fixture) -> None:
    many(archive, 300)
    handler = archive.associate()
    archive.channel.readable.clear()
    sent_first = asyncio.Event()
    archive.channel.on_send = lambda count: sent_first.set() if count >= 128 else None
    archive.ask(handler, written(keys(StudyInstanceUID=""), EXPLICIT))
    await asyncio.wait_for(sent_first.wait(), 20)
    await asyncio.to_thread(lambda: None)
    assert len(archive.channel.sent) == 128
    archive.channel.readable.set()
    await asyncio.wait_for(archive.channel.final.wait(), 20)
    assert len(archive.channel.sent) == 301


async def test_queries_of_one_association_are_answered_in_order(archive: Fixture) -> None:
    many(archive, 200)
    handler = archive.associate()
    data = written(keys(StudyInstanceUID=""), EXPLICIT)
    archive.ask(handler, data, 1)
    archive.ask(handler, data, 2)
    while len(archive.outcomes) < 2:
        archive.told.clear()
        await asyncio.wait_for(archive.told.wait(), 20)
    ids = [response.message_id_being_responded_to for response, _ in archive.channel.sent]
    assert ids == [1] * 201 + [2] * 201


async def test_a_slow_query_holds_up_no_other(
    archive: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(archive, 1)
    gate, find = threading.Event(), archive.catalog.find

    def slow(level: Any, conditions: Any, limit: int, stop: Any) -> Any:
        if conditions:
            assert gate.wait(20)
        return find(level, conditions, limit, stop)

    monkeypatch.setattr(archive.catalog, "find", slow)
    archive.ask(archive.associate(), written(keys(StudyInstanceUID="1.1"), EXPLICIT))
    slow_channel = archive.channel
    matches, _ = await archive.find(keys(StudyInstanceUID=""))
    assert len(matches) == 1 and not slow_channel.sent
    gate.set()
    await asyncio.wait_for(slow_channel.final.wait(), 20)


# -- outcomes ----------------------------------------------------------------------------------


async def test_an_empty_answer_is_explained_by_the_key_that_matches_nothing(
    archive: Fixture,
) -> None:
    many(archive, 2)
    await archive.find(keys(PatientID="P0", AccessionNumber="A77"))
    await asyncio.wait_for(archive.told.wait(), 20)
    (outcome,) = archive.outcomes
    assert (outcome.level, outcome.matches) == ("STUDY", 0)
    assert set(outcome.keys) == {"PatientID", "AccessionNumber"}
    (finding,) = outcome.findings
    assert finding.words == "no STUDY has this AccessionNumber"
    assert finding.patient_value == "A77"


async def test_keys_that_match_each_for_itself_are_told_so(archive: Fixture) -> None:
    many(archive, 2)
    await archive.find(keys(PatientID="P0", StudyInstanceUID="1.2"))
    await asyncio.wait_for(archive.told.wait(), 20)
    (finding,) = archive.outcomes[0].findings
    assert finding.words == "each key matches some STUDY, but none matches all of them"


async def test_an_outcome_tells_matches_bytes_and_keys(archive: Fixture) -> None:
    many(archive, 2)
    await archive.find(keys(PatientID="P*"))
    await asyncio.wait_for(archive.told.wait(), 20)
    (outcome,) = archive.outcomes
    assert (outcome.matches, outcome.keys, outcome.findings) == (2, ("PatientID",), ())
    assert outcome.sent_bytes == sum(len(data or b"") for _, data in archive.channel.sent)


async def test_a_uid_that_matches_nothing_is_named(archive: Fixture) -> None:
    many(archive, 1)
    await archive.find(keys(StudyInstanceUID="1.77"))
    await asyncio.wait_for(archive.told.wait(), 20)
    (finding,) = archive.outcomes[0].findings
    assert (finding.words, finding.patient_value) == (
        "no STUDY has this StudyInstanceUID 1.77",
        "",
    )


async def test_the_next_query_does_not_wait_for_the_explanation_of_an_empty_answer(
    archive: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(archive, 1)
    gate, find = threading.Event(), archive.catalog.find

    def find_slowly(level: Any, conditions: Any, limit: int, stop: Any) -> Any:
        if limit == 1:
            assert gate.wait(20)
        return find(level, conditions, limit, stop)

    monkeypatch.setattr(archive.catalog, "find", find_slowly)
    handler = archive.associate()
    archive.ask(handler, written(keys(PatientID="NONE"), EXPLICIT), 1)
    archive.ask(handler, written(keys(PatientID="P0"), EXPLICIT), 2)
    second = asyncio.Event()
    archive.channel.on_send = lambda count: second.set() if count == 3 else None
    try:
        await asyncio.wait_for(second.wait(), 20)
    finally:
        gate.set()
    ids = [command.message_id_being_responded_to for command, _ in archive.channel.sent]
    assert ids == [1, 2, 2]
