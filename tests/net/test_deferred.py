"""Associations over which is decided later: while a passcode is compared."""

from __future__ import annotations

import asyncio

import pytest

from dicomnode.certificates import Secured
from dicomnode.dimse.channel import Admitted, Deferred, Refused
from dicomnode.ul.negotiation import Negotiated
from dicomnode.ul.pdu import AAssociateRQ, Rejection
from tests import wire
from tests.net.shell import ABORT_PDU, ECHO_PDU, Bench, until

REFUSED = Refused(Rejection.PROVIDER_NO_REASON_GIVEN, "wrong passcode")


class Deciding(Bench):
    """Decides once the test says how."""

    def __init__(self) -> None:
        super().__init__()
        self.outcome: asyncio.Future[Refused | None] = asyncio.get_running_loop().create_future()
        self.asked = 0

    def admit(
        self, request: AAssociateRQ, peer_address: str, secured: Secured | None = None
    ) -> Admitted | Refused | Deferred:
        answer = super().admit(request, peer_address)
        assert isinstance(answer, Admitted)

        async def decide() -> Negotiated | Refused:
            self.asked += 1
            return await self.outcome or answer.negotiated

        return Deferred(decide, answer.release)


@pytest.fixture
async def bench() -> Deciding:
    bench = Deciding()
    bench.feed(wire.associate_rq())
    await until(lambda: bench.asked == 1)
    assert bench.sent() == b"" and bench.slots == 1
    return bench


async def test_the_association_is_made_when_it_is_decided(bench: Deciding) -> None:
    bench.outcome.set_result(None)
    await until(lambda: bool(bench.transport.written))
    assert bench.sent()[0] == wire.ASSOCIATE_AC
    bench.feed(ECHO_PDU)
    assert bench.sent()[0] == wire.P_DATA
    bench.lose()
    assert bench.slots == 0


async def test_a_refusal_gives_the_slot_back_at_once_and_once(bench: Deciding) -> None:
    bench.outcome.set_result(REFUSED)
    await until(lambda: bool(bench.transport.written))
    assert bench.sent() == wire.pdu(wire.ASSOCIATE_RJ, bytes([0, 1, 2, 1]))
    assert bench.slots == 0 and bench.told == ["rejected wrong passcode"]
    bench.lose()
    assert bench.slots == 0


@pytest.mark.parametrize("refused", [None, REFUSED])
async def test_a_peer_that_leaves_meanwhile_gives_its_slot_back(
    bench: Deciding, refused: Refused | None
) -> None:
    bench.lose()
    assert bench.slots == 0
    if not bench.outcome.done():
        bench.outcome.set_result(refused)
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.sent() == b"" and bench.slots == 0 and not bench.told


async def test_a_peer_that_leaves_before_it_is_asked_about_gives_its_slot_back() -> None:
    bench = Deciding()
    bench.feed(wire.associate_rq())
    bench.lose()
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.slots == 0 and bench.asked == 0


async def test_an_abort_meanwhile_is_heard(bench: Deciding) -> None:
    bench.feed(ABORT_PDU)
    bench.lose()
    assert bench.slots == 0
    assert len(bench.told) == 1 and bench.told[0].startswith("failed aborted by peer")


async def test_whoever_sends_data_before_the_answer_is_aborted(bench: Deciding) -> None:
    bench.feed(ECHO_PDU)
    assert bench.sent()[0] == wire.ABORT
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.outcome.cancelled()
    assert bench.sent() == b""
    bench.lose()
    assert bench.slots == 0


async def test_a_fault_while_deciding_ends_this_association_alone(bench: Deciding) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
    bench.outcome.set_exception(RuntimeError("broken"))
    await until(lambda: bool(faults))
    assert bench.sent()[0] == wire.ABORT
    bench.lose()
    assert bench.slots == 0
