"""Whatever a peer says: every operation ends, with an answer or an association error."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest

from dicomnode import open_association
from dicomnode.errors import AssociationError, Unreadable
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import receiving
from dicomnode.scu.receiving import ReceivedObject
from tests import wire
from tests.query_wire import identifier
from tests.scu.scripted import CANCELLED, PENDING, Conversation, Message, scripted

STUDIES = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
MATCH = identifier({0x0020000D: "1.2.3"})
CT = wire.CT_IMAGE_STORAGE
STORAGE_CONTEXT = 15


def say_something(peer: Conversation, request: Message, chance: random.Random) -> None:
    """Answer a request, rightly or wrongly."""
    data = chance.choice([None, MATCH, chance.randbytes(chance.randrange(200)), bytes(70_000)])
    match chance.randrange(12):
        case 0 | 1 | 2 | 3:
            peer.answer(request, PENDING, MATCH)
        case 4:
            peer.answer(request, PENDING, data)
        case 5:
            peer.answer(request, chance.choice([0, CANCELLED, 0xA700, 0xB000]), data)
        case 6:
            peer.answer(request, PENDING, data, context_id=chance.choice([1, 3, 5, 7, 9, 250]))
        case 7:
            peer.answer(request, chance.randrange(65536), e0120=chance.randrange(4))
        case 8 | 9:
            uid = f"1.2.3.{chance.randrange(9)}"
            peer.store(chance.choice([STORAGE_CONTEXT, 3]), chance.randrange(9), uid, bytes(9000))
        case 10:
            peer.answer(request, PENDING, e0100=chance.choice([0x8001, 0x8020, 0x8FFF, 0x0FFF]))
        case 11:
            peer.say(chance.choice([wire.pdu(wire.ABORT, bytes(4)), chance.randbytes(20)]))


async def receive(arriving: ReceivedObject) -> None:
    await arriving.data(1 << 20)


async def operate(association: Association, chance: random.Random) -> None:
    """Perform one operation, to its end or not."""
    match chance.randrange(5):
        case 0:
            await association.echo()
        case 1:
            await association.find(STUDIES).finished()
        case 2:
            await association.move(STUDIES, "THERE").finished()
        case 3:
            await association.get(STUDIES, receive).finished()
        case 4:
            async with aclosing(association.get(STUDIES, receive)) as retrieval:
                await anext(retrieval, None)


@pytest.mark.parametrize("seed", range(60))
async def test_every_operation_ends(seed: int) -> None:
    chance = random.Random(seed)

    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=wire.IMPLICIT_LE, scp_of=[CT], window=(3, 1))
        while True:
            request = await peer.hear()
            for _ in range(chance.randrange(1, 20)):
                if 0x0110 in request.command:
                    say_something(peer, request, chance)
            await peer.said()

    contexts, roles = receiving([(CT, [wire.IMPLICIT_LE])])
    async with (
        scripted(script) as peer,
        asyncio.timeout(20),
        open_association(
            peer.written,
            contexts=["echo", "find", "move", "get", *contexts],
            roles=roles,
            max_operations=3,
            response_seconds=0.1,
            cancel_seconds=0.1,
        ) as association,
    ):
        operations = [operate(association, chance) for _ in range(6)]
        for outcome in await asyncio.gather(*operations, return_exceptions=True):
            assert outcome is None or isinstance(outcome, AssociationError | Unreadable), outcome
    before = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    await asyncio.sleep(0)
    assert not {task for task in before if not task.done()}
