"""Operations on associations of ours: answers, windows, and how they are given up."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from dicomnode import open_association
from dicomnode.errors import (
    AssociationAborted,
    AssociationTimedOut,
    ContextNotAccepted,
    LocalProtocolError,
    StatusError,
    Unreadable,
)
from dicomnode.storage.part10 import file_meta
from tests import wire
from tests.query_wire import identifier
from tests.scu.scripted import (
    CANCEL_RQ,
    CANCELLED,
    FIND_RQ,
    PENDING,
    Conversation,
    scripted,
)

IMPLICIT = wire.IMPLICIT_LE
STUDIES = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
MATCH = identifier({0x0020000D: "1.2.3"})


async def finds(peer: Conversation, matches: int = 3, status: int = 0) -> None:
    """Accept, and answer a C-FIND."""
    await peer.accept(syntax=IMPLICIT)
    request = await peer.hear()
    for _ in range(matches):
        peer.answer(request, PENDING, MATCH)
    peer.answer(request, status)


async def test_echo_is_answered() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept()
        peer.answer(await peer.hear())

    async with scripted(script) as peer, open_association(peer.written) as association:
        answer = await association.echo()
        assert answer.ok and answer.status == 0 and answer.words == "Success"
        assert answer.raise_for_status() is answer


async def test_a_failure_is_no_exception_until_it_is_asked_for() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept()
        peer.answer(await peer.hear(), 0x0122, e0902="never heard of it ")

    async with scripted(script) as peer, open_association(peer.written) as association:
        answer = await association.echo()
        assert not answer.ok and answer.comment == "never heard of it"
        with pytest.raises(StatusError, match="C-ECHO was answered with 0122H Refused: SOP Class"):
            answer.raise_for_status()


async def test_matches_are_data_sets_and_the_last_response_is_kept() -> None:
    async with (
        scripted(finds) as peer,
        open_association(peer.written, contexts=["find"]) as association,
    ):
        matches = association.find(STUDIES)
        assert matches.answer is None
        assert [match.StudyInstanceUID async for match in matches] == ["1.2.3"] * 3
        assert matches.answer is not None and matches.answer.ok


async def test_matches_can_be_had_as_bytes() -> None:
    async with (
        scripted(finds) as peer,
        open_association(peer.written, contexts=["find"]) as association,
    ):
        found = [match async for match in association.find_encoded(STUDIES)]
        assert {(match.data, match.transfer_syntax_uid) for match in found} == {(MATCH, IMPLICIT)}


async def test_a_failed_query_has_no_matches_and_says_why() -> None:
    async def script(peer: Conversation) -> None:
        await finds(peer, 1, 0xA700)

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["find"]) as association,
    ):
        answer = await association.find(STUDIES).finished()
        assert (answer.ok, answer.status) == (False, 0xA700)


async def test_an_operation_without_a_context_is_refused_with_the_reason() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept(refused=[1])

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["find", "worklist"]) as association,
    ):
        with pytest.raises(ContextNotAccepted, match=r"Patient Root.*not supported"):
            await association.find(STUDIES, model="patient").finished()
        with pytest.raises(ContextNotAccepted, match="no presentation context was proposed"):
            await association.echo()


# -- the window --------------------------------------------------------------------------------


@pytest.mark.parametrize(("granted", "at_once"), [(None, 1), ((2, 1), 2), ((9, 1), 3), ((0, 1), 3)])
async def test_as_many_operations_are_under_way_as_the_peer_granted(
    granted: tuple[int, int] | None, at_once: int
) -> None:
    counts: list[int] = []

    async def script(peer: Conversation) -> None:
        await peer.accept(window=granted)
        waiting = []
        for _ in range(5):
            waiting.append(await peer.hear())
            if len(waiting) == at_once:
                counts.append(len(waiting))
                peer.answer(waiting.pop())
        while waiting:
            peer.answer(waiting.pop())

    async with (
        scripted(script) as peer,
        open_association(peer.written, max_operations=3) as association,
    ):
        answers = await asyncio.gather(*(association.echo() for _ in range(5)))
        assert all(answer.ok for answer in answers)
        ids = {answer.response.message_id_being_responded_to for answer in answers}
        assert len(ids) == 5 and counts


async def test_an_operation_inside_a_loop_over_matches_is_refused_instead_of_waiting() -> None:
    async def script(peer: Conversation) -> None:
        await finds(peer, 2)
        peer.answer(await peer.hear())

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["find", "echo"]) as association,
    ):
        async for _ in association.find(STUDIES):
            with pytest.raises(LocalProtocolError, match="end that loop and aclose"):
                await association.echo()
        assert (await association.echo()).ok


async def test_many_stores_that_wait_for_their_turn_hold_nothing_in_memory(tmp_path: Path) -> None:
    data = wire.data_set(wire.CT_IMAGE_STORAGE, "1.2.3", study_uid="1.2", series_uid="1.2")
    path = tmp_path / "ct.dcm"
    path.write_bytes(file_meta(wire.CT_IMAGE_STORAGE, "1.2.3", wire.EXPLICIT_LE) + data)
    first, go_on = asyncio.Event(), asyncio.Event()

    async def script(peer: Conversation) -> None:
        await peer.accept()
        for _ in range(10):
            request = await peer.hear()
            first.set()
            await go_on.wait()
            peer.answer(request)

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["CTImageStorage"]) as association,
    ):
        stores = [asyncio.create_task(association.store(path)) for _ in range(10)]
        await first.wait()
        path.rename(tmp_path / "gone.dcm")
        go_on.set()
        answers = await asyncio.gather(*stores, return_exceptions=True)
    assert [isinstance(answer, Unreadable) for answer in answers] == [False] + [True] * 9


# -- giving up ---------------------------------------------------------------------------------


async def cancelled_find(peer: Conversation) -> None:
    """Answer a C-FIND with matches until it is cancelled, then a C-ECHO."""
    await peer.accept(syntax=IMPLICIT)
    request = await peer.hear()
    assert request.field == FIND_RQ
    peer.answer(request, PENDING, MATCH)
    cancel = await peer.hear()
    assert (cancel.field, cancel[0x0120]) == (CANCEL_RQ, request.message_id)
    peer.answer(request, PENDING, MATCH)
    peer.answer(request, CANCELLED)
    peer.answer(await peer.hear())


async def test_closing_the_iterator_cancels_and_the_association_goes_on() -> None:
    async with (
        scripted(cancelled_find) as peer,
        open_association(peer.written, contexts=["find", "echo"]) as association,
    ):
        async with aclosing(association.find(STUDIES)) as matches:
            await anext(matches)
        assert (await association.echo()).ok


async def test_leaving_the_loop_cancels_and_the_association_goes_on() -> None:
    async with (
        scripted(cancelled_find) as peer,
        open_association(peer.written, contexts=["find", "echo"]) as association,
    ):
        async for _ in association.find(STUDIES):
            break
        assert (await association.echo()).ok


async def test_cancelling_the_task_cancels_the_operation() -> None:
    got_one = asyncio.Event()

    async with (
        scripted(cancelled_find) as peer,
        open_association(peer.written, contexts=["find", "echo"]) as association,
    ):

        async def query() -> None:
            async for _ in association.find(STUDIES):
                got_one.set()

        task = asyncio.create_task(query())
        await got_one.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await association.echo()).ok


async def test_the_end_of_the_block_cancels_what_is_under_way() -> None:
    ended: list[int] = []

    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=IMPLICIT)
        request = await peer.hear()
        peer.answer(request, PENDING, MATCH)
        assert (await peer.hear()).field == CANCEL_RQ
        peer.answer(request, CANCELLED)
        ended.append((await peer.hear_pdu())[0])
        peer.say(wire.pdu(wire.RELEASE_RP, bytes(4)))

    async with scripted(script) as peer:
        async with open_association(peer.written, contexts=["find"]) as association:
            matches = association.find(STUDIES)
            await anext(matches)
        with pytest.raises(AssociationAborted, match="C-FIND was given up"):
            await anext(matches)
    assert ended == [wire.RELEASE_RQ]


async def test_a_peer_that_goes_on_after_the_cancel_is_aborted() -> None:
    ended: list[int] = []

    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=IMPLICIT)
        request = await peer.hear()
        peer.answer(request, PENDING, MATCH)
        await peer.hear()
        ended.append((await peer.hear_pdu())[0])

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["find"], cancel_seconds=0.05) as association,
    ):
        matches = association.find(STUDIES)
        await anext(matches)
        await matches.aclose()
    assert ended == [wire.ABORT]


async def test_an_echo_given_up_gets_its_answer_before_the_release() -> None:
    heard = asyncio.Event()

    async def script(peer: Conversation) -> None:
        await peer.accept()
        request = await peer.hear()
        heard.set()
        await asyncio.sleep(0)
        peer.answer(request)

    async with scripted(script) as peer, open_association(peer.written) as association:
        task = asyncio.create_task(association.echo())
        await heard.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
    (conversation,) = peer.conversations
    assert conversation.heard[-1] == wire.RELEASE_RQ


async def test_silence_ends_the_operation_and_the_association() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept()

    async with scripted(script) as peer, open_association(peer.written) as association:
        with pytest.raises(AssociationTimedOut, match=r"no answer to C-ECHO 1 for 0\.05 s"):
            await association.echo(response_seconds=0.05)
        with pytest.raises(AssociationAborted, match="no answer to C-ECHO"):
            await association.echo()


async def test_matches_that_nobody_reads_wait_with_the_peer() -> None:
    match = identifier({0x0020000D: "1.2.3"}) + wire.element(0x40000010, b"x" * 16000)
    sent = [0]

    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=IMPLICIT)
        request = await peer.hear()
        for _ in range(4000):
            peer.answer(request, PENDING, match)
            sent[0] += 1
            await peer.said()
        peer.answer(request)

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["find"]) as association,
    ):
        matches = association.find_encoded(STUDIES)
        await anext(matches)
        before = -1
        while sent[0] > before:  # until it cannot send any more
            before = sent[0]
            await asyncio.sleep(0.1)
        assert before < 2000
        count = 1
        async for _ in matches:
            count += 1
        assert count == 4000


async def test_who_leaves_by_an_exception_does_not_wait_long_for_the_release() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept()
        while await peer.hear_pdu():
            pass

    async with scripted(script) as peer:
        with pytest.raises(ZeroDivisionError):
            async with open_association(peer.written, cancel_seconds=0.05):
                raise ZeroDivisionError
    (conversation,) = peer.conversations
    assert conversation.heard[-2:] == [wire.RELEASE_RQ, wire.ABORT]


async def test_text_beyond_ascii_is_asked_for_in_utf_8() -> None:
    asked: list[bytes | None] = []

    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=IMPLICIT)
        request = await peer.hear()
        asked.append(request.data)
        peer.answer(request)

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=["find"]) as association,
    ):
        await association.find(STUDIES | {"PatientName": "Müller*"}).finished()
    assert asked[0] is not None
    assert b"ISO_IR 192" in asked[0] and "Müller*".encode() in asked[0]
