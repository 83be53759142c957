"""A double of systemd's notify protocol: the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.peers import PATIENCE

Fields = dict[str, str]


class Manager:
    """Receives what a service says; each message is a datagram of ``KEY=value`` lines."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def receive(self, seconds: float = 30.0 * PATIENCE) -> Fields:
        """Return the next message; raises TimeoutError when none comes."""
        self._socket.settimeout(seconds)
        lines = self._socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, accepts: Callable[[Fields], bool]) -> Fields:
        """Return the first message that is accepted, and pass over those before it."""
        while not accepts(message := self.receive()):
            pass
        return message

    def wait_for_field(self, key: str) -> Fields:
        """Return the first message with ``key``."""
        return self.wait_for(lambda message: key in message)

    def drain(self) -> list[Fields]:
        """Return what has come already."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.receive(0.0))
        return found

    def close(self) -> None:
        """Stop to listen."""
        self._socket.close()


@contextlib.contextmanager
def manager(directory: Path) -> Iterator[Manager]:
    """Listen in ``directory`` until the block ends."""
    listening = Manager(directory / "notify")
    try:
        yield listening
    finally:
        listening.close()
