"""Calls a peer over TLS, and looks whether it is the one that was meant."""

from __future__ import annotations

import asyncio

from dicomnode.certificates import Expected, Form, Secured
from dicomnode.dimse.channel import Proposal
from dicomnode.net.secure import SecureConnection
from dicomnode.tls.contexts import ClientContexts
from dicomnode.tls.faults import Cause, Side, TLSFault, stalled


async def secure_connection(
    proposal: Proposal,
    contexts: ClientContexts | None,
    user: asyncio.BufferedProtocol,
    seconds: float,
) -> None:
    """Connect ``user`` to whom ``proposal`` names; TCP and TLS have ``seconds`` each.

    Raises TLSFault, TimeoutError without a TCP connection, OSError and UnicodeError.
    """
    expected = proposal.tls or Expected()
    if contexts is None:
        raise TLSFault(Cause.NOT_SET_UP, "TLS is not set up here", "See [tls] of the settings.")
    context = contexts.bound if expected.bindings else contexts.named
    if {each.form for each in expected.bindings} == {Form.FINGERPRINT}:
        context = contexts.pinned
    name = expected.name or proposal.host
    connection = SecureConnection(context, Side.CLIENT, server_hostname=name)
    async with asyncio.timeout(seconds):
        await asyncio.get_running_loop().create_connection(
            lambda: connection, proposal.host, proposal.port
        )
    try:
        async with asyncio.timeout(seconds):
            secured = await connection.handshake()
        assert secured is not None
        _check(secured, expected, is_verified=contexts.is_verified)
    except TimeoutError:
        connection.abort()
        raise stalled(seconds, "timeouts.connect_seconds") from None
    except BaseException:
        connection.abort()
        raise
    connection.start(user, secured)


def _check(secured: Secured, expected: Expected, *, is_verified: bool) -> None:
    """Raise TLSFault unless the peer showed one of the certificates that it is bound to."""
    bindings = expected.bindings
    if not is_verified:
        # Names in a certificate that nobody has signed prove nothing; the whole of it does.
        bindings = tuple(each for each in bindings if each.form is Form.FINGERPRINT)
    shown = secured.certificate
    if not bindings or (shown is not None and shown.is_one_of(bindings)):
        return
    allowed = ", ".join(map(str, expected.bindings))
    has = shown.words if shown is not None else "no certificate"
    raise TLSFault(
        Cause.WRONG_NAME,
        f"peer shows {has}, and is bound to {allowed}",
        "If this is the right peer, put one of these into certificate of its entry in ae.toml.",
    )
