"""Messages and streamed data sets on one association, driven without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from dicomnode.dimse.command import (
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    Command,
    CStoreRQ,
    CStoreRSP,
    answer,
    encode_command,
)
from dicomnode.dimse.message import CommandReceived, MessageReader
from dicomnode.ul.events import DataIndication
from dicomnode.ul.framing import p_data
from dicomnode.ul.pdu import PDataTF
from tests import wire
from tests.net.shell import ABORT_PDU, ECHO_PDU, PATIENT, RELEASE_PDU, Bench, store_pdus, until

MAXIMUM_LENGTH = 4096


def store(message_id: int) -> CStoreRQ:
    return CStoreRQ(
        affected_sop_class_uid=wire.CT_IMAGE_STORAGE,
        affected_sop_instance_uid="1.2.3.4",
        message_id=message_id,
        has_data_set=True,
    )


ECHO_RESPONSE = answer(CEchoRQ(affected_sop_class_uid=wire.VERIFICATION, message_id=7), 0)


class Source:
    """A data set in pieces, each given when the test says so."""

    def __init__(self, pieces: Iterable[bytes] = (), *, is_open: bool = False) -> None:
        self.pieces = [*pieces]
        self.reads = 0
        self.error: Exception | None = None
        self.at_end: Callable[[], object] | None = None
        self._open = asyncio.Event()
        if is_open:
            self._open.set()

    async def read(self) -> bytes:
        self.reads += 1
        await self._open.wait()
        if self.error is not None:
            raise self.error
        if not self.pieces and self.at_end is not None:
            asyncio.get_running_loop().call_soon(self.at_end)
        return self.pieces.pop(0) if self.pieces else b""

    def give_all(self) -> None:
        self._open.set()


class Sending(Bench):
    """An association with a peer that takes PDUs of ``MAXIMUM_LENGTH``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.feed(wire.associate_rq(maximum_length=MAXIMUM_LENGTH))
        self.sent()
        self.tasks: list[asyncio.Task[None]] = []

    def stream(self, message_id: int, source: Source) -> asyncio.Task[None]:
        stream: Awaitable[None] = self.connection.stream(3, store(message_id), source)
        task = asyncio.ensure_future(stream)
        self.tasks.append(task)
        return task

    def messages(self) -> list[tuple[Command, bytes]]:
        """Read what has been sent as messages; the last one may be unfinished."""
        reader, found = MessageReader({1, 3}), list[tuple[Command, bytes]]()
        data, offset = bytes(self.transport.written), 0
        while offset < len(data):
            end = offset + 6 + int.from_bytes(data[offset + 2 : offset + 6], "big")
            assert data[offset] == wire.P_DATA and end - offset - 6 <= MAXIMUM_LENGTH
            for value in PDataTF.decode(memoryview(data)[offset + 6 : end]).values:
                assert len(value.data) % 2 == 0 or value.is_last
                data_of = memoryview(value.data)
                event = reader.feed(
                    DataIndication(value.context_id, value.is_command, value.is_last, data_of)
                )
                if isinstance(event, CommandReceived):
                    found.append((event.command, b""))
                elif event is not None:
                    command, before = found[-1]
                    found[-1] = command, before + event.data
            offset = end
        return found

    def order(self) -> list[int]:
        """Return the message IDs sent, requests' and responses'."""
        return [
            command.message_id
            if isinstance(command, CStoreRQ)
            else command.message_id_being_responded_to  # type: ignore[attr-defined]
            for command, _ in self.messages()
        ]


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("size", [0, 1, 2, 4089, 4090, 4091, 8180, 8181, 20_000])
@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 4090, 5001, 10**6])
async def test_a_streamed_data_set_arrives_whole_however_it_is_read(
    size: int, piece_bytes: int
) -> None:
    if size > 9000 and piece_bytes < 10:
        size = 9000
    data = bytes(n % 251 for n in range(size))
    peer = Sending()
    pieces = (data[at : at + piece_bytes] for at in range(0, size, piece_bytes))
    await peer.stream(1, Source(pieces, is_open=True))
    assert peer.messages() == [(store(1), data)]


async def test_what_is_sent_during_a_stream_follows_it_in_the_order_of_asking() -> None:
    peer = Sending()
    first, second = Source([b"aa"]), Source([b"bb"])
    peer.stream(1, first)
    await turns()
    peer.connection.send(1, ECHO_RESPONSE)
    peer.stream(2, second)
    await turns()
    peer.connection.send(3, store(3), b"cc")
    assert peer.order() == []
    first.give_all()
    await turns()
    assert peer.order() == [1, 7]
    second.give_all()
    await turns()
    assert peer.order() == [1, 7, 2, 3]
    assert [data for _, data in peer.messages()] == [b"aa", b"", b"bb", b"cc"]


async def test_a_source_is_read_only_while_the_peer_takes_what_is_sent() -> None:
    peer = Sending()
    source = Source([bytes(10_000)] * 5)
    task = peer.stream(1, source)
    await turns()
    peer.connection.pause_writing()
    source.give_all()
    await turns()
    assert source.reads == 1
    peer.connection.resume_writing()
    await task
    assert source.reads == 6 and len(peer.messages()[0][1]) == 50_000


