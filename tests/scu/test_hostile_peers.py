"""Peers that break the rules at each step of our operations: each ends in one clear exception."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dicomnode import open_association
from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimedOut,
    ConnectionFailed,
    Unreadable,
)
from dicomnode.scu.association import Association
from tests import peers, wire
from tests.query_wire import identifier
from tests.scu.scripted import PENDING, Conversation, Message, scripted

STUDIES = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
MATCH = identifier({0x0020000D: "1.2.3"})
CONTEXTS = ["find", "move", "echo", "mpps"]

Misdeed = Callable[[Conversation, Message], Any]


async def ask(association: Association, what: str) -> None:
    """Perform one operation to its end."""
    match what:
        case "echo":
            await association.echo()
        case "find":
            await association.find(STUDIES).finished()
        case "move":
            await association.move(STUDIES, "THERE").finished()
        case "n_get":
            await association.n_get("ModalityPerformedProcedureStep", "1.2.3")


async def outcome(misdeed: Misdeed, what: str = "find", **options: Any) -> Exception:
    """Return what an operation raises when the peer does ``misdeed`` to its request."""

    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=wire.IMPLICIT_LE)
        request = await peer.hear()
        result = misdeed(peer, request)
        if result is not None:
            await result

    async with scripted(script) as peer:
        options.setdefault("response_seconds", 10.0)
        async with open_association(peer.written, contexts=CONTEXTS, **options) as association:
            with pytest.raises(AssociationError) as raised:
                await ask(association, what)
            # It is over: whatever is asked next says so at once.
            with pytest.raises(AssociationAborted):
                await association.echo()
    return raised.value


@pytest.mark.parametrize("what", ["echo", "find", "move", "n_get"])
@pytest.mark.parametrize(
    ("misdeed", "words"),
    [
        (lambda peer, request: peer.answer(request, e0120=99), "nothing was requested with that"),
        (lambda peer, request: peer.answer(request, e0100=0x8001), "nothing was requested"),
        (lambda peer, request: peer.close(), "connection lost"),
        (lambda peer, request: peer.say(wire.pdu(wire.ABORT, bytes(4))), "A-ABORT received"),
        (lambda peer, request: peer.say(wire.pdu(wire.RELEASE_RQ, bytes(4))), "released"),
        (lambda peer, request: peer.say(wire.pdu(9, bytes(4))), "PDU type"),
        (lambda peer, request: peer.answer(request, 0, MATCH, context_id=99), "context 99"),
    ],
    ids=["wrong id", "wrong service", "closes", "aborts", "releases", "garbage", "context"],
)
async def test_what_a_peer_breaks_is_named(misdeed: Misdeed, words: str, what: str) -> None:
    error = await outcome(misdeed, what)
    assert isinstance(error, AssociationAborted) and words in str(error)


@pytest.mark.parametrize("what", ["echo", "find", "move", "n_get"])
async def test_a_peer_that_says_nothing_times_out(what: str) -> None:
    error = await outcome(lambda peer, request: None, what, response_seconds=0.1)
    assert isinstance(error, AssociationTimedOut) and "no answer to" in str(error)


@pytest.mark.parametrize("what", ["echo", "n_get"])
async def test_pending_is_no_answer_of_an_operation_with_one_response(what: str) -> None:
    error = await outcome(lambda peer, request: peer.answer(request, PENDING), what)
    assert "response with status FF00H" in str(error)


async def test_a_second_final_response_is_one_too_many() -> None:
    def twice(peer: Conversation, request: Message) -> None:
        peer.answer(request)
        peer.answer(request)

    async def script(peer: Conversation) -> None:
        await peer.accept()
        twice(peer, await peer.hear())

    async with scripted(script) as peer, open_association(peer.written) as association:
        assert (await association.echo()).ok
        with pytest.raises(AssociationAborted, match="nothing was requested"):
            await association.echo()


async def test_a_data_set_on_another_context_is_refused() -> None:
    error = await outcome(lambda peer, request: peer.answer(request, PENDING, MATCH, context_id=9))
    assert "data set of a C-FIND response on context 9, where it was requested on 3" in str(error)


@pytest.mark.parametrize("what", ["find", "n_get"])
async def test_a_giant_data_set_is_refused_before_all_of_it_is_there(what: str) -> None:
    async def giant(peer: Conversation, request: Message) -> None:
        status = PENDING if what == "find" else 0
        peer.answer(request, status, bytes(64 * 1024 * 1024))
        await peer.said()

    error = await outcome(giant, what)
    assert "a data set of more than 1048576 bytes" in str(error)


async def test_endless_matches_can_be_left() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=wire.IMPLICIT_LE)
        request = await peer.hear()
        while True:
            peer.answer(request, PENDING, MATCH)
            await peer.said()

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["find"], cancel_seconds=0.1) as association,
    ):
        count = 0
        matches = association.find(STUDIES)
        async for _ in matches:
            count += 1
            if count == 500:
                break
        await matches.aclose()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x20\x00\x0d\x00\xff\xff\xff\x7f1.2",
        b"\x08\x00\x05\x00\x04\x00",
        b"\x40\x00\x00\x01\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 2000,
    ],
    ids=["length", "cut", "nested"],
)
async def test_a_match_that_is_no_data_set_is_unreadable(garbage: bytes) -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=wire.IMPLICIT_LE)
        request = await peer.hear()
        peer.answer(request, PENDING, garbage)
        while (await peer.hear()).field != 0x0FFF:
            pass
        peer.answer(request, 0xFE00)
        peer.answer(await peer.hear())

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["find", "echo"]) as association,
    ):
        with pytest.raises(Unreadable, match="cannot be read"):
            await association.find(STUDIES).finished()
        assert (await association.echo()).ok


async def test_what_the_peer_asks_of_us_is_refused() -> None:
    refusals: list[int] = []

    async def script(peer: Conversation) -> None:
        await peer.accept()
        request = await peer.hear()
        peer.message(request.context_id, wire.c_echo_rq(7))
        peer.store(request.context_id, 8, "1.2.3", bytes(100_000))
        refusals.extend([(await peer.hear())[0x0900] for _ in range(2)])
        peer.answer(request)

    async with scripted(script) as peer, open_association(peer.written) as association:
        assert (await association.echo()).ok
    assert refusals == [0x0211, 0x0211]


# -- before there is an association ------------------------------------------------------------


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectionFailed, match=r"PEER at 127\.0\.0\.1"):
        async with open_association(f"PEER@127.0.0.1:{peers.free_port()}"):
            pass


async def test_a_rejection_is_raised_with_its_words() -> None:
    async def script(peer: Conversation) -> None:
        await peer.hear_pdu()
        peer.say(wire.pdu(wire.ASSOCIATE_RJ, bytes([0, 1, 1, 7])))

    async with scripted(script) as peer:
        with pytest.raises(AssociationRejected, match=r"[Cc]alled AE title not recognized"):
            async with open_association(peer.written):
                pass


async def test_a_peer_that_does_not_negotiate_times_out() -> None:
    async def script(peer: Conversation) -> None:
        await peer.hear_all()

    async with scripted(script) as peer:
        with pytest.raises(AssociationTimedOut, match="association request"):
            async with open_association(peer.written, response_seconds=0.05):
                pass


async def test_a_peer_that_does_not_release_is_aborted() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept()
        while await peer.hear_pdu():
            pass

    async with scripted(script) as peer:
        async with open_association(peer.written, response_seconds=0.05):
            pass
        (conversation,) = peer.conversations
        async with asyncio.timeout(5):
            while wire.ABORT not in conversation.heard:
                await asyncio.sleep(0.01)
