"""C-GET: objects that come in on our own association, and what is made of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pydicom
import pytest

from dicomnode import open_association
from dicomnode.errors import (
    AssociationAborted,
    AssociationTimedOut,
    OutOfResources,
    StatusError,
)
from dicomnode.scu.answers import Progress
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import receiving
from dicomnode.scu.files import into
from dicomnode.scu.receiving import ReceivedObject
from tests import wire
from tests.scu.scripted import (
    CANCEL_RQ,
    CANCELLED,
    GET_RQ,
    PENDING,
    Conversation,
    Message,
    Script,
    scripted,
)

STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2"}
CT = wire.CT_IMAGE_STORAGE
# The second context of "get" is the Study Root's.
CT_CONTEXT = 5
LONG = bytes(range(256)) * 16384


def ct(uid: str) -> bytes:
    return wire.data_set(CT, uid, study_uid="1.2", series_uid="1.2.3")


async def accept(peer: Conversation) -> Message:
    """Accept the association and hear the C-GET."""
    await peer.accept(scp_of=[CT], syntax=wire.IMPLICIT_LE)
    request = await peer.hear()
    assert request.field == GET_RQ
    return request


@asynccontextmanager
async def getting(script: Script, **options: float) -> AsyncIterator[Association]:
    contexts, roles = receiving([(CT, [wire.EXPLICIT_LE, wire.IMPLICIT_LE])])
    async with (
        scripted(script) as peer,
        open_association(
            peer.written,
            contexts=["get", *contexts, "echo"],
            roles=roles,
            **options,  # type: ignore[arg-type]
        ) as association,
    ):
        yield association


async def sends(peer: Conversation) -> None:
    """Send two objects, with Pending between them."""
    request = await accept(peer)
    for number in (1, 2):
        peer.store(CT_CONTEXT, number, f"1.2.3.{number}", ct(f"1.2.3.{number}"))
        answer = await peer.hear()
        status = "e1021" if answer[0x0900] == 0 else "e1022"
        assert answer[0x0120] == number
        peer.answer(request, PENDING, e1020=2 - number, e1021=number, e1022=0, e1023=0)
        assert status
    peer.answer(request, e1021=2, e1022=0, e1023=0)


async def test_objects_come_to_the_handler_and_the_counters_to_the_iterator() -> None:
    taken: dict[str, bytes] = {}

    async def receive(arriving: ReceivedObject) -> None:
        assert arriving.transfer_syntax_uid == wire.IMPLICIT_LE
        taken[arriving.sop_instance_uid] = await arriving.data(1 << 20)

    async with getting(sends) as association:
        retrieval = association.get(STUDY, receive)
        progress = [one async for one in retrieval]
        assert progress == [Progress(1, 1, 0, 0), Progress(0, 2, 0, 0)]
        assert retrieval.answer is not None and retrieval.answer.ok
    assert taken == {uid: ct(uid) for uid in ("1.2.3.1", "1.2.3.2")}


async def test_objects_are_written_as_part_10_files(tmp_path: Path) -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept(scp_of=[CT], syntax=wire.EXPLICIT_LE)
        request = await peer.hear()
        peer.store(CT_CONTEXT, 1, "1.2.3.1", ct("1.2.3.1"))
        assert (await peer.hear())[0x0900] == 0
        peer.store(CT_CONTEXT, 2, "../x", ct("1.2.3.1"))
        assert (await peer.hear())[0x0900] == 0xC000
        peer.answer(request)

    async with getting(script) as association:
        await association.get(STUDY, into(tmp_path)).finished()
    (path,) = tmp_path.iterdir()
    read = pydicom.dcmread(path)
    assert path.name == "1.2.3.1.dcm" and read.SOPInstanceUID == "1.2.3.1"
    assert read.file_meta.TransferSyntaxUID == wire.EXPLICIT_LE


@pytest.mark.parametrize(
    ("result", "status"),
    [(0xB007, 0xB007), (StatusError("no", status=0xA900), 0xA900), (OutOfResources("x"), 0xA700)],
)
async def test_the_handler_decides_on_the_status(result: int | StatusError, status: int) -> None:
    statuses: list[int] = []

    async def script(peer: Conversation) -> None:
        request = await accept(peer)
        peer.store(CT_CONTEXT, 1, "1.2.3.1", LONG)
        statuses.append((await peer.hear())[0x0900])
        peer.answer(request, 0xB000, e1021=0, e1022=1, e1023=0)

    async def receive(arriving: ReceivedObject) -> int:
        if isinstance(result, StatusError):
            raise result
        return result

    async with getting(script) as association:
        assert not (await association.get(STUDY, receive).finished()).ok
    assert statuses == [status]


async def test_a_fault_of_the_handler_cancels_and_is_raised() -> None:
    async def script(peer: Conversation) -> None:
        request = await accept(peer)
        peer.store(CT_CONTEXT, 1, "1.2.3.1", ct("1.2.3.1"))
        answers = [await peer.hear(), await peer.hear()]
        assert {answer.field for answer in answers} == {0x8001, CANCEL_RQ}
        peer.answer(request, CANCELLED)
        peer.answer(await peer.hear())

    async def receive(arriving: ReceivedObject) -> None:
        raise ZeroDivisionError("ours")

    async with getting(script) as association:
        with pytest.raises(ZeroDivisionError, match="ours"):
            await association.get(STUDY, receive).finished()
        assert (await association.echo()).ok


async def test_what_comes_after_the_cancel_is_refused() -> None:
    statuses: list[int] = []

    async def script(peer: Conversation) -> None:
        request = await accept(peer)
        peer.answer(request, PENDING, e1020=2)
        assert (await peer.hear()).field == CANCEL_RQ
        peer.store(CT_CONTEXT, 1, "1.2.3.1", LONG)
        statuses.append((await peer.hear())[0x0900])
        peer.answer(request, CANCELLED)

    taken: list[str] = []

    async def receive(arriving: ReceivedObject) -> None:
        taken.append(arriving.sop_instance_uid)

    async with getting(script) as association:
        retrieval = association.get(STUDY, receive)
        await anext(retrieval)
        await retrieval.aclose()
    assert statuses == [0xA700] and not taken


async def test_an_object_that_has_just_begun_to_arrive_is_refused_by_the_cancel() -> None:
    statuses: list[int] = []

    async def script(peer: Conversation) -> None:
        request = await accept(peer)
        peer.answer(request, PENDING, e1020=2)
        peer.store(CT_CONTEXT, 1, "1.2.3.1", ct("1.2.3.1"))
        answers = [await peer.hear(), await peer.hear()]
        statuses.extend(answer[0x0900] for answer in answers if answer.field != CANCEL_RQ)
        peer.answer(request, CANCELLED)

    async def receive(arriving: ReceivedObject) -> None:
        await asyncio.Event().wait()

    async with getting(script) as association:
        retrieval = association.get(STUDY, receive)
        await anext(retrieval)
        await retrieval.aclose()
    assert statuses == [0xA700]


async def test_an_object_without_our_scp_role_is_refused() -> None:
    statuses: list[int] = []

    async def script(peer: Conversation) -> None:
        await peer.accept(syntax=wire.IMPLICIT_LE)
        request = await peer.hear()
        peer.store(CT_CONTEXT, 1, "1.2.3.1", ct("1.2.3.1"))
        statuses.append((await peer.hear())[0x0900])
        peer.answer(request)

    async with getting(script) as association:
        await association.get(STUDY, into("/nowhere")).finished()
    assert statuses == [0x0122]


async def test_the_association_ends_in_the_middle_of_an_object(tmp_path: Path) -> None:
    async def script(peer: Conversation) -> None:
        await accept(peer)
        command = wire.c_store_rq(1, CT, "1.2.3.1")
        peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, command, command=True)))
        for _ in range(20):
            part = wire.pdv(CT_CONTEXT, bytes(16000), last=False)
            peer.say(wire.pdu(wire.P_DATA, part))
        await peer.said()
        peer.close()

    async with getting(script) as association:
        with pytest.raises(AssociationAborted):
            await association.get(STUDY, into(tmp_path)).finished()
        async with asyncio.timeout(5):
            while list(tmp_path.iterdir()):
                await asyncio.sleep(0.01)


async def test_objects_that_nobody_reads_wait_with_the_peer() -> None:
    sent = [0]
    go_on = asyncio.Event()

    async def script(peer: Conversation) -> None:
        request = await accept(peer)
        for number in range(1, 9):
            peer.store(CT_CONTEXT, number, f"1.2.3.{number}", LONG)
            await peer.said()
            sent[0] = number
        for _ in range(8):
            assert (await peer.hear())[0x0900] == 0
        peer.answer(request)

    sizes: list[int] = []

    async def receive(arriving: ReceivedObject) -> None:
        await go_on.wait()
        sizes.append(len(await arriving.data(len(LONG))))

    async with getting(script) as association:
        retrieval = asyncio.create_task(association.get(STUDY, receive).finished())
        before = -1
        while sent[0] > before or sent[0] == 0:
            before = sent[0]
            await asyncio.sleep(0.1)
        assert before < 5
        go_on.set()
        assert (await retrieval).ok
    assert sizes == [len(LONG)] * 8


async def test_the_time_for_an_answer_does_not_run_while_an_object_is_being_taken() -> None:
    async def script(peer: Conversation) -> None:
        request = await accept(peer)
        peer.store(CT_CONTEXT, 1, "1.2.3.1", ct("1.2.3.1"))
        await peer.hear()
        peer.answer(request)

    async def receive(arriving: ReceivedObject) -> None:
        await asyncio.sleep(0.2)

    async with getting(script, response_seconds=0.05) as association:
        assert (await association.get(STUDY, receive).finished()).ok


async def test_the_time_for_an_answer_runs_anew_with_each_piece_of_an_object() -> None:
    async def script(peer: Conversation) -> None:
        request = await accept(peer)
        command = wire.c_store_rq(1, CT, "1.2.3.1")
        peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, command, command=True)))
        for _ in range(8):
            await asyncio.sleep(0.1)
            for _ in range(7):  # as much as comes to the handler at once
                peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, bytes(16000), last=False)))
        peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, b"", last=True)))
        await peer.hear()
        peer.answer(request)

    async def receive(arriving: ReceivedObject) -> None:
        await arriving.data(1 << 30)

    async with getting(script, response_seconds=0.6) as association:
        assert (await association.get(STUDY, receive).finished()).ok


@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_peer_that_falls_silent_within_an_object_times_out(pieces: int) -> None:
    async def script(peer: Conversation) -> None:
        await accept(peer)
        command = wire.c_store_rq(1, CT, "1.2.3.1")
        peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, command, command=True)))
        for _ in range(pieces * 20):
            peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, bytes(16000), last=False)))

    async def receive(arriving: ReceivedObject) -> None:
        await arriving.data(1 << 30)

    async with getting(script, response_seconds=0.1) as association:
        async with asyncio.timeout(20):
            with pytest.raises(AssociationTimedOut):
                await association.get(STUDY, receive).finished()


async def test_nothing_of_a_cancelled_object_is_left_when_the_get_is_over(tmp_path: Path) -> None:
    async def script(peer: Conversation) -> None:
        request = await accept(peer)
        peer.answer(request, PENDING)
        command = wire.c_store_rq(1, CT, "1.2.3.1")
        peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, command, command=True)))
        for _ in range(20):
            peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, bytes(16000), last=False)))
        while (await peer.hear()).field != CANCEL_RQ:
            pass
        peer.say(wire.pdu(wire.P_DATA, wire.pdv(CT_CONTEXT, b"", last=True)))
        peer.answer(request, CANCELLED)

    async with getting(script) as association:
        retrieval = association.get(STUDY, into(tmp_path / "in"))
        await anext(retrieval)
        while not (tmp_path / "in").exists():
            await asyncio.sleep(0.01)
        await retrieval.aclose()
        assert list((tmp_path / "in").iterdir()) == []
