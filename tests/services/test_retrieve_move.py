"""C-MOVE: to whom, over which associations, and how it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.errors import AssociationAborted, ConnectionFailed
from dicomnode.registry import AE, Registry
from tests.services.retrieving import Bench, FakeChannel, counters
from tests.storage.objects import CT_STORAGE, EXPLICIT, IMPLICIT, data_set, encoded


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.close()


async def test_a_move_sends_to_the_registered_destination_and_says_for_whom(bench: Bench) -> None:
    bench.keep_study(3)
    bench.move(message_id=42, StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0x0000, (None, 3, 0, 0))
    (proposal,) = bench.destinations.proposals
    assert (proposal.host, proposal.port) == ("192.0.2.9", 104)
    assert (proposal.called_ae_title, proposal.calling_ae_title) == ("ARCHIVE", "DICOMNODE")
    assert [
        (context.context_id, context.abstract_syntax, context.transfer_syntaxes)
        for context in proposal.contexts
    ] == [(1, CT_STORAGE, (EXPLICIT,)), (3, CT_STORAGE, (IMPLICIT,))]
    (channel,) = bench.destinations.channels
    assert [data for _, _, data in channel.stores] == [
        encoded(data_set(number, "1.2.3", "1.2.3.4")) for number in (1, 2, 3)
    ]
    for _, request, _ in channel.stores:
        assert request.move_originator_ae_title == "WS_1"
        assert request.move_originator_message_id == 42
    assert channel.released
    assert bench.records.outcomes[0].destination == "ARCHIVE"


@pytest.mark.parametrize("title", ("NOBODY", "HOSTLESS"))
async def test_an_unknown_destination_is_a801_and_nothing_is_dialled(
    bench: Bench, title: str
) -> None:
    bench.registry = Registry([AE(title="HOSTLESS")])
    bench.keep_study(1)
    bench.move(title, StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert final.status == 0xA801
    assert "ae.toml" in final.error_comment
    assert bench.destinations.proposals == []
    assert title in bench.records.outcomes[0].findings[0].words


async def test_a_move_of_nothing_asks_for_no_association(bench: Bench) -> None:
    bench.move(StudyInstanceUID="1.2.3")
    assert counters(await bench.finished()) == (None, 0, 0, 0)
    assert bench.destinations.proposals == []


async def test_a_destination_that_takes_only_implicit_gets_that(bench: Bench) -> None:
    bench.keep_study(1)
    bench.destinations.accepts = lambda uid, offered: IMPLICIT if IMPLICIT in offered else None
    bench.move(StudyInstanceUID="1.2.3")
    assert counters(await bench.finished()) == (None, 1, 0, 0)
    ((context_id, _, data),) = bench.destinations.channels[0].stores
    assert (context_id, data) == (3, encoded(data_set(1, "1.2.3", "1.2.3.4"), IMPLICIT))


async def test_a_destination_that_cannot_be_reached_fails_all_with_the_reason(
    bench: Bench,
) -> None:
    bench.keep_study(3)
    bench.destinations.error = ConnectionFailed("cannot connect to ARCHIVE: connection refused")
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xA702, (None, 0, 3, 0))
    assert len(bench.channel.failed_uids) == 3
    (finding,) = bench.records.outcomes[0].findings
    assert finding.words == "3 of 3: cannot connect to ARCHIVE: connection refused"
    assert len(bench.destinations.proposals) == 1


async def test_a_failed_list_ends_where_an_element_does(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.services.sub_operations._MAX_LIST_BYTES", 100)
    bench.keep_study(20)
    bench.destinations.error = ConnectionFailed("connection refused")
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xA702, (None, 0, 20, 0))
    assert bench.channel.failed_uids == [f"1.2.3.4.{number}" for number in range(1, 5)]
    (finding,) = bench.records.outcomes[0].findings
    assert finding.words == "20 of 20: connection refused"


async def test_a_destination_that_accepts_no_context_fails_all(bench: Bench) -> None:
    bench.keep_study(2)
    bench.destinations.accepts = lambda uid, offered: None
    bench.move(StudyInstanceUID="1.2.3")
    assert (await bench.finished()).status == 0xA702
    (finding,) = bench.records.outcomes[0].findings
    assert "no presentation context accepted by ARCHIVE" in finding.words
    assert finding.advice == "Let ARCHIVE accept CT Image Storage."
    assert bench.destinations.channels[0].released


async def test_an_association_lost_after_success_is_made_anew_and_the_rest_sent(
    bench: Bench,
) -> None:
    bench.keep_study(5)
    bench.destinations.behaviours = [lambda count: 0 if count < 3 else AssociationAborted]
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xB000, (None, 4, 1, 0))
    assert bench.channel.failed_uids == ["1.2.3.4.3"]
    assert len(bench.destinations.proposals) == 2
    (finding,) = bench.records.outcomes[0].findings
    assert finding.words == "1 of 5: the association with ARCHIVE ended: aborted by peer"


async def test_an_association_lost_at_the_last_object_is_not_made_anew(bench: Bench) -> None:
    bench.keep_study(3)
    bench.destinations.behaviours = [lambda count: 0 if count < 3 else AssociationAborted]
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xB000, (None, 2, 1, 0))
    assert len(bench.destinations.proposals) == 1


async def test_an_association_lost_at_the_first_object_fails_the_rest(bench: Bench) -> None:
    bench.keep_study(5)
    bench.destinations.behaviours = [lambda count: AssociationAborted] * 9
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xA702, (None, 0, 5, 0))
    assert len(bench.destinations.proposals) == 1


async def test_a_destination_that_hangs_is_aborted_and_the_rest_fails(bench: Bench) -> None:
    bench.keep_study(4)
    await bench.service.close()
    bench.rules = replace(bench.rules, response_seconds=0.01)
    bench.start()
    bench.requester()
    bench.destinations.behaviours = [lambda count: 0 if count < 3 else None]
    bench.move(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xB000, (None, 2, 2, 0))
    assert "no answer" in bench.destinations.channels[0].aborted
    assert len(bench.destinations.proposals) == 1


async def test_more_than_128_contexts_make_more_than_one_association(bench: Bench) -> None:
    classes = [f"1.2.826.0.1.3680043.10.{number}" for number in range(130)]
    bench.keep(
        *(data_set(number, SOPClassUID=uid) for number, uid in enumerate(classes, 1)),
        data_set(200),
    )
    bench.move(StudyInstanceUID="1.2.3")
    assert counters(await bench.finished()) == (None, 131, 0, 0)
    sizes = [len(proposal.contexts) for proposal in bench.destinations.proposals]
    assert sizes == [128, 128, 6]
    for proposal in bench.destinations.proposals:
        ids = [context.context_id for context in proposal.contexts]
        assert ids == list(range(1, 2 * len(ids), 2))


async def test_a_move_of_more_than_are_kept_in_memory_sends_all_of_them(bench: Bench) -> None:
    bench.keep_study(1100)
    bench.move(StudyInstanceUID="1.2.3")
    assert counters(await bench.finished()) == (None, 1100, 0, 0)


async def test_a_destination_slow_to_release_does_not_hold_up_the_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.services.retrieval._RELEASE_SECONDS", 0.01)

    async def release(self: FakeChannel) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(FakeChannel, "release", release)
    bench.keep_study(1)
    bench.move(StudyInstanceUID="1.2.3")
    assert (await bench.finished()).status == 0x0000


async def test_more_moves_to_one_destination_than_it_may_have_take_turns(bench: Bench) -> None:
    bench.keep_study(1)
    made = bench.destinations
    open_at_once: list[int] = []
    made.on_associate = lambda: open_at_once.append(
        len(made.proposals) - sum(bool(channel.aborted) for channel in made.channels)
    )
    channels = []
    for number in range(30):
        channel = bench.requester()
        channel.number = number
        channels.append(channel)
        bench.move(StudyInstanceUID="1.2.3")
    await bench.finished()
    assert [channel.final.status for channel in channels] == [0x0000] * 30
    assert len(open_at_once) == 30
    assert max(open_at_once) <= 8


async def test_who_may_not_send_there_is_answered_0124_and_nothing_is_dialled(bench: Bench) -> None:
    archive = AE(title="ARCHIVE", host="192.0.2.9")
    bench.registry = Registry([archive, AE(title="WS_1", move_destinations=("OTHER",))])
    bench.keep_study(1)
    bench.move("ARCHIVE", StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert final.status == 0x0124
    assert final.error_comment == "ARCHIVE is not among the move_destinations of WS_1"
    assert bench.destinations.proposals == []


async def test_who_may_send_there_does_whatever_the_case_of_the_title(bench: Bench) -> None:
    archive = AE(title="ARCHIVE", host="192.0.2.9")
    bench.registry = Registry([archive, AE(title="WS_1", move_destinations=("archive",))])
    bench.keep_study(1)
    bench.move("ARCHIVE", StudyInstanceUID="1.2.3")
    assert (await bench.finished()).status == 0x0000
