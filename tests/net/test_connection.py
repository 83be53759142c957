"""The asyncio shell of one association, driven without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dicomnode.net.connection import Connection
from dicomnode.net.ending import Deadlines
from tests import wire
from tests.net.shell import (
    ABORT_PDU,
    ECHO_PDU,
    PATIENT,
    RELEASE_PDU,
    Bench,
    Collector,
    Services,
    count_pdus,
    store_pdus,
    until,
)


async def test_an_association_is_accepted_echoed_on_and_released() -> None:
    bench = Bench()
    bench.associate()
    bench.feed(wire.pdu(wire.P_DATA, wire.pdv(1, wire.c_echo_rq(), command=True)))
    assert bench.sent()[0] == wire.P_DATA
    bench.feed(wire.pdu(wire.RELEASE_RQ, bytes(4)))
    assert bench.sent()[0] == wire.RELEASE_RP
    assert bench.slots == 0
    assert bench.told == ["accepted RAW from 192.0.2.7", "released: "]


async def test_a_rejection_takes_no_slot_and_is_told_once() -> None:
    bench = Bench()
    bench.feed(wire.associate_rq(calling="STRANGER"))
    assert bench.sent() == wire.pdu(wire.ASSOCIATE_RJ, bytes([0, 1, 1, 3]))
    bench.lose()
    assert (bench.slots, bench.told) == (0, ["rejected title unknown"])


async def test_connect_and_close_is_silent() -> None:
    bench = Bench()
    bench.lose()
    assert bench.told == [] and bench.lost.is_set()


@pytest.mark.parametrize("step", [1, 7, 16384 + 6, 65536, 10**9])
async def test_data_sets_arrive_whole_however_the_network_cuts_them(step: int) -> None:
    bench = Bench()
    bench.associate()
    data = bytes(range(256)) * (4 if step == 1 else 800)
    stream = store_pdus(data, 1) + store_pdus(data, 2)
    for offset in range(0, len(stream), step):
        bench.feed(stream[offset : offset + step])
    assert [sink.ended for sink in bench.services.sinks] == ["finished", "finished"]
    assert [sink.write_out() for sink in bench.services.sinks] == [data, data]
    bench.services.answer_all()
    bench.lose()
    assert bench.pool.in_use_bytes == 0


async def test_views_stay_untouched_while_they_are_leased() -> None:
    bench = Bench()
    bench.associate()
    first, second = b"\x11" * 40_000, b"\x22" * 40_000
    bench.feed(store_pdus(first, 1))
    bench.feed(store_pdus(second, 2))
    assert [sink.write_out() for sink in bench.services.sinks] == [first, second]


async def test_reading_pauses_when_the_budget_is_spent_and_resumes_when_it_is_not() -> None:
    bench = Bench(blocks=2)
    bench.associate()
    data = bytes(range(256)) * 2000
    stream = store_pdus(data)
    taken = bench.feed(stream)
    assert taken < len(stream) and not bench.transport.reading
    assert bench.pool.in_use_bytes <= bench.pool.limit_bytes + 4096
    (sink,) = bench.services.sinks
    rounds = 0
    while taken < len(stream):
        rounds += 1
        assert rounds < 100
        sink.write_out()
        await asyncio.sleep(0)
        taken += bench.feed(stream[taken:])
    assert sink.ended == "finished"
    assert sink.write_out() == data


async def test_nested_pauses_need_as_many_resumes() -> None:
    bench = Bench()
    bench.associate()
    for change in (bench.connection.pause, bench.connection.pause, bench.connection.resume):
        change()
        assert not bench.transport.reading
    bench.connection.resume()
    assert bench.transport.reading


async def test_release_is_answered_only_after_the_last_response() -> None:
    bench = Bench()
    bench.associate()
    bench.feed(store_pdus(b"data") + wire.pdu(wire.RELEASE_RQ, bytes(4)))
    assert bench.sent() == b""
    bench.services.answer_all()
    sent = bench.sent()
    assert sent[0] == wire.P_DATA and sent[-10] == wire.RELEASE_RP


@pytest.mark.parametrize(
    ("last_bytes", "how"),
    [
        (wire.pdu(wire.ABORT, bytes(4)), "aborted by peer"),
        (b"", "connection lost"),
        (b"\x42" + bytes(9), "protocol error"),
    ],
)
async def test_an_end_amid_a_data_set_abandons_it_and_gives_everything_back(
    last_bytes: bytes, how: str
) -> None:
    bench = Bench()
    bench.associate()
    without_last_pdu = store_pdus(bytes(2 * (16384 - 6) + 10))[: -6 - 6 - 10]
    bench.feed(without_last_pdu + last_bytes)
    bench.lose()
    (sink,) = bench.services.sinks
    assert how in bench.told[-1]
    assert sink.ended.startswith("abandoned")
    assert bench.services.closed_because
    sink.write_out()
    assert (bench.slots, bench.pool.in_use_bytes) == (0, 0)


async def test_a_protocol_error_is_aborted_and_named() -> None:
    bench = Bench()
    bench.associate()
    bench.feed(wire.associate_rq())
    assert bench.sent()[0] == wire.ABORT
    bench.lose()
    assert bench.slots == 0
    assert bench.told[1].startswith("protocol error: ")
    assert len(bench.told) == 2


@pytest.mark.parametrize(
    ("deadlines", "prepare", "sentence"),
    [
        (replace(PATIENT, artim=0.02), None, "timeouts.artim_seconds"),
        (
            replace(PATIENT, pdu=0.02),
            lambda bench: bench.feed(store_pdus(b"x")[:50]),
            "timeouts.pdu_seconds",
        ),
        (replace(PATIENT, idle=0.02), lambda bench: 0, "timeouts.idle_seconds"),
        (
            replace(PATIENT, write=0.02),
            lambda bench: setattr(bench.transport, "unsent_bytes", 100),
            "timeouts.write_seconds",
        ),
    ],
)
async def test_each_deadline_ends_the_association_and_names_its_setting(
    deadlines: Deadlines, prepare: Callable[[Bench], Any] | None, sentence: str
) -> None:
    bench = Bench(deadlines=deadlines)
    if prepare is not None:
        bench.associate()
        prepare(bench)
    async with asyncio.timeout(5):
        while not bench.transport.closed and bench.sent()[:1] != bytes([wire.ABORT]):
            await asyncio.sleep(0.005)
    bench.lose()
    assert sentence in bench.told[-1]
    assert bench.slots == 0


async def test_an_association_with_work_in_hand_is_not_idle() -> None:
    deadlines = replace(PATIENT, idle=0.02)
    busy, idle = Bench(deadlines=deadlines), Bench(deadlines=deadlines)
    busy.associate()
    busy.feed(store_pdus(b"data"))
    idle.associate()
    async with asyncio.timeout(5):
        while "timed out" not in idle.told[-1]:
            await asyncio.sleep(0.005)
    assert busy.sent() == b"" and not busy.transport.closed


async def test_who_waited_long_for_a_response_is_idle_only_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, passed = asyncio.get_running_loop(), [0.0]
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + passed[0])

    async def pass_time(seconds: float) -> None:
        passed[0] += seconds
        for _ in range(5):
            await asyncio.sleep(0)

    bench = Bench()
    bench.associate()
    bench.feed(store_pdus(b"data"))
    await pass_time(2 * PATIENT.idle)
    bench.services.answer_all()
    bench.transport.unsent_bytes = 1
    await pass_time(PATIENT.write - 2)
    bench.transport.unsent_bytes = 0
    await pass_time(PATIENT.idle - 2)
    assert len(bench.told) == 1
    await pass_time(4)
    assert "timeouts.idle_seconds" in bench.told[-1]


@pytest.mark.parametrize(
    "in_one_breath",
    [
        wire.associate_rq() + ECHO_PDU,
        wire.associate_rq() + ABORT_PDU,
        wire.associate_rq(calling="STRANGER") + ABORT_PDU,
    ],
)
async def test_a_peer_that_does_not_await_the_answer_takes_no_slot(in_one_breath: bytes) -> None:
    bench = Bench()
    bench.feed(in_one_breath)
    bench.lose()
    assert bench.slots == 0
    assert len(bench.told) == 1 and bench.told[0].startswith("failed ")


@pytest.mark.parametrize(
    "in_one_breath",
    [
        RELEASE_PDU + ABORT_PDU,
        ECHO_PDU + ABORT_PDU,
        ECHO_PDU + RELEASE_PDU + ABORT_PDU,
        wire.pdu(wire.P_DATA, wire.pdv(9, b"", command=True)) + ABORT_PDU,
        store_pdus(b"data") + ABORT_PDU,
    ],
)
async def test_what_follows_in_the_same_segment_may_end_the_association(
    in_one_breath: bytes,
) -> None:
    bench = Bench()
    bench.associate()
    bench.feed(in_one_breath)
    bench.lose()
    assert bench.slots == 0 and len(bench.told) == 2
    for sink in bench.services.sinks:
        sink.write_out()
    assert bench.pool.in_use_bytes == 0


async def test_a_peer_that_sends_many_requests_at_once_lets_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench, other = Bench(), Bench()
    bench.associate()
    other.associate()
    monkeypatch.setattr("dicomnode.net.reading._TURN_SECONDS", -1.0)
    assert bench.feed(ECHO_PDU * 500) == len(ECHO_PDU) * 500
    first = count_pdus(bench.sent())
    assert 0 < first < 100 and not bench.transport.reading
    await asyncio.sleep(0)
    other.feed(ECHO_PDU)
    assert count_pdus(other.sent()) == 1
    answered = first
    for _ in range(500):
        await asyncio.sleep(0)
        answered += count_pdus(bench.sent())
    monkeypatch.setattr("dicomnode.net.reading._TURN_SECONDS", 1e9)
    await asyncio.sleep(0)
    assert answered == 500 and bench.transport.reading
    bench.lose()
    other.lose()
    assert bench.pool.in_use_bytes == 0


async def test_after_a_turn_that_took_long_others_have_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.associate()
    monkeypatch.setattr("dicomnode.net.reading._TURN_SECONDS", -1.0)
    bench.feed(ECHO_PDU)
    assert count_pdus(bench.sent()) == 1 and not bench.transport.reading
    monkeypatch.setattr("dicomnode.net.reading._TURN_SECONDS", 1e9)
    await asyncio.sleep(0)
    assert bench.transport.reading
    bench.feed(ECHO_PDU)
    assert count_pdus(bench.sent()) == 1


async def test_what_waits_for_its_turn_when_the_connection_is_lost_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    bench.associate()
    monkeypatch.setattr("dicomnode.net.reading._TURN_SECONDS", -1.0)
    bench.feed(ECHO_PDU * 500)
    bench.lose()
    bench.sent()
    await asyncio.sleep(0)
    assert (bench.sent(), bench.slots, bench.pool.in_use_bytes) == (b"", 0, 0)


async def test_only_so_many_requests_are_taken_from_a_peer_that_does_not_read() -> None:
    bench = Bench()
    bench.associate()
    bench.connection.pause_writing()
    one_by_one = 0
    while bench.transport.reading:
        bench.feed(ECHO_PDU)
        one_by_one += 1
        assert one_by_one < 1000
    assert one_by_one > 10
    bench.connection.resume_writing()
    assert bench.transport.reading


async def test_a_connection_paused_twice_reads_only_when_neither_holds() -> None:
    bench = Bench()
    bench.associate()
    bench.connection.pause_writing()
    while bench.transport.reading:
        bench.feed(ECHO_PDU)
    bench.connection.pause()
    bench.connection.resume_writing()
    assert not bench.transport.reading
    bench.connection.resume()
    assert bench.transport.reading


async def test_a_peer_that_closes_its_half_and_does_not_read_is_dropped() -> None:
    bench = Bench(deadlines=replace(PATIENT, write=0.02))
    bench.associate()
    bench.transport.unsent_bytes = 100
    bench.transport.close()  # as the loop does at the end of file, with output unwritten
    await until(lambda: bench.transport.aborted)
    bench.lose()
    assert (bench.slots, len(bench.told)) == (0, 2)
    assert "timeouts.write_seconds" in bench.told[-1]


async def test_a_fault_of_our_own_ends_the_association_with_an_abort() -> None:
    bench = Bench()
    bench.associate()
    faults: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: faults.append(context["exception"])
    )
    bench.services.fault = ZeroDivisionError()
    bench.feed(ECHO_PDU)
    assert bench.sent()[0] == wire.ABORT
    assert faults == [bench.services.fault] and bench.slots == 0
    bench.lose()
    assert len(bench.told) == 2 and "internal error" in bench.told[-1]


@pytest.mark.parametrize("end", ["lose", "abort"])
async def test_the_slot_comes_back_even_if_a_service_cannot_end(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object, why: str) -> None:
        raise ZeroDivisionError

    bench = Bench()
    bench.associate()
    bench.feed(store_pdus(bytes(40_000))[:20_000])
    monkeypatch.setattr(Collector, "abandon", fails)
    monkeypatch.setattr(Services, "closed", fails)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    if end == "abort":
        with pytest.raises(ZeroDivisionError):
            bench.connection.abort("told to")
        assert bench.slots == 0
    bench.lose()
    assert bench.slots == 0 and len(bench.told) == 2
    assert bench.lost.is_set()
    for sink in bench.services.sinks:
        sink.write_out()
    assert bench.pool.in_use_bytes == 0


async def test_a_release_inside_a_data_set_is_aborted_at_once() -> None:
    bench = Bench()
    bench.associate()
    whole = store_pdus(bytes(2 * 16378))
    bench.feed(whole[:-16390] + RELEASE_PDU)
    assert bench.sent()[0] == wire.ABORT
    assert bench.services.sinks[0].ended.startswith("abandoned")
    assert "inside a data set" in bench.told[-1] and bench.slots == 0


async def test_who_gets_no_receive_buffer_for_too_long_is_aborted_and_others_go_on() -> None:
    bench = Bench(blocks=1, deadlines=replace(PATIENT, pdu=0.02))
    bench.associate()
    other = bench.pool.take()
    assert other is not None
    bench.feed(store_pdus(bytes(100_000)))
    assert not bench.transport.reading
    await until(lambda: bench.transport.closed)
    bench.lose()
    assert "limits.receive_buffer_bytes" in bench.told[-1] and bench.slots == 0
    other.release()
    for sink in bench.services.sinks:
        sink.write_out()
    assert bench.pool.in_use_bytes == 0


async def test_tiny_fragments_reach_the_sink_joined_and_keep_no_receive_buffer() -> None:
    bench = Bench(blocks=1)
    bench.associate()
    command = store_pdus(b"")[: -6 - 6]
    data = bytes(range(256)) * 100
    tiny = (wire.pdu(wire.P_DATA, wire.pdv(3, data[i : i + 1], last=False)) for i in range(25_600))
    last = wire.pdu(wire.P_DATA, wire.pdv(3, b""))
    stream = command + b"".join(tiny) + last
    taken = 0
    while taken < len(stream):
        taken += bench.feed(stream[taken:])
        await asyncio.sleep(0)
    await until(lambda: bench.services.sinks[0].ended == "finished")
    (sink,) = bench.services.sinks
    assert len(sink.kept) < 10
    assert bench.pool.in_use_bytes <= 2 * len(data)
    assert sink.write_out() == data
    assert bench.pool.in_use_bytes == 0


async def test_too_little_to_be_written_does_not_keep_the_rest_from_being_received() -> None:
    bench = Bench(blocks=1)
    bench.associate()
    data = bytes(range(256)) * 370
    stream = store_pdus(data)
    taken = 0
    # The sink writes nothing before the data set is whole, as one does that waits for a lot.
    while taken < len(stream):
        more = bench.feed(stream[taken:])
        await asyncio.sleep(0)
        assert more or bench.transport.reading, f"stuck after {taken} bytes"
        taken += more
    (sink,) = bench.services.sinks
    assert sink.ended == "finished" and sink.write_out() == data
    bench.lose()
    assert bench.pool.in_use_bytes == 0


async def test_a_silent_sender_gives_back_the_receive_buffers_of_what_it_sent() -> None:
    bench = Bench()
    bench.associate()
    whole = store_pdus(bytes(range(256)) * 256)
    two_pdus = len(store_pdus(b"")) - 12 + 2 * 16390
    begin, rest = whole[:two_pdus], whole[two_pdus:]
    bench.feed(begin)
    assert bench.pool.in_use_bytes >= 64 * 1024
    await until(lambda: bench.pool.in_use_bytes < 64 * 1024)
    bench.feed(rest)
    assert bench.services.sinks[0].write_out() == bytes(range(256)) * 256


async def test_a_connection_can_be_closed_before_its_transport_is_there() -> None:
    for close in (Connection.close, Connection.close_after_writing):
        bench = Bench(is_made=False)
        close(bench.connection)
        bench.connection.connection_made(bench.transport)
        assert bench.transport.aborted
        bench.lose()
        assert bench.lost.is_set() and bench.slots == 0


async def test_an_aborted_association_holds_no_receive_buffer_though_its_peer_stays() -> None:
    bench = Bench(blocks=1)
    bench.associate()
    bench.feed(store_pdus(bytes(100_000))[:-1])
    for sink in bench.services.sinks:
        sink.write_out()
    assert bench.pool.in_use_bytes >= bench.pool.block_bytes
    bench.connection.abort("no more")
    for sink in bench.services.sinks:
        sink.write_out()
    assert bench.pool.in_use_bytes == 0
    bench.feed(ECHO_PDU * 10)
    assert bench.pool.in_use_bytes < bench.pool.block_bytes
    bench.lose()
    assert bench.pool.in_use_bytes == 0
