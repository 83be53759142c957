"""Requests of ours, and the responses that they wait for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dicomnode.dimse.channel import DataSetSource, Handler, Proposal, Provider
from dicomnode.dimse.command import (
    CCancelRQ,
    CEchoRQ,
    CEchoRSP,
    Command,
    CStoreRQ,
    CStoreRSP,
    NEventReportRQ,
    UnrecognizedCommand,
)
from dicomnode.errors import AssociationAborted, AssociationTimedOut, RemoteProtocolError
from dicomnode.scu.outgoing import OutgoingAssociation, RequestingProvider, associate
from dicomnode.scu.requests import Requests
from dicomnode.services.dispatch import Dispatcher, Operation
from dicomnode.services.sop_classes import STORAGE_COMMITMENT_PUSH_MODEL, VERIFICATION
from dicomnode.ul.negotiation import AcceptedContext

CT = "1.2.840.10008.5.1.4.1.1.2"


def store(message_id: int) -> CStoreRQ:
    return CStoreRQ(
        affected_sop_class_uid=CT,
        affected_sop_instance_uid="1.2",
        message_id=message_id,
        has_data_set=True,
    )


def stored(message_id: int) -> CStoreRSP:
    return CStoreRSP(message_id_being_responded_to=message_id, status=0)


class FakeChannel:
    """Keeps what is sent; ``block`` keeps the peer from taking it."""

    def __init__(self) -> None:
        self.negotiated = SimpleNamespace(contexts={}, peer_maximum_length=16384)
        self.sent: list[tuple[int, Any, object]] = []
        self.longest = 0
        self.free = asyncio.Event()
        self.free.set()

    def send(self, context_id: int, command: Command, data_set: object = None) -> None:
        self.sent.append((context_id, command, data_set))

    async def stream(self, context_id: int, command: Command, data_set: DataSetSource) -> None:
        sent = [piece async for piece in pieces(data_set)]
        self.longest = max(map(len, sent))
        self.send(context_id, command, b"".join(sent))

    async def drained(self) -> None:
        await self.free.wait()


async def pieces(data_set: DataSetSource) -> Any:
    while piece := await data_set.read():
        yield piece


class Source:
    def __init__(self, *data: bytes) -> None:
        self.data = [*data, b""]

    async def read(self) -> bytes:
        return self.data.pop(0)


class On:
    def __init__(self) -> None:
        self.channel = FakeChannel()
        self.requests = Requests(self.channel)  # type: ignore[arg-type]

    def perform(
        self, message_id: int, data_set: Any = b"data", seconds: float = 60.0
    ) -> asyncio.Task[Any]:
        return asyncio.ensure_future(
            self.requests.perform(3, store(message_id), data_set, seconds=seconds)
        )


@pytest.fixture
async def on() -> On:
    return On()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("data_set", [b"data", memoryview(b"data"), Source(b"da", b"ta")])
async def test_a_request_waits_for_its_response(on: On, data_set: Any) -> None:
    performing = on.perform(1, data_set)
    await turns()
    assert on.channel.sent == [(3, store(1), b"data")]
    assert not performing.done()
    on.requests.response(3, stored(1))
    assert await performing == stored(1)


# A PDU of 8 bytes has 2 of data (PS3.8 Table 9-22).
@pytest.mark.parametrize(("maximum_length", "longest"), [(8, 1000), (1030, 512_000), (16384, 0)])
async def test_a_peer_that_takes_little_in_one_pdu_is_sent_a_long_data_set_in_turns(
    on: On, maximum_length: int, longest: int
) -> None:
    on.channel.negotiated.peer_maximum_length = maximum_length
    performing = on.perform(1, bytes(1024 * 1024))
    while not on.channel.sent:
        await asyncio.sleep(0)
    assert on.channel.sent == [(3, store(1), bytes(1024 * 1024))]
    assert on.channel.longest == longest
    performing.cancel()


async def test_responses_find_their_requests_in_any_order(on: On) -> None:
    first, second = on.perform(1), on.perform(2)
    await turns()
    on.requests.response(3, stored(2))
    assert await second == stored(2) and not first.done()
    on.requests.response(3, stored(1))
    assert await first == stored(1)


async def test_message_ids_go_round_and_leave_out_those_that_are_open(on: On) -> None:
    performing = [on.perform(message_id) for message_id in (1, 3)]
    await turns()
    assert [on.requests.next_message_id() for _ in range(3)] == [2, 4, 5]
    ids = [on.requests.next_message_id() for _ in range(0xFFFF - 2)]
    assert set(ids) == set(range(1, 0x10000)) - {1, 3}
    on.requests.closed("over")
    await asyncio.gather(*performing, return_exceptions=True)


@pytest.mark.parametrize(
    "response", [stored(2), CEchoRSP(message_id_being_responded_to=1, status=0)]
)
async def test_a_response_to_what_was_not_asked_is_a_protocol_error(on: On, response: Any) -> None:
    performing = on.perform(1)
    await turns()
    with pytest.raises(RemoteProtocolError, match="nothing was requested"):
        on.requests.response(3, response)
    on.requests.response(3, stored(1))
    await performing
    with pytest.raises(RemoteProtocolError, match="nothing was requested"):
        on.requests.response(3, stored(1))


async def test_the_end_of_the_association_ends_every_wait(on: On) -> None:
    performing = [on.perform(1), on.perform(2)]
    await turns()
    on.requests.closed("aborted by peer")
    for one in performing:
        with pytest.raises(AssociationAborted, match="aborted by peer"):
            await one
    with pytest.raises(AssociationAborted, match="aborted by peer"):
        await on.perform(3)
    assert len(on.channel.sent) == 2


async def test_a_peer_that_does_not_answer_times_out_and_may_answer_later(on: On) -> None:
    with pytest.raises(AssociationTimedOut, match=r"C-STORE 1 for 0\.01 s"):
        await on.perform(1, seconds=0.01)
    on.requests.response(3, stored(1))


async def test_the_time_for_an_answer_begins_when_the_peer_has_taken_the_request(on: On) -> None:
    on.channel.free.clear()
    performing = on.perform(1, seconds=0.01)
    await asyncio.wait([performing], timeout=0.05)
    assert not performing.done()
    on.channel.free.set()
    with pytest.raises(AssociationTimedOut):
        await performing


async def test_a_request_that_nobody_waits_for_any_more_may_be_answered(on: On) -> None:
    performing = on.perform(1)
    await turns()
    performing.cancel()
    await turns()
    on.requests.response(3, stored(1))
    assert performing.cancelled()


class FakeRequestor:
    def __init__(self) -> None:
        self.channel = FakeChannel()
        self.handler: Handler

    async def associate(self, proposal: Proposal, provider: Provider) -> Any:
        self.handler = provider.established(self.channel)  # type: ignore[arg-type]
        return self.channel


async def outgoing(
    provider: RequestingProvider | None = None,
) -> tuple[FakeRequestor, OutgoingAssociation]:
    requestor = FakeRequestor()
    proposal = Proposal(host="h", port=104, called_ae_title="A", calling_ae_title="B", contexts=())
    return requestor, await associate(requestor, proposal, provider)


async def test_responses_on_an_association_of_ours_reach_its_requests() -> None:
    requestor, association = await outgoing()
    performing = asyncio.ensure_future(
        association.requests.perform(1, store(1), b"data", seconds=60)
    )
    await turns()
    assert requestor.handler.message(1, stored(1)) is None
    assert await performing == stored(1)
    requestor.handler.closed("released")
    with pytest.raises(AssociationAborted, match="released"):
        await association.requests.perform(1, store(2), b"data", seconds=60)


@pytest.mark.parametrize(
    "request_",
    [
        CEchoRQ(affected_sop_class_uid=VERIFICATION, message_id=5),
        UnrecognizedCommand(command_field=0x42, message_id=5),
    ],
)
async def test_a_request_on_an_association_of_ours_is_refused(request_: Command) -> None:
    requestor, _ = await outgoing()
    assert requestor.handler.message(1, request_) is None
    ((_, response, _),) = requestor.channel.sent
    assert (response.message_id_being_responded_to, response.status) == (5, 0x0211)
    requestor.handler.message(1, CCancelRQ(message_id_being_responded_to=5))
    assert requestor.handler.outstanding == 0 and len(requestor.channel.sent) == 1


class Answering:
    """A service that answers at once; it is its own journal."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def serves(self, sop_class_uid: str) -> bool:
        return sop_class_uid == STORAGE_COMMITMENT_PUSH_MODEL

    def begin(self, operation: Operation) -> None:
        operation.respond(0x0000)

    def operation_ended(self, operation: Operation, status: int, comment: str) -> None:
        self.ended.append(f"{operation.service} {status:04X}")

    def internal_error(self, what: str, error: BaseException) -> None:
        raise error


async def test_a_provider_serves_what_the_peer_asks_for_on_an_association_of_ours() -> None:
    reports = Answering()
    requestor, association = await outgoing(Dispatcher({NEventReportRQ: (reports,)}, reports))
    uid = STORAGE_COMMITMENT_PUSH_MODEL
    contexts = requestor.channel.negotiated.contexts
    contexts[1] = AcceptedContext(1, uid, "1.2.840.10008.1.2", False, True)
    performing = asyncio.ensure_future(
        association.requests.perform(1, store(1), b"data", seconds=60)
    )
    await turns()
    report = NEventReportRQ(
        message_id=1,
        affected_sop_class_uid=uid,
        affected_sop_instance_uid="1.2.840.10008.1.20.1.1",
        event_type_id=1,
    )
    requestor.handler.message(1, report)
    requestor.handler.message(1, CEchoRQ(affected_sop_class_uid=uid, message_id=2))
    assert reports.ended == ["N-EVENT-REPORT 0000", "C-ECHO 0211"]
    requestor.handler.message(1, stored(1))
    assert await performing == stored(1)
