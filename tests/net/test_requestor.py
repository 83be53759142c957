"""Associations that we ask for, with peers that answer, refuse, hang or die at each step."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop

from dicomnode.dimse.channel import Channel, Proposal
from dicomnode.dimse.command import CStoreRQ, CStoreRSP, encode_command
from dicomnode.errors import (
    AssociationAborted,
    AssociationError,
    AssociationRejected,
    AssociationTimedOut,
    ConnectionFailed,
)
from dicomnode.net.buffers import BufferPool
from dicomnode.net.requestor import Requestor
from dicomnode.net.taps import Ends
from dicomnode.scu.outgoing import OutgoingAssociation, associate
from dicomnode.ul.framing import p_data
from dicomnode.ul.items import (
    ContextResult,
    ImplementationClassUID,
    MaximumLength,
    PresentationContextAC,
    PresentationContextRQ,
    RoleSelection,
)
from dicomnode.ul.pdu import AAssociateAC, AAssociateRQ, decode_pdu
from tests import wire
from tests.net.shell import ABORT_PDU, PATIENT, RELEASE_PDU, until

Script = Callable[["Conversation"], Awaitable[None]]
RELEASE_RP_PDU = wire.pdu(wire.RELEASE_RP, bytes(4))
STORE = CStoreRQ(
    affected_sop_class_uid=wire.CT_IMAGE_STORAGE,
    affected_sop_instance_uid="1.2.3.4",
    message_id=1,
    has_data_set=True,
)


class Conversation:
    """The peer's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.heard: list[int] = []

    async def hear(self) -> tuple[int, bytes]:
        """Receive one PDU: type and body; type 0 at the end."""
        try:
            head = await self.reader.readexactly(6)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""
        body = await self.reader.readexactly(int.from_bytes(head[2:], "big"))
        self.heard.append(head[0])
        return head[0], body

    async def hear_all(self) -> None:
        """Receive until the connection ends."""
        while (await self.hear())[0]:
            pass

    async def hear_message(self) -> None:
        """Receive a command and its data set."""
        lasts = 0
        while lasts < 2:
            _, body = await self.hear()
            lasts += body[5] >> 1

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def accept(self) -> AAssociateRQ:
        """Accept the association with all of its contexts."""
        pdu_type, body = await self.hear()
        request = decode_pdu(pdu_type, memoryview(body))
        assert isinstance(request, AAssociateRQ)
        contexts = tuple(
            PresentationContextAC(
                context.context_id, ContextResult.ACCEPTANCE, context.transfer_syntaxes[0]
            )
            for context in request.presentation_contexts
        )
        information = (MaximumLength(16384), ImplementationClassUID("1.2.3"))
        response = AAssociateAC(
            request.called_ae_title, request.calling_ae_title, contexts, information
        )
        self.say(response.encode())
        return request


class GivesUp:
    """Gives a call up while its connection is being made; a ``Taps``."""

    call: asyncio.Future[OutgoingAssociation]

    @property
    def is_listening(self) -> bool:
        self.call.cancel()
        return False

    def connected(self, ends: Ends) -> None:
        raise AssertionError("asked for though nobody listens")


class Calling:
    """A requestor, and what its observer is told; peers run a script for each connection."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.peers: list[Conversation] = []
        self.port = 0

    def build(self, taps: GivesUp | None = None, **changes: float) -> None:
        self.requestor = Requestor(
            numbers=itertools.count(1),
            maximum_pdu_bytes=16384,
            implementation_class_uid="1.2.3",
            implementation_version_name="TEST",
            pool=BufferPool(asyncio.get_running_loop(), 64 * 1024, 1024 * 1024),
            deadlines=replace(PATIENT, **changes),
            observer=self,
            taps=taps,
        )

    def proposal(self, host: str = "127.0.0.1") -> Proposal:
        return Proposal(
            host=host,
            port=self.port,
            called_ae_title="ARCHIVE",
            calling_ae_title="DICOMNODE",
            contexts=(PresentationContextRQ(1, wire.CT_IMAGE_STORAGE, (wire.EXPLICIT_LE,)),),
        )

    async def call(self) -> OutgoingAssociation:
        return await associate(self.requestor, self.proposal())

    def requested(self, channel: Channel) -> None:
        self.told.append(f"requested #{channel.number} {channel.called_ae_title}")

    def request_failed(self, proposal: Proposal, error: AssociationError) -> None:
        self.told.append(f"failed: {error}")

    def request_ended(self, channel: Channel, how: str, why: str) -> None:
        self.told.append(f"ended: {how}: {why}")


@asynccontextmanager
async def calling(script: Script, **deadlines: float) -> AsyncIterator[Calling]:
    """Run ``script`` at the peer's end of each connection that a requestor makes."""
    on = Calling()
    on.build(**deadlines)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Conversation(reader, writer)
        on.peers.append(peer)
        try:
            await script(peer)
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    on.port = server.sockets[0].getsockname()[1]
    try:
        yield on
    finally:
        await on.requestor.close(1)
        server.close()