@pytest.mark.parametrize("how", ["abort", "lose", "peer abort"])
async def test_after_the_end_of_the_association_a_source_is_not_read(how: str) -> None:
    peer = Sending()
    source, waiting = Source([b"aa", b"bb"]), Source([b"cc"])
    tasks = [peer.stream(1, source), peer.stream(2, waiting)]
    await turns()
    peer.connection.send(1, ECHO_RESPONSE)
    end: dict[str, Callable[[], object]] = {
        "abort": lambda: peer.connection.abort("told to"),
        "lose": peer.lose,
        "peer abort": lambda: peer.feed(ABORT_PDU),
    }
    end[how]()
    source.give_all()
    await asyncio.gather(*tasks)
    await peer.connection.stream(3, store(3), waiting)
    await peer.connection.drained()
    assert (source.reads, waiting.reads) == (1, 0)


async def test_a_source_that_fails_ends_the_association_and_says_why() -> None:
    peer = Sending()
    source = Source([b"aa"])
    source.error = OSError("disk on fire")
    source.give_all()
    await peer.stream(1, source)
    assert peer.sent()[-10] == wire.ABORT
    assert "disk on fire" in peer.told[-1]


async def test_a_stream_that_is_given_up_half_way_ends_the_association() -> None:
    peer = Sending()
    task = peer.stream(1, Source([b"aa"]))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert peer.sent()[-10] == wire.ABORT


@pytest.mark.parametrize("its_turn_has_come", [False, True])
async def test_a_stream_that_is_given_up_before_it_began_leaves_the_others(
    its_turn_has_come: bool,
) -> None:
    peer = Sending()
    first, last = Source([b"aa"]), Source([b"cc"], is_open=True)
    peer.stream(1, first)
    await turns()
    given_up = peer.stream(2, Source())
    peer.stream(3, last)
    await turns()
    if its_turn_has_come:
        first.at_end = given_up.cancel
    else:
        given_up.cancel()
    first.give_all()
    await until(lambda: last.reads == 2)
    await turns()
    assert given_up.cancelled() and peer.order() == [1, 3]


async def test_drained_waits_for_the_peer_and_for_the_end_of_a_stream() -> None:
    peer = Sending()
    source = Source([b"aa"])
    await peer.connection.drained()
    task = peer.stream(1, source)
    await turns()
    drained = asyncio.ensure_future(peer.connection.drained())
    await turns()
    peer.connection.pause_writing()
    source.give_all()
    await turns()
    assert not drained.done() and not task.done()
    peer.connection.resume_writing()
    await asyncio.gather(task, drained)


def p_data_of(command: Command) -> bytes:
    return b"".join(p_data(1, encode_command(command), 16384, is_command=True))


async def test_a_cancel_is_heard_although_the_peer_reads_nothing() -> None:
    peer = Sending()
    heard: list[Command] = []
    peer.services.message = lambda context_id, command: heard.append(command)  # type: ignore[method-assign]
    peer.connection.pause_writing()
    response = CStoreRSP(message_id_being_responded_to=1, status=0)
    cancel = CCancelRQ(message_id_being_responded_to=1)
    for _ in range(500):
        peer.feed(p_data_of(response))
        peer.feed(p_data_of(cancel))
    assert len(heard) == 1000 and peer.transport.reading


async def test_of_many_requests_in_one_segment_only_so_many_are_taken_from_a_deaf_peer() -> None:
    peer = Sending()
    peer.connection.pause_writing()
    peer.feed(ECHO_PDU * 500)
    await turns()
    assert 50 < len(peer.messages()) < 100 and not peer.transport.reading
    peer.connection.resume_writing()
    await turns()
    assert len(peer.messages()) == 500 and peer.transport.reading


async def test_only_so_many_requests_are_taken_during_a_stream() -> None:
    peer = Sending()
    source = Source([b"aa"])
    task = peer.stream(1, source)
    await turns()
    asked = 0
    while peer.transport.reading:
        peer.feed(ECHO_PDU)
        asked += 1
        assert asked < 1000
    source.give_all()
    await task
    assert peer.transport.reading
    assert [type(command) for command, _ in peer.messages()[1:]] == [CEchoRSP] * asked


async def test_a_peer_that_takes_little_but_something_is_not_let_go() -> None:
    slow = Sending(deadlines=replace(PATIENT, write=0.05))
    stuck = Sending(deadlines=replace(PATIENT, write=0.05))
    for peer in (slow, stuck):
        peer.connection.send(3, store(1), bytes(100_000))
        peer.transport.unsent_bytes = 100_000
    looked_at = 0
    while not stuck.transport.aborted:
        await asyncio.sleep(0.005)
        slow.transport.unsent_bytes -= 1
        looked_at += 1
        assert looked_at < 1000
    for _ in range(20):
        await asyncio.sleep(0.01)
        slow.transport.unsent_bytes -= 1
    assert not slow.transport.aborted
    for peer in (slow, stuck):
        peer.lose()
    assert "timeouts.write_seconds" in stuck.told[-1]


async def test_a_release_asked_for_during_a_stream_waits_for_the_operation() -> None:
    peer = Sending()
    peer.feed(store_pdus(b"data"))
    source = Source([b"aa"])
    task = peer.stream(1, source)
    await turns()
    peer.feed(RELEASE_PDU)
    source.give_all()
    await task
    assert peer.transport.written[-10] != wire.RELEASE_RP
    peer.services.answer_all()
    assert peer.transport.written[-10] == wire.RELEASE_RP


async def test_a_release_asked_for_during_a_stream_of_no_operation_is_aborted() -> None:
    peer = Sending()
    peer.stream(1, Source([b"aa"]))
    await turns()
    peer.feed(RELEASE_PDU)
    assert peer.sent()[-10] == wire.ABORT
