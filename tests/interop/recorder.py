"""Records an association on its way through, and lets Wireshark's dissector judge it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.peers import Address, run_tool


class Recorder:
    """Relays one connection to ``target`` and keeps what went either way, in order."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self._lock = threading.Lock()
        self.address: Address = self._listener.getsockname()
        self.passed: list[tuple[str, bytes]] = []
        self._thread = threading.Thread(target=self._relay, daemon=True)
        self._thread.start()

    def _relay(self) -> None:
        near, _ = self._listener.accept()
        with near, socket.create_connection(self._target, timeout=20) as far:
            back = threading.Thread(target=self._copy, args=(far, near, "O"), daemon=True)
            back.start()
            self._copy(near, far, "I")
            back.join(20)

    def _copy(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(16384):
                with self._lock:
                    self.passed.append((direction, part))
                sink.sendall(part)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Wait for the association to end."""
        self._thread.join(20)
        self._listener.close()

    def write_capture(self, directory: Path) -> Path:
        """Write what passed as a capture file; needs text2pcap."""
        text = directory / "association.txt"
        with text.open("w") as lines:
            for direction, part in self.passed:
                lines.write(f"{direction}\n")
                for at in range(0, len(part), 16):
                    lines.write(f"{at:06x} {part[at : at + 16].hex(' ')}\n")
                lines.write("\n")
        capture = directory / "association.pcap"
        done = run_tool("text2pcap", "-q", "-D", "-T", "104,40000", text, capture)
        assert done.returncode == 0, done.output
        return capture


@contextlib.contextmanager
def recorded(target: Address) -> Iterator[Recorder]:
    """Record one association: connect to ``Recorder.address`` instead of to ``target``."""
    recorder = Recorder(target)
    try:
        yield recorder
    finally:
        recorder.close()


def dissect(capture: Path, display_filter: str, *fields: str) -> list[str]:
    """Return the chosen fields of the packets that match, one line a packet."""
    wanted = [argument for field in fields for argument in ("-e", field)]
    done = run_tool(
        *("tshark", "-r", capture, "-d", "tcp.port==104,dicom", "-Q"),
        *("-Y", display_filter, "-T", "fields", *wanted),
    )
    assert done.returncode == 0, done.output
    return [line for line in done.output.splitlines() if line and "as user" not in line]