async def polite(peer: Conversation) -> None:
    """Accept, store one object, and be released."""
    await peer.accept()
    await peer.hear_message()
    response = CStoreRSP(message_id_being_responded_to=1, status=0)
    peer.say(b"".join(p_data(1, encode_command(response), 0, is_command=True)))
    await peer.hear()
    peer.say(RELEASE_RP_PDU)
    await peer.hear_all()


async def test_an_association_is_made_used_and_released() -> None:
    async with calling(polite) as on:
        association = await on.call()
        assert association.negotiated.contexts[1].as_scu
        response = await association.requests.perform(1, STORE, bytes(50_000), seconds=5)
        assert response.status == 0
        await association.channel.release()
        assert on.told == ["requested #1 ARCHIVE", "ended: released: "]
        await until(lambda: on.peers[0].heard[-1] == wire.RELEASE_RQ)
        await association.channel.release()  # a second time changes nothing
        with pytest.raises(AssociationAborted, match="released"):
            await association.requests.perform(1, STORE, b"data", seconds=5)


async def test_the_request_introduces_us_and_proposes_what_was_asked_for() -> None:
    requests: list[AAssociateRQ] = []

    async def script(peer: Conversation) -> None:
        requests.append(await peer.accept())
        await peer.hear_all()

    async with calling(script) as on:
        role = RoleSelection(wire.CT_IMAGE_STORAGE, scu=False, scp=True)
        await associate(on.requestor, replace(on.proposal(), roles=(role,)))
        (request,) = requests
        assert (request.called_ae_title, request.calling_ae_title) == ("ARCHIVE", "DICOMNODE")
        assert request.find(MaximumLength) == MaximumLength(16384)
        assert request.find(ImplementationClassUID) == ImplementationClassUID("1.2.3")
        assert request.find(RoleSelection) == role
        assert request.presentation_contexts == on.proposal().contexts


async def test_a_rejection_is_told_in_the_standards_words() -> None:
    async def script(peer: Conversation) -> None:
        await peer.hear()
        peer.say(wire.pdu(wire.ASSOCIATE_RJ, bytes([0, 1, 1, 7])))
        await peer.hear_all()

    async with calling(script) as on:
        with pytest.raises(AssociationRejected, match="Called AE title not recognized") as caught:
            await on.call()
        assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 7)
        assert f"ARCHIVE at 127.0.0.1:{on.port}" in str(caught.value)
        assert on.told == [f"failed: {caught.value}"]


async def test_a_port_where_nobody_listens_fails_with_the_systems_words() -> None:
    on = Calling()
    on.build()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        on.port = unused.getsockname()[1]
        with pytest.raises(ConnectionFailed) as caught:
            await on.call()
    words = f"cannot connect to ARCHIVE at 127.0.0.1:{on.port}: connection refused"
    assert str(caught.value) == words
    assert on.told == [f"failed: {words}"]


async def test_a_host_that_is_not_found_fails_with_the_resolvers_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*arguments: object, **more: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    on = Calling()
    on.build()
    with pytest.raises(ConnectionFailed, match=r"nowhere\.example:0: Name or service not known"):
        await associate(on.requestor, on.proposal("nowhere.example"))


@pytest.mark.parametrize("host", ["a" * 300, "no..host", "\udc80"])
async def test_a_host_that_is_no_name_at_all_fails_as_well(host: str) -> None:
    on = Calling()
    on.build()
    with pytest.raises(ConnectionFailed, match="not a host name"):
        await associate(on.requestor, on.proposal(host))


async def test_a_host_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*arguments: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", hang)
    on = Calling()
    on.build(connect=0.02)
    with pytest.raises(AssociationTimedOut, match=r"timeouts\.connect_seconds"):
        await on.call()


async def test_a_peer_that_does_not_answer_the_request_is_aborted() -> None:
    async with calling(Conversation.hear_all, response=0.02) as on:
        with pytest.raises(AssociationTimedOut, match=r"timeouts\.response_seconds"):
            await on.call()
        await until(lambda: bool(on.peers) and on.peers[0].heard == [1, wire.ABORT])
        assert len(on.told) == 1


