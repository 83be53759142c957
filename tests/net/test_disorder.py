"""Whatever happens to an association, in whatever order, ends once and gives everything back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from dicomnode.dimse.channel import Channel, Proposal
from dicomnode.dimse.command import CStoreRQ, CStoreRSP, encode_command
from dicomnode.errors import AssociationError
from dicomnode.net.buffers import BufferPool
from dicomnode.net.requested import RequestedConnection
from dicomnode.scu.requests import Requests
from dicomnode.ul.association import Association, Role
from dicomnode.ul.framing import p_data
from dicomnode.ul.items import (
    ContextResult,
    ImplementationClassUID,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
)
from dicomnode.ul.pdu import AAssociateAC, AAssociateRQ
from tests import wire
from tests.net.shell import (
    ABORT_PDU,
    ECHO_PDU,
    PATIENT,
    RELEASE_PDU,
    Bench,
    FakeTransport,
    store_pdus,
)

RELEASE_RP_PDU = wire.pdu(wire.RELEASE_RP, bytes(4))
INVALID_PDU = wire.pdu(9, b"")
PROPOSED = (PresentationContextRQ(1, wire.CT_IMAGE_STORAGE, (wire.EXPLICIT_LE,)),)
ACCEPTED = (PresentationContextAC(1, ContextResult.ACCEPTANCE, wire.EXPLICIT_LE),)


def store(message_id: int) -> CStoreRQ:
    return CStoreRQ(
        affected_sop_class_uid=wire.CT_IMAGE_STORAGE,
        affected_sop_instance_uid="1.2.3.4",
        message_id=message_id,
        has_data_set=True,
    )


def stored(message_id: int) -> bytes:
    response = CStoreRSP(message_id_being_responded_to=message_id, status=0)
    return b"".join(p_data(1, encode_command(response), 0, is_command=True))


class Source:
    """A data set of some pieces; a stuck one has no end."""

    def __init__(self, *, is_stuck: bool) -> None:
        self.pieces = [bytes(5000)] * 3
        self.is_stuck = is_stuck

    async def read(self) -> bytes:
        if not self.pieces and self.is_stuck:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return self.pieces.pop() if self.pieces else b""


async def disorder(chance: random.Random, deeds: list[Callable[[], object]]) -> None:
    for _ in range(chance.randrange(1, 40)):
        chance.choice(deeds)()
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)


def armed_timers() -> int:
    loop: Any = asyncio.get_running_loop()
    return sum(not handle.cancelled() for handle in loop._scheduled)


@pytest.mark.parametrize("seed", range(200))
async def test_an_accepted_association_ends_once_and_gives_everything_back(seed: int) -> None:
    chance, bench = random.Random(seed), Bench()
    connection, streams = bench.connection, list[asyncio.Task[None]]()
    timers = armed_timers() - 1

    def receive() -> None:
        pdus = (ECHO_PDU, ECHO_PDU, ABORT_PDU, RELEASE_PDU, RELEASE_RP_PDU, INVALID_PDU)
        bench.feed(b"".join(chance.choices(pdus, k=chance.randrange(1, 4))))

    def receive_object() -> None:
        message = store_pdus(bytes(chance.choice((1, 2, 20_000, 200_000))), chance.randrange(1, 9))
        bench.feed(message[: chance.choice((len(message), chance.randrange(len(message))))])

    def stream() -> None:
        source = Source(is_stuck=chance.random() < 0.3)
        streams.append(asyncio.ensure_future(connection.stream(3, store(1), source)))

    def give_up() -> None:
        if streams:
            chance.choice(streams).cancel()

    if chance.random() < 0.9:
        bench.associate()
    deeds: list[Callable[[], object]] = [receive, *[receive_object] * 2, *[stream] * 2, give_up]
    deeds += [connection.pause_writing, *[connection.resume_writing] * 2, connection.pause]
    if bench.slots:
        deeds += [bench.services.answer_all, lambda: connection.abort("told to")]
    await disorder(chance, deeds)
    bench.lose()
    await asyncio.sleep(0)
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    for sink in bench.services.sinks:
        sink.write_out()
        assert sink.ended
    began = [words for words in bench.told if words.startswith("accepted")]
    ended = [words for words in bench.told if not words.startswith(("accepted", "failed"))]
    assert len(began) == len(ended) == bool(bench.services.closed_because)
    assert (bench.slots, bench.pool.in_use_bytes, armed_timers()) == (0, 0, timers)


class Calling:
    """A connection of ours that is provider and observer to itself."""

    def __init__(self, peer_maximum_length: int) -> None:
        self.told: list[str] = []
        self.pool = BufferPool(asyncio.get_running_loop(), 64 * 1024, 1024 * 1024)
        self.transport = FakeTransport()
        information = (MaximumLength(16384), ImplementationClassUID("1.2.3"))
        self.connection = RequestedConnection(
            1,
            Association(Role.REQUESTOR, maximum_length=16384),
            proposal=Proposal(
                host="h", port=1, called_ae_title="A", calling_ae_title="B", contexts=PROPOSED
            ),
            request=AAssociateRQ("A", "B", PROPOSED, information),
            pool=self.pool,
            deadlines=PATIENT,
            provider=self,
            observer=self,
            on_closed=lambda connection: self.told.append("lost"),
        )
        information = (MaximumLength(peer_maximum_length), ImplementationClassUID("1.2.3"))
        self.acceptance = AAssociateAC("A", "B", ACCEPTED, information).encode()
        self.requests: Requests | None = None
        self.outstanding = 0

    def established(self, channel: Channel) -> Calling:
        self.requests = Requests(channel)
        return self

    def message(self, context_id: int, command: Any) -> None:
        assert self.requests is not None
        if isinstance(command, CStoreRSP):
            self.requests.response(context_id, command)

    def closed(self, why: str) -> None:
        assert self.requests is not None
        self.requests.closed(why)

    def requested(self, channel: Channel) -> None:
        self.told.append("requested")

    def request_failed(self, proposal: Proposal, error: AssociationError) -> None:
        raise AssertionError("told by whoever called")

    def request_ended(self, channel: Channel, how: str, why: str) -> None:
        self.told.append("ended")

    def feed(self, data: bytes) -> None:
        if self.transport.reading and not self.transport.closed:
            self.connection.get_buffer(-1)[: len(data)] = data
            self.connection.buffer_updated(len(data))


@pytest.mark.parametrize("seed", range(200))
async def test_an_association_of_ours_ends_once_and_every_wait_with_it(seed: int) -> None:
    chance = random.Random(seed)
    on = Calling(chance.choice((0, 3, 7, 8, 9, 4096)))
    connection, timers = on.connection, armed_timers()
    waits: list[asyncio.Task[Any]] = [asyncio.ensure_future(connection.answered())]
    connection.connection_made(on.transport)

    def perform() -> None:
        if (requests := on.requests) is not None:
            message_id = requests.next_message_id()
            data_set = chance.choice((bytes(5000), Source(is_stuck=False)))
            request = requests.perform(1, store(message_id), data_set, seconds=60)
            waits.append(asyncio.ensure_future(request))

    def release() -> None:
        if on.requests is not None:
            waits.append(asyncio.ensure_future(connection.release()))

    def respond() -> None:
        on.feed(stored(len(waits) - 1))

    def receive() -> None:
        end = chance.choice((b"", ABORT_PDU, RELEASE_PDU, RELEASE_RP_PDU, INVALID_PDU, ECHO_PDU))
        on.feed((on.acceptance if on.requests is None else b"") + end)

    deeds: list[Callable[[], object]] = [receive, *[perform] * 3, *[respond] * 2, release]
    deeds += [connection.pause_writing, *[connection.resume_writing] * 2]
    deeds += [lambda: chance.choice(waits).cancel()]
    if chance.random() < 0.8:
        on.feed(on.acceptance)
    await disorder(chance, deeds)
    connection.connection_lost(None)
    for outcome in await asyncio.gather(*waits, return_exceptions=True):
        fits = CStoreRSP | AssociationError | asyncio.CancelledError | None
        assert isinstance(outcome, fits)
    established = on.requests is not None
    assert on.told == ["requested", "ended", "lost"][0 if established else 2 :]
    assert (on.pool.in_use_bytes, armed_timers()) == (0, timers)
