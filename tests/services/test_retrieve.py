"""C-GET and C-MOVE: what is sent, how it is counted, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dicomnode.dimse.command import CGetRQ
from dicomnode.errors import AssociationAborted, CatalogError, ConnectionFailed
from dicomnode.index.catalog import Catalog
from dicomnode.registry import AE, Registry
from dicomnode.ul.negotiation import AcceptedContext
from tests.services.retrieving import PATIENT_GET, STUDY_GET, Bench, FakeChannel, identifier
from tests.storage.objects import BIG, CT_STORAGE, DEFLATED, EXPLICIT, IMPLICIT, data_set, encoded

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
JPEG_2000 = "1.2.840.10008.1.2.4.90"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.close()


def counters(response: Any) -> tuple[int | None, int | None, int | None, int | None]:
    """Return Remaining, Completed, Failed, Warning."""
    return (
        response.number_of_remaining_suboperations,
        response.number_of_completed_suboperations,
        response.number_of_failed_suboperations,
        response.number_of_warning_suboperations,
    )


# -- C-GET ---------------------------------------------------------------------------------------


async def test_objects_are_sent_as_stored_and_counted_on_the_way(bench: Bench) -> None:
    bench.keep_study(3)
    bench.keep_study(2, "1.9")
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    channel = bench.channel
    assert [data for _, _, data in channel.stores] == [
        encoded(data_set(number, "1.2.3", "1.2.3.4")) for number in (1, 2, 3)
    ]
    assert {context_id for context_id, _, _ in channel.stores} == {11}
    assert [request.affected_sop_instance_uid for _, request, _ in channel.stores] == [
        "1.2.3.4.1",
        "1.2.3.4.2",
        "1.2.3.4.3",
    ]
    assert {request.priority for _, request, _ in channel.stores} == {1}
    assert [counters(response) for response in channel.pendings] == [(2, 1, 0, 0), (1, 2, 0, 0)]
    assert (final.status, counters(final)) == (0x0000, (None, 3, 0, 0))
    outcome = bench.records.outcomes[0]
    assert (outcome.level, outcome.completed, outcome.findings) == ("STUDY", 3, ())
    assert outcome.sent_bytes == sum(len(data) for _, _, data in channel.stores)


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ({"StudyInstanceUID": ["1.1", "1.2"]}, 4),
        ({"level": "SERIES", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.4"}, 2),
        (
            {
                "level": "IMAGE",
                "StudyInstanceUID": "1.1",
                "SeriesInstanceUID": "1.1.4",
                "SOPInstanceUID": ["1.1.4.1", "1.1.4.2", "1.1.4.77"],
            },
            2,
        ),
        ({"level": "PATIENT", "PatientID": "4711", "sop_class": PATIENT_GET}, 6),
    ],
)
async def test_every_level_can_be_retrieved(bench: Bench, keys: Any, count: int) -> None:
    for study in ("1.1", "1.2", "1.3"):
        bench.keep_study(2, study)
    bench.get(**keys)
    assert counters(await bench.finished()) == (None, count, 0, 0)


async def test_relational_retrieval_needs_no_keys_above_once_negotiated(bench: Bench) -> None:
    bench.keep_study(2)
    bench.get(level="SERIES", SeriesInstanceUID="1.2.3.4")
    assert (await bench.finished()).status == 0xA900
    channel = bench.requester()
    channel.negotiated.extended[STUDY_GET] = b"\1"
    bench.get(level="SERIES", SeriesInstanceUID="1.2.3.4")
    assert counters(await bench.finished()) == (None, 2, 0, 0)


async def test_nothing_found_is_success_with_zeros_and_a_finding(bench: Bench) -> None:
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0x0000, (None, 0, 0, 0))
    (finding,) = bench.records.outcomes[0].findings
    assert finding.words == "no instance is held under StudyInstanceUID 1.2.3"


async def test_a_patient_id_is_no_word_of_a_finding(bench: Bench) -> None:
    bench.get(sop_class=PATIENT_GET, level="PATIENT", PatientID="P1")
    await bench.finished()
    (finding,) = bench.records.outcomes[0].findings
    assert finding.words == "no instance is held under that PatientID"
    assert finding.patient_value == "P1"


async def test_statuses_of_sub_operations_are_counted_and_failures_listed(bench: Bench) -> None:
    bench.keep_study(4)
    statuses = {1: 0x0000, 2: 0xB000, 3: 0xA700, 4: 0xC000}
    bench.channel.behaviour = statuses.__getitem__
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xB000, (None, 1, 2, 1))
    assert final.has_data_set
    assert bench.channel.failed_uids == ["1.2.3.4.3", "1.2.3.4.4"]
    words = [finding.words for finding in bench.records.outcomes[0].findings]
    assert "1 of 4: answered with A700H Refused: Out of Resources" in words


@pytest.mark.parametrize("syntax", (IMPLICIT, EXPLICIT, BIG, DEFLATED))
async def test_the_failed_list_is_in_the_contexts_transfer_syntax(
    bench: Bench, syntax: str
) -> None:
    bench.keep_study(2)
    channel = bench.requester(syntax=syntax)
    channel.behaviour = lambda count: 0xC000
    bench.get(StudyInstanceUID="1.2.3")
    assert (await bench.finished()).status == 0xA702
    assert channel.failed_uids == ["1.2.3.4.1", "1.2.3.4.2"]


async def test_when_all_fail_the_status_says_so(bench: Bench) -> None:
    bench.keep_study(2)
    bench.channel.behaviour = lambda count: 0xA700
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xA702, (None, 0, 2, 0))
    assert final.error_comment == "answered with A700H Refused: Out of Resources"


async def test_the_comment_tells_of_a_failure_before_a_warning(bench: Bench) -> None:
    bench.keep_study(2)
    statuses = {1: 0xB000, 2: 0xA700}
    bench.channel.behaviour = statuses.__getitem__
    bench.get(StudyInstanceUID="1.2.3")
    assert (await bench.finished()).error_comment.startswith("answered with A700H")


async def test_warnings_alone_make_a_warning_without_a_list(bench: Bench) -> None:
    bench.keep_study(2)
    bench.channel.behaviour = lambda count: 0xB007
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xB000, (None, 0, 0, 2))
    assert not final.has_data_set


async def test_a_sop_class_without_a_context_fails_with_the_reason(bench: Bench) -> None:
    bench.keep(data_set(1), data_set(2, SOPClassUID=MR_STORAGE))
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xB000, (None, 1, 1, 0))
    (finding,) = bench.records.outcomes[0].findings
    assert finding.words == (
        "1 of 2: MR Image Storage: no presentation context accepted by the requester in the SCP"
        " role"
    )
    assert finding.advice == "Let WS_1 propose MR Image Storage with SCP role selection."


async def test_another_transfer_syntax_is_converted_to_where_that_can_be(bench: Bench) -> None:
    bench.keep(data_set(1))
    bench.requester([AcceptedContext(13, CT_STORAGE, IMPLICIT, False, True)])
    bench.get(StudyInstanceUID="1.2.3")
    assert counters(await bench.finished()) == (None, 1, 0, 0)
    ((context_id, _, data),) = bench.channel.stores
    assert (context_id, data) == (13, encoded(data_set(1), IMPLICIT))


async def test_what_cannot_be_converted_is_a_failure_that_names_both_syntaxes(
    bench: Bench,
) -> None:
    bench.keep(data_set(1))
    bench.requester([AcceptedContext(13, CT_STORAGE, JPEG_2000, False, True)])
    bench.get(StudyInstanceUID="1.2.3")
    assert (await bench.finished()).status == 0xA702
    (finding,) = bench.records.outcomes[0].findings
    assert "CT Image Storage in Explicit VR Little Endian" in finding.words
    assert "JPEG 2000" in finding.words


async def test_contexts_without_our_scu_role_are_not_sent_on(bench: Bench) -> None:
    bench.keep(data_set(1))
    bench.requester([AcceptedContext(13, CT_STORAGE, EXPLICIT, True, False)])
    bench.get(StudyInstanceUID="1.2.3")
    assert (await bench.finished()).status == 0xA702
    assert bench.channel.stores == []


async def test_large_objects_are_streamed_in_pieces(bench: Bench) -> None:
    pixels = bytes(range(256)) * 4096 * 3
    bench.keep(data_set(1, PixelData=pixels, BitsAllocated=8))
    bench.get(StudyInstanceUID="1.2.3")
    assert counters(await bench.finished()) == (None, 1, 0, 0)
    ((_, _, data),) = bench.channel.stores
    assert len(data) > 3 * 1024 * 1024
    assert data.endswith(pixels)


async def test_a_missing_and_a_short_file_fail_alone_and_loudly(bench: Bench) -> None:
    missing, short, _, damaged = bench.keep_study(4)
    Path(bench.files.abs_path(missing)).unlink()
    path = Path(bench.files.abs_path(short))
    path.write_bytes(path.read_bytes()[:-3])
    path = Path(bench.files.abs_path(damaged))
    path.write_bytes(bytes(path.stat().st_size))
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xB000, (None, 1, 3, 0))
    assert bench.channel.failed_uids == ["1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.4"]
    assert len(bench.lines.errors) == 3
    assert {finding.advice for finding in bench.records.outcomes[0].findings} == {
        "Send the object to the node again, or restore its file from a backup."
    }


async def test_objects_removed_after_the_search_are_counted_as_failed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.keep_study(3)
    rows = Catalog.instance_rows
    monkeypatch.setattr(Catalog, "instance_rows", lambda self, ids: rows(self, ids[1:]))
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xB000, (None, 2, 1, 0))
    assert "removed" in bench.records.outcomes[0].findings[0].words
    assert bench.records.outcomes[0].findings[0].advice == "Retrieve it again."


async def test_more_objects_than_one_batch_are_sent_in_order(bench: Bench) -> None:
    bench.keep_study(600)
    bench.get(StudyInstanceUID="1.2.3")
    assert counters(await bench.finished()) == (None, 600, 0, 0)
    sent = [request.affected_sop_instance_uid for _, request, _ in bench.channel.stores]
    assert sent == [f"1.2.3.4.{number}" for number in range(1, 601)]


async def test_an_index_that_fails_is_a701_before_and_failures_after(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Any:
        raise CatalogError("database is gone")

    bench.keep_study(2)
    monkeypatch.setattr(Catalog, "instance_rows", fail)
    bench.get(StudyInstanceUID="1.2.3")
    final = await bench.finished()
    assert (final.status, counters(final)) == (0xA702, (None, 0, 2, 0))
    monkeypatch.setattr(Catalog, "select_instances", fail)
    bench.requester()
    bench.get(StudyInstanceUID="1.2.3")
    assert (await bench.finished()).status == 0xA701
    assert len(bench.lines.errors) == 2


@pytest.mark.parametrize(
    ("keys", "offending"),
    [
        ({"level": "PATIENT", "PatientID": "1"}, (0x00080052,)),
        ({"level": "STUDY"}, (0x0020000D,)),
        ({"level": "SERIES", "SeriesInstanceUID": "1.2"}, (0x0020000D,)),
        ({"StudyInstanceUID": "1.2", "SOPInstanceUID": "1.3"}, (0x00080018,)),
    ],
)
async def test_a_wrong_identifier_is_a900_with_the_element(
    bench: Bench, keys: Any, offending: tuple[int, ...]
) -> None:
    bench.get(**keys)
    final = await bench.finished()
    assert (final.status, final.offending_element) == (0xA900, offending)
    assert final.error_comment


async def test_an_identifier_that_is_too_long_is_refused(bench: Bench) -> None:
    request = CGetRQ(has_data_set=True, message_id=7, affected_sop_class_uid=STUDY_GET)
    bench.ask(request, bytes(200_000))
    final = await bench.finished()
    assert final.status == 0xA701
    assert "max_identifier_bytes" in final.error_comment


async def test_a_get_without_an_identifier_is_refused(bench: Bench) -> None:
    bench.ask(CGetRQ(message_id=7, affected_sop_class_uid=STUDY_GET), b"")
    assert (await bench.finished()).status == 0xA900


async def test_retrievals_of_one_association_follow_one_another(bench: Bench) -> None:
    bench.keep_study(2, "1.1")
    bench.keep_study(2, "1.2")
    bench.get(7, StudyInstanceUID="1.1")
    bench.get(8, StudyInstanceUID="1.2")
    async with asyncio.timeout(30):
        while bench.service._tasks:
            await asyncio.gather(*bench.service._tasks)
    order = [
        response.message_id_being_responded_to
        for response, _ in bench.channel.responses
        if response.status == 0x0000
    ]
    assert order == [7, 8]
    sent = [request.affected_sop_instance_uid for _, request, _ in bench.channel.stores]
    assert sent == ["1.1.4.1", "1.1.4.2", "1.2.4.1", "1.2.4.2"]
    assert dict(bench.service._turns) == {}


async def test_pending_goes_out_while_one_object_takes_its_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicomnode.services.sub_operations._PENDING_SECONDS", 0.01)
    bench.keep_study(1)
    bench.channel.behaviour = lambda count: None
    waited = asyncio.Event()

    def respond(response: Any) -> None:
        if len(bench.channel.pendings) == 3:
            waited.set()

    bench.channel.on_response = respond
    bench.get(StudyInstanceUID="1.2.3")
    async with asyncio.timeout(30):
        await waited.wait()
    assert {counters(response) for response in bench.channel.pendings} == {(1, 0, 0, 0)}
    bench.channel.end("test over")
    await bench.finished()


# -- C-CANCEL and the end of the association -------------------------------------------------------


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


# -- C-MOVE ----------------------------------------------------------------------------------------


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


async def test_each_sub_operation_has_a_debug_line(bench: Bench) -> None:
    bench.keep(data_set(1), data_set(2, SOPClassUID=MR_STORAGE))
    bench.get(StudyInstanceUID="1.2.3")
    await bench.finished()
    answered, failed = sorted(bench.lines.debugs, key=lambda line: str(line["sop_instance_uid"]))
    assert (answered["sop_instance_uid"], answered["status"]) == ("1.2.3.4.1", 0x0000)
    assert "MR Image Storage" in str(failed["reason"])


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


async def test_an_identifier_is_read_off_the_loop_and_kept_within_its_bounds(
    bench: Bench,
) -> None:
    request = CGetRQ(has_data_set=True, message_id=7, affected_sop_class_uid=STUDY_GET)
    bench.ask(request, identifier(StudyInstanceUID=[f"1.{n}" for n in range(1001)]))
    final = await bench.finished()
    assert final.status == 0xA900
    assert "max_list_values" in final.error_comment