@pytest.mark.parametrize(
    ("last_words", "sentence"),
    [
        (b"", "connection lost"),
        (ABORT_PDU, "A-ABORT received"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP"),
        (RELEASE_PDU, "A-RELEASE-RQ received"),
        (wire.associate_rq(), "A-ASSOCIATE-RQ received"),
    ],
)
async def test_a_peer_that_answers_the_request_with_anything_else_is_named(
    last_words: bytes, sentence: str
) -> None:
    async def script(peer: Conversation) -> None:
        await peer.hear()
        peer.say(last_words)

    async with calling(script) as on:
        with pytest.raises(AssociationAborted, match=sentence) as caught:
            await on.call()
        assert str(caught.value).startswith(f"ARCHIVE at 127.0.0.1:{on.port}: ")
        assert on.told == [f"failed: {caught.value}"]


async def hang_before(peer: Conversation) -> None:
    await peer.accept()
    await asyncio.Event().wait()


async def hang_after(peer: Conversation) -> None:
    await peer.accept()
    await peer.hear_all()


class Endless:
    """A data set without an end."""

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return bytes(1 << 20)


async def test_a_peer_that_stops_reading_within_a_data_set_is_let_go() -> None:
    async with calling(hang_before, write=0.05) as on:
        association = await on.call()
        with pytest.raises(AssociationAborted, match=r"timeouts\.write_seconds"):
            await association.requests.perform(1, STORE, Endless(), seconds=60)
        assert "timed out" in on.told[-1]


async def test_a_peer_that_answers_no_message_times_out() -> None:
    async with calling(hang_after) as on:
        association = await on.call()
        with pytest.raises(AssociationTimedOut, match=r"C-STORE 1 for 0\.02 s"):
            await association.requests.perform(1, STORE, b"data", seconds=0.02)
        association.channel.abort("no answer")
        await until(lambda: on.peers[0].heard[-1:] == [wire.ABORT])
        assert on.told[-1] == "ended: aborted: no answer"


async def test_a_peer_that_does_not_answer_the_release_is_aborted() -> None:
    async with calling(hang_after, response=0.02) as on:
        association = await on.call()
        await association.channel.release()
        await until(lambda: on.peers[0].heard == [1, wire.RELEASE_RQ, wire.ABORT])
        assert "A-RELEASE-RQ" in on.told[-1] and on.told[-1].startswith("ended: timed out")


async def test_a_release_that_is_given_up_ends_the_association() -> None:
    async with calling(hang_after) as on:
        association = await on.call()
        release = asyncio.ensure_future(association.channel.release())
        await until(lambda: on.peers[0].heard == [1, wire.RELEASE_RQ])
        release.cancel()
        with pytest.raises(asyncio.CancelledError):
            await release
        await until(lambda: on.peers[0].heard == [1, wire.RELEASE_RQ, wire.ABORT])


async def test_a_release_collision_is_answered_by_the_requestor_first() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept()
        await peer.hear()
        peer.say(RELEASE_PDU)
        await peer.hear()
        peer.say(RELEASE_RP_PDU)
        await peer.hear_all()

    async with calling(script) as on:
        association = await on.call()
        await association.channel.release()
        assert on.told[-1] == "ended: released: "
        await until(lambda: on.peers[0].heard == [1, wire.RELEASE_RQ, wire.RELEASE_RP])


async def test_a_peer_that_releases_an_association_of_ours_is_answered() -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept()
        peer.say(RELEASE_PDU)
        await peer.hear_all()

    async with calling(script) as on:
        association = await on.call()
        await until(lambda: wire.RELEASE_RP in on.peers[0].heard)
        with pytest.raises(AssociationAborted, match="released"):
            await association.requests.perform(1, STORE, b"data", seconds=5)


@pytest.mark.parametrize("last_words", [b"", ABORT_PDU])
async def test_a_peer_that_dies_while_a_response_is_awaited_is_told_at_once(
    last_words: bytes,
) -> None:
    async def script(peer: Conversation) -> None:
        await peer.accept()
        await peer.hear_message()
        peer.say(last_words)

    async with calling(script) as on:
        association = await on.call()
        with pytest.raises(AssociationAborted):
            await association.requests.perform(1, STORE, b"data", seconds=60)


async def test_giving_up_a_call_aborts_it() -> None:
    async with calling(Conversation.hear_all) as on:
        call = asyncio.ensure_future(on.call())
        await until(lambda: bool(on.peers) and on.peers[0].heard == [1])
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: on.peers[0].heard == [1, wire.ABORT])


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_nothing_is_left_of_a_call_that_is_given_up_as_its_connection_is_made(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def give_up() -> None:
        async with calling(Conversation.hear_all) as on:
            taps = GivesUp()
            on.build(taps)
            taps.call = asyncio.ensure_future(on.call())
            with pytest.raises(asyncio.CancelledError):
                await taps.call
            async with asyncio.timeout(10):
                await on.requestor.close(1e9)
            await until(lambda: bool(on.peers) and on.peers[0].reader.at_eof())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(give_up())


async def test_closing_aborts_what_is_left_and_makes_no_more() -> None:
    async with calling(hang_after) as on:
        await on.call()
        await on.requestor.close(5)
        await until(lambda: on.peers[0].heard == [1, wire.ABORT])
        assert on.told[-1] == "ended: shut down: the node stops"
        with pytest.raises(ConnectionFailed, match="shutting down"):
            await on.call()


async def test_closing_drops_peers_that_do_not_read() -> None:
    async with calling(hang_before) as on:
        association = await on.call()
        sending = asyncio.ensure_future(
            association.requests.perform(1, STORE, Endless(), seconds=60)
        )
        await asyncio.wait([sending], timeout=0.05)  # until nothing more goes out
        await on.requestor.close(0.02)
        with pytest.raises(AssociationAborted):
            await sending
