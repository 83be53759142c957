"""A peer on the wire that speaks TLS, or tries to."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator

from tests.authority import Authority, Issued
from tests.wire import Wire


def trusting(authority: Authority | None, own: Issued | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts ``authority`` (None: anybody) and shows ``own``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(authority.ca)
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


class SecureWire(Wire):
    """A connection over TLS; its handshake is made with the connection."""

    def __init__(
        self,
        address: tuple[str, int],
        context: ssl.SSLContext,
        *,
        timeout: float = 10.0,
        receive_buffer_bytes: int = 0,
    ) -> None:
        super().__init__(address, timeout=timeout, receive_buffer_bytes=receive_buffer_bytes)
        plain = self.socket
        try:
            self.socket: ssl.SSLSocket = context.wrap_socket(plain, server_hostname="localhost")
        except BaseException:
            plain.close()
            raise

    def receive_until_closed(self) -> bytes:
        received = b""
        with contextlib.suppress(ssl.SSLError):
            received = super().receive_until_closed()
        return received


@contextlib.contextmanager
def secure_association(
    address: tuple[str, int], context: ssl.SSLContext, calling: str = "RAW"
) -> Iterator[SecureWire]:
    """Make an association over TLS."""
    with SecureWire(address, context) as peer:
        peer.associate(calling=calling)
        yield peer
