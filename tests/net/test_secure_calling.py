"""Associations that we ask for over TLS, with servers that are whom we meant and others."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dicomnode.certificates import Expected, binding
from dicomnode.dimse.channel import Proposal
from dicomnode.errors import ConnectionFailed, TLSFailed
from dicomnode.net.requestor import Requestor
from dicomnode.scu.outgoing import associate
from dicomnode.tls.contexts import ClientContexts, client_contexts
from dicomnode.tls.files import Files
from tests.authority import Authority, Issued
from tests.net.test_requestor import Calling, Conversation, Script, polite

ANY_NAME = Expected()


class SecureCalling(Calling):
    """A requestor that trusts an authority."""

    contexts: ClientContexts | None = None
    expected: Expected | None = Expected()

    def build(self, **changes: float) -> None:
        super().build(**changes)
        kept = self.requestor
        self.requestor = Requestor(
            numbers=kept._numbers,
            maximum_pdu_bytes=16384,
            implementation_class_uid="1.2.3",
            implementation_version_name="TEST",
            pool=kept._pool,
            deadlines=kept._deadlines,
            observer=self,
            secure=lambda: self.contexts,
        )

    def proposal(self, host: str = "localhost") -> Proposal:
        return replace(super().proposal(host), tls=self.expected)

    async def fails(self) -> TLSFailed:
        with pytest.raises(TLSFailed) as caught:
            association = await associate(self.requestor, self.proposal())
            # TLS 1.3 lets a client begin before the server has seen its certificate.
            await association.channel.release()
            await association.requests.ended.wait()
        assert self.told[-1] == f"failed: {caught.value}"
        return caught.value


def server_context(issued: Issued, authority: Authority, *, strict: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    context.load_verify_locations(authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED if strict else ssl.CERT_NONE
    return context


@asynccontextmanager
async def refusing(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Run a server that sends its alert: asyncio's own closes without."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        accepted = listener.accept()[0]
        with (
            context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as peer,
            suppress(ssl.SSLError),
        ):
            try:
                peer.do_handshake()
            finally:
                # With unread bytes a close would be a reset, which may overtake the alert.
                socket.socket.shutdown(peer, socket.SHUT_WR)
                while socket.socket.recv(peer, 65536):
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        await asyncio.to_thread(thread.join)
        listener.close()


@asynccontextmanager
async def calling(
    authority: Authority,
    context: ssl.SSLContext | None,
    *,
    script: Script = polite,
    own: Issued | None = None,
    expected: Expected | None = ANY_NAME,
    verify: bool = True,
    revoked: Path | None = None,
    **deadlines: float,
) -> AsyncIterator[SecureCalling]:
    """Run ``script`` behind TLS at the peer's end of each connection."""
    on = SecureCalling()
    files = Files(own and own.certificate, own and own.key, authority.ca, revoked=revoked)
    on.contexts, on.expected = client_contexts(files, verify=verify), expected
    on.build(**deadlines)
    conversations: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        conversations.add(task)
        try:
            await script(Conversation(reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0, ssl=context)
    on.port = server.sockets[0].getsockname()[1]
    try:
        yield on
    finally:
        await on.requestor.close(1)
        server.close()
        for conversation in conversations:
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)


async def test_an_association_is_made_over_tls_and_tells_who_is_there(authority: Authority) -> None:
    issued = authority.issue("archive", "localhost")
    async with calling(authority, server_context(issued, authority)) as on:
        association = await on.call()
        secured = association.channel.secured
        assert secured is not None and secured.certificate is not None
        assert secured.version == "TLSv1.3"
        assert secured.certificate.subject == "CN=archive"
        association.channel.abort("enough")


async def test_a_certificate_of_another_host_is_refused_with_what_to_set(
    authority: Authority,
) -> None:
    issued = authority.issue("archive", "archive.example.org")
    context = server_context(issued, authority)
    async with calling(authority, context) as on:
        error = await on.fails()
        assert error.cause == "wrong name"
        assert "tls_name" in error.advice
    async with calling(authority, context, expected=Expected("archive.example.org")) as on:
        (await on.call()).channel.abort("enough")


async def test_a_peer_whose_certificate_is_revoked_is_not_called(
    authority: Authority, tmp_path: Path
) -> None:
    lost, good = (authority.issue("archive", "localhost") for _ in range(2))
    revoked = tmp_path / "crl.pem"
    revoked.write_bytes(authority.revoke(lost))
    async with calling(authority, server_context(lost, authority), revoked=revoked) as on:
        assert (await on.fails()).cause == "certificate revoked"
    async with calling(authority, server_context(good, authority), revoked=revoked) as on:
        (await on.call()).channel.abort("enough")


