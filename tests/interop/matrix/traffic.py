"""Relays all connections of the matrix, records them, and lets Wireshark's dissector judge them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dicomnode.observe import pcapng
from tests.peers import Address, run_tool

ACCEPTOR = str(pcapng.DICOM_PORT)
"""The port of the acceptor in captures."""
ERROR = 0x80_0000
"""The severity of an error in Wireshark's expert information."""
CARRIED_ON = "Early termination of tag"
"""What the dissector says where it took the bytes of JPEG or RLE for elements, and looks for the
rest of the last one in the command that follows; it does so whoever sends them."""


@dataclass(slots=True)
class Dissected:
    """How many packets and PDUs were looked at, and what is wrong with some.

    ``of_peers`` are the faults of what a peer, and not the node, sent.

    ``carried_on`` are those that Wireshark itself gets wrong (CARRIED_ON).
    """

    packets: int = 0
    pdus: int = 0
    faults: list[str] = field(default_factory=list)
    of_peers: list[str] = field(default_factory=list)
    carried_on: int = 0

    def add(self, other: Dissected) -> None:
        """Count another capture's too."""
        self.packets += other.packets
        self.pdus += other.pdus
        self.faults += other.faults
        self.of_peers += other.of_peers
        self.carried_on += other.carried_on


class Tape:
    """A capture file that several connections are written to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("wb")
        self._file.write(pcapng.header("interop matrix", path.stem))

    def write(self, blocks: Iterator[bytes]) -> None:
        """Write what a conversation gives; nothing once the tape is closed."""
        with self._lock:
            if not self._file.closed:
                self._file.writelines(blocks)

    def close(self) -> None:
        """Complete the file."""
        with self._lock:
            self._file.close()


class Relay:
    """Hands connections on to ``target``, which may change, and records them."""

    def __init__(self, traffic: Traffic, target: Address | None) -> None:
        self.target = target
        self._traffic = traffic
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: Address = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, source = self._listener.accept()
                threading.Thread(target=self._serve, args=(near, source), daemon=True).start()

    def _serve(self, near: socket.socket, source: Address) -> None:
        with near:
            if self.target is None:
                return
            try:
                far = socket.create_connection(self.target, timeout=20)
            except OSError:
                return
            far.settimeout(None)
            with far, self._traffic.passing(self.target, source) as recording:
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(
                    target=_copy, args=(far, near, recording, True), daemon=True
                )
                back.start()
                _copy(near, far, recording, False)
                back.join()

    def close(self) -> None:
        """Take no more connections."""
        # Wakes the thread that accepts, which close() alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Recording:
    """One connection on a tape."""

    def __init__(self, tape: Tape, acceptor: Address, requestor: Address) -> None:
        self._tape = tape
        self._lock = threading.Lock()
        self._packets = pcapng.Conversation(acceptor, requestor, requested=False)
        tape.write(self._packets.opened(time.time(), ""))

    def data(self, is_acceptor: bool, part: bytes) -> None:
        """Record what one side said."""
        with self._lock:
            self._tape.write(self._packets.data(time.time(), is_acceptor, part))

    def close(self) -> None:
        """Record the end."""
        self._tape.write(self._packets.closed(time.time()))


def _copy(source: socket.socket, sink: socket.socket, recording: Recording, back: bool) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            recording.data(back, part)
            sink.sendall(part)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Traffic:
    """All relays of a run; what passes is written to the tape that is in, one a cell.

    ``extra`` counts what was recorded in other ways.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.extra = Dissected()
        self._relays: list[Relay] = []
        self._tape: Tape | None = None
        self._under_way = 0
        self._changed = threading.Condition()

    def relay(self, target: Address | None = None) -> Relay:
        """Return a relay; one without a target closes what comes."""
        self._relays.append(Relay(self, target))
        return self._relays[-1]

    @contextlib.contextmanager
    def passing(self, acceptor: Address, requestor: Address) -> Iterator[Recording]:
        """Record a connection on the tape that is in."""
        with self._changed:
            tape = self._tape or Tape(Path("/dev/null"))
            self._under_way += 1
        recording = Recording(tape, acceptor, requestor)
        try:
            yield recording
        finally:
            recording.close()
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def recorded(self, name: str) -> Iterator[Path]:
        """Record what passes until the block ends and its connections have."""
        tape = self._tape = Tape(self._directory / f"{name}.pcapng")
        try:
            yield tape.path
        finally:
            with self._changed:
                self._changed.wait_for(lambda: not self._under_way, timeout=10)
            self._tape = None
            tape.close()

    def close(self) -> None:
        """Take no more connections."""
        for relay in self._relays:
            relay.close()


def dissect(
    capture: Path,
    *,
    has_fragments: bool = False,
    is_big: bool = False,
    peer_is: Literal["requestor", "acceptor"] | None = None,
) -> Dissected:
    """Have tshark read a capture; the faults are malformed packets and errors.

    ``has_fragments``: compressed pixels are in it. ``is_big``: the fragments of a message are not
    put together, which takes tshark minutes for 300 MB. ``peer_is`` says which side of its
    associations the peer is; without it all faults are taken for the node's.
    """
    fields = (
        *("frame.number", "tcp.srcport", "_ws.malformed", "_ws.expert.severity"),
        *("_ws.expert.message", "dicom.pdu.type"),
    )
    wanted = [argument for each in fields for argument in ("-e", each)]
    whole = ("-o", f"dicom.pdv_reassemble:{str(not is_big).upper()}")
    done = run_tool(
        *(
            "tshark",
            "-r",
            capture,
            *whole,
            "-d",
            "tcp.port==104,dicom",
            "-Q",
            "-T",
            "fields",
            *wanted,
        ),
        timeout=300,
    )
    if done.returncode:
        raise AssertionError(f"tshark: {done.output[-300:]}")
    found = Dissected()
    for line in done.output.splitlines():
        values = line.split("\t")
        if len(values) != len(fields):
            continue
        number, sender, malformed, severities, messages, types = values
        found.packets += 1
        found.pdus += len(types.split(",")) if types else 0
        worst = max((int(each, 0) for each in severities.split(",") if each), default=0)
        if has_fragments and CARRIED_ON in messages:
            found.carried_on += 1
        elif malformed or worst >= ERROR:
            fault = f"{capture.stem}, packet {number}: {messages or malformed}"
            is_of_peer = peer_is is not None and (sender == ACCEPTOR) is (peer_is == "acceptor")
            (found.of_peers if is_of_peer else found.faults).append(fault)
    return found
