"""Syslog receivers: one of our own for UDP, TCP and TLS, and certificates for it."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import peers
from tests.audit.reading import unframed


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate of 127.0.0.1 and its key."""

    file: Path
    key: Path


def make_certificate(directory: Path, name: str) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    alternatives = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(directory / f"{name}.pem", directory / f"{name}.key")
    made.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


class Receiver:
    """Takes syslog messages; ``stop`` and ``start`` as often as a test wants, on the same port."""

    def __init__(self, transport: str, context: ssl.SSLContext | None = None) -> None:
        self.transport = transport
        self._context = context
        self._changed = threading.Condition()
        self._messages: list[bytes] = []
        self._closing: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"{self.transport}://127.0.0.1:{self.port}"

    def start(self) -> None:
        kind = socket.SOCK_DGRAM if self.transport == "udp" else socket.SOCK_STREAM
        listening = socket.socket(socket.AF_INET, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self.port = listening.getsockname()[1]
        self._closing = [listening]
        if self.transport == "udp":
            self._run(self._take_datagrams, listening)
        else:
            listening.listen()
            self._run(self._accept, listening)

    def stop(self) -> None:
        for each in self._closing:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)
        self._threads = []

    def wait_for(self, count: int) -> list[bytes]:
        """Wait until so many messages are there; return them."""
        with self._changed:
            arrived = self._changed.wait_for(
                lambda: len(self._messages) >= count, 10 * peers.PATIENCE
            )
            assert arrived, f"{len(self._messages)} of {count} messages came"
            return list(self._messages)

    def _run(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _take(self, messages: list[bytes]) -> None:
        with self._changed:
            self._messages += messages
            self._changed.notify_all()

    def _take_datagrams(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while message := listening.recv(65536):
                self._take([message])

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                self._closing.append(connection)
                self._run(self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        stream = b""
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
                self._closing.append(connection)
            while data := connection.recv(65536):
                stream += data
                messages = unframed(stream)
                for message in messages:
                    stream = stream[len(b"%d " % len(message)) + len(message) :]
                self._take(messages)
        connection.close()


@contextlib.contextmanager
def receiver(transport: str, context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    made = Receiver(transport, context)
    try:
        yield made
    finally:
        made.stop()


def server_context(own: Certificate, trusted: Certificate | None = None) -> ssl.SSLContext:
    """Return the terms of a receiver; with ``trusted`` it wants a certificate of its client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.file, own.key)
    if trusted is not None:
        context.load_verify_locations(trusted.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