async def test_a_bound_peer_may_have_any_name_but_no_other_certificate(
    authority: Authority,
) -> None:
    issued = authority.issue("archive", "archive.example.org")
    context = server_context(issued, authority)
    for written in ("CN=archive", "DNS:archive.example.org", f"SHA256:{issued.fingerprint}"):
        async with calling(authority, context, expected=Expected(None, (binding(written),))) as on:
            (await on.call()).channel.abort("enough")
    async with calling(authority, context, expected=Expected(None, (binding("CN=other"),))) as on:
        error = await on.fails()
        assert error.cause == "wrong name"
        assert "CN=archive, DNS:archive.example.org" in str(error)
        assert "is bound to CN=other" in str(error)


async def test_a_pinned_certificate_needs_nobody_to_vouch_for_it(
    authority: Authority, tmp_path: Path
) -> None:
    issued = Authority(tmp_path / "stranger", "Stranger").issue("archive", days=-0.5)
    context = server_context(issued, authority)
    pin = binding(f"SHA256:{issued.fingerprint}")
    async with calling(authority, context, expected=Expected(None, (pin,))) as on:
        (await on.call()).channel.abort("enough")
    either = Expected(None, (pin, binding("CN=archive")))
    async with calling(authority, context, expected=either) as on:
        assert (await on.fails()).cause == "unknown CA"


async def test_a_peer_that_is_not_verified_is_known_by_the_whole_certificate_alone(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger", "Stranger")
    issued = stranger.issue("archive")
    context = server_context(issued, authority)
    pinned = Expected(None, (binding(f"SHA256:{issued.fingerprint}"),))
    async with calling(authority, context, expected=pinned, verify=False) as on:
        (await on.call()).channel.abort("enough")
    wrong = Expected(None, (binding(f"SHA256:{'0' * 64}"),))
    async with calling(authority, context, expected=wrong, verify=False) as on:
        assert (await on.fails()).cause == "wrong name"


@pytest.mark.parametrize(
    ("since", "days", "cause"),
    [(-20, -10, "certificate expired"), (5, 10, "certificate not yet valid")],
)
async def test_a_certificate_out_of_its_time_is_refused(
    authority: Authority, since: float, days: float, cause: str
) -> None:
    issued = authority.issue("archive", "localhost", since_days=since, days=days)
    async with calling(authority, server_context(issued, authority)) as on:
        assert (await on.fails()).cause == cause


async def test_a_certificate_of_an_unknown_ca_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    issued = Authority(tmp_path / "stranger", "Stranger").issue("archive", "localhost")
    async with calling(authority, server_context(issued, authority)) as on:
        error = await on.fails()
        assert error.cause == "unknown CA"
        assert "tls.ca" in error.advice


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_peer_that_wants_a_certificate_of_ours_is_told_by_its_alert(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    issued = authority.issue("archive", "localhost")
    context = server_context(issued, authority, strict=True)
    context.maximum_version = version
    async with calling(authority, None) as on:
        async with refusing(context) as on.port:
            error = await on.fails()
        assert error.cause == "refused by peer"
        assert "tls.certificate" in error.advice
    async with calling(authority, context, own=authority.issue("node")) as on:
        (await on.call()).channel.abort("enough")


async def test_a_peer_without_tls_is_told_from_one_that_is_not_there(authority: Authority) -> None:
    async def rude(peer: Conversation) -> None:
        peer.say(bytes.fromhex("07 00 00000004 0000 0200"))
        await peer.reader.read()

    async with calling(authority, None, script=rude) as on:
        assert (await on.fails()).cause == "not TLS"
        on.port = 1
        with pytest.raises(ConnectionFailed, match="refused") as caught:
            await on.call()
        assert not isinstance(caught.value, TLSFailed)


async def test_a_peer_that_hangs_or_closes_within_the_handshake_is_given_up(
    authority: Authority,
) -> None:
    async def mute(peer: Conversation) -> None:
        await peer.reader.read()

    async def leave(peer: Conversation) -> None:
        await peer.reader.read(1)

    async with calling(authority, None, script=mute, connect=0.2) as on:
        error = await on.fails()
        assert error.cause == "stalled"
        assert "timeouts.connect_seconds" in str(error)
    async with calling(authority, None, script=leave) as on:
        assert (await on.fails()).cause == "closed by peer"


async def test_without_contexts_nobody_is_called_over_tls(authority: Authority) -> None:
    async with calling(authority, None) as on:
        on.contexts = None
        assert (await on.fails()).cause == "not set up"


async def test_closing_the_requestor_ends_a_handshake(authority: Authority) -> None:
    arrived = asyncio.Event()

    async def mute(peer: Conversation) -> None:
        arrived.set()
        await peer.reader.read()

    async with calling(authority, None, script=mute) as on:
        attempt = asyncio.create_task(on.call())
        await arrived.wait()
        attempt.cancel()
        await asyncio.gather(attempt, return_exceptions=True)
        assert attempt.cancelled()
        async with asyncio.timeout(5):
            await on.requestor.close(1)
