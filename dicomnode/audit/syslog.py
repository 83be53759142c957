"""Syslog messages (RFC 5424), and receivers that take them by UDP, TCP or TLS."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import select
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicomnode.audit.messages import timestamp

# Facility 10 (security/authorization) and severity 5 (notice); PS3.15 §A.6, §A.7.
_PRIORITY: Final = 10 * 8 + 5
_MESSAGE_ID: Final = "DICOM+RFC3881"
_APP_NAME: Final = "dicomnode"
_BOM: Final = b"\xef\xbb\xbf"
# RFC 5424 §6: what a HOSTNAME may have.
_MAX_HOSTNAME: Final = 255

_CONNECT_SECONDS: Final = 10.0
# A receiver that takes nothing for so long is left.
_WRITE_SECONDS: Final = 30.0
# What a receiver's kernel says of a port that nobody listens at comes within this.
_ICMP_SECONDS: Final = 0.02
_READ_BYTES: Final = 4096


def syslog_message(xml: bytes, at: float, hostname: str, process_id: int) -> bytes:
    """Return one SYSLOG-MSG (RFC 5424 §6) that says ``xml``, without framing."""
    name = "".join(c for c in hostname if "!" <= c <= "~")[:_MAX_HOSTNAME] or "-"
    header = (
        f"<{_PRIORITY}>1 {timestamp(at)} {name} {_APP_NAME} {process_id} {_MESSAGE_ID} - ".encode()
    )
    return header + _BOM + xml


class UdpReceiver:
    """One datagram a message (RFC 5426). Nobody says whether they arrive."""

    # A burst would overrun the receiver's buffer.
    batch: Final = 20

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._socket: socket.socket | None = None

    def deliver(self, messages: Sequence[bytes]) -> int:
        """Send; return how many are too long for it. Raises OSError when nobody listens."""
        try:
            return self._send(self._connected(), messages)
        except OSError:
            self.close()
            raise

    def _send(self, connected: socket.socket, messages: Sequence[bytes]) -> int:
        too_long = 0
        for message in messages:
            try:
                connected.send(message)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                too_long += 1
        if select.select([connected], [], [], _ICMP_SECONDS)[0]:
            connected.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        return too_long

    def _connected(self) -> socket.socket:
        if self._socket is None:
            host, port = self._address
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_DGRAM
            )[0]
            made = socket.socket(family, kind, protocol)
            made.settimeout(_WRITE_SECONDS)
            self._socket = made
            made.connect(address)
        return self._socket

    def close(self) -> None:
        """Leave the receiver."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom to trust (None: whom the system trusts), and with what to say who we are."""

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the terms of a connection (RFC 5425 §4.2, §5.2). Raises OSError."""
        with _about("audit.tls_ca_file", self.ca_file):
            context = ssl.create_default_context(cafile=self.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file is not None:
            with _about("audit.tls_certificate_file, audit.tls_key_file", self.certificate_file):
                # Without a password it would be asked for at the terminal, and waited for.
                context.load_cert_chain(self.certificate_file, self.key_file, password="")
        return context


@contextlib.contextmanager
def _about(keys: str, file: Path | None) -> Iterator[None]:
    """Have an error of ssl say which file it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{file} ({keys}): {error}") from error


class StreamReceiver:
    """A TCP or TLS connection with octet counting (RFC 6587 §3.4.1, RFC 5425 §4.3).

    Neither has a receipt. What is sent counts as delivered when the receiver's kernel has
    acknowledged it and the connection still stands.
    """

    batch: Final = 200

    def __init__(self, host: str, port: int, tls: Tls | None = None) -> None:
        self._address = host, port
        self._tls = tls
        self._socket: socket.socket | None = None

    def deliver(self, messages: Sequence[bytes]) -> int:
        """Send; return 0. Raises OSError: what became of ``messages`` is not known then."""
        frames = b"".join(b"%d %b" % (len(message), message) for message in messages)
        try:
            # A receiver that restarted meanwhile has closed it; it would swallow what is sent.
            if self._socket is not None and _has_ended(self._socket):
                self.close()
            connected = self._connected()
            connected.sendall(frames)
            _wait_for_acknowledgement(connected)
            if not _stands(connected):
                raise ConnectionResetError(errno.ECONNRESET, "the receiver closed the connection")
        except OSError:
            self.close()
            raise
        return 0

    def _connected(self) -> socket.socket:
        if self._socket is None:
            made = socket.create_connection(self._address, _CONNECT_SECONDS)
            self._socket = made
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._tls is not None:
                context = self._tls.context()
                self._socket = context.wrap_socket(made, server_hostname=self._address[0])
            self._socket.settimeout(_WRITE_SECONDS)
        return self._socket

    def close(self) -> None:
        """Leave the receiver."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None


def _has_ended(connected: socket.socket) -> bool:
    try:
        return not _stands(connected)
    except OSError:
        return True


def _stands(connected: socket.socket) -> bool:
    """Tell whether the other side has not closed; raises OSError when it says why it did.

    What else it sends is passed over.
    """
    connected.settimeout(0)
    try:
        return bool(connected.recv(_READ_BYTES))
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    finally:
        connected.settimeout(_WRITE_SECONDS)


def _wait_for_acknowledgement(connected: socket.socket) -> None:
    """Wait until the other side's kernel has all that was sent; raises OSError when it is slow."""
    deadline, pause = time.monotonic() + _WRITE_SECONDS, 0.001
    while struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, b"\0" * 4))[0]:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "the receiver acknowledges nothing")
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
