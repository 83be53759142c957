"""C-GET: what is sent, and how it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dicomnode.dimse.command import CGetRQ
from dicomnode.errors import CatalogError
from dicomnode.index.catalog import Catalog
from dicomnode.ul.negotiation import AcceptedContext
from tests.services.retrieving import (
    MR_STORAGE,
    PATIENT_GET,
    STUDY_GET,
    Bench,
    counters,
    identifier,
)
from tests.storage.objects import BIG, CT_STORAGE, DEFLATED, EXPLICIT, IMPLICIT, data_set, encoded

JPEG_2000 = "1.2.840.10008.1.2.4.90"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.close()


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


async def test_each_sub_operation_has_a_debug_line(bench: Bench) -> None:
    bench.keep(data_set(1), data_set(2, SOPClassUID=MR_STORAGE))
    bench.get(StudyInstanceUID="1.2.3")
    await bench.finished()
    answered, failed = sorted(bench.lines.debugs, key=lambda line: str(line["sop_instance_uid"]))
    assert (answered["sop_instance_uid"], answered["status"]) == ("1.2.3.4.1", 0x0000)
    assert "MR Image Storage" in str(failed["reason"])


async def test_an_identifier_is_read_off_the_loop_and_kept_within_its_bounds(
    bench: Bench,
) -> None:
    request = CGetRQ(has_data_set=True, message_id=7, affected_sop_class_uid=STUDY_GET)
    bench.ask(request, identifier(StudyInstanceUID=[f"1.{n}" for n in range(1001)]))
    final = await bench.finished()
    assert final.status == 0xA900
    assert "max_list_values" in final.error_comment
