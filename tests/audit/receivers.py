"""Syslog receivers: one of our own for UDP, TCP and TLS, and certificates for it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests import peers
from tests.audit.reading import unframed
from tests.programs import find_program


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate of 127.0.0.1 and its key."""

    file: Path
    key: Path


def make_certificate(directory: Path, name: str) -> Certificate:
    made = Certificate(directory / f"{name}.pem", directory / f"{name}.key")
    program = find_program("openssl")
    assert program is not None
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(made.key), "-out", str(made.file))
    command = [program, "req", "-x509", *kind, *subject, *files]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
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
