"""What the hardware could do at most, and how near the node comes to it, in the same run.

``python -m bench.limits [PART…]`` measures the parts named, or all of them.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Flag, auto
from pathlib import Path
from statistics import median

from bench.command import Part, main
from bench.data import LARGE, SMALL, Corpus, part_directories, study_uid
from bench.report import Figure, Section
from bench.servers import Server, dicomnode
from tests import peers
from tests.wire import CT_IMAGE_STORAGE, Wire

_BUFFER_BYTES = 1 << 20
_LOG_BYTES = 12 * 1024

# SOP Instance UID and data set.
Object = tuple[str, bytes]


class Copying(Flag):
    """What the receiver of a plain copy does before it says that it has an object."""

    WRITE = 0
    HASH = auto()
    FLUSH = auto()


def objects(corpus: Corpus) -> list[list[Object]]:
    """Return the objects of a corpus in memory, by the directory that they lie in."""
    parts = []
    for part, directory in enumerate(part_directories(corpus)):
        study = study_uid(corpus, part)
        found = []
        for path in sorted(directory.iterdir()):
            content = path.read_bytes()
            # The length of the file meta information is the value of its first element.
            (length,) = struct.unpack_from("<I", content, 140)
            found.append((f"{study}.1.{int(path.stem) + 1}", content[144 + length :]))
        parts.append(found)
    return parts


def store(server: Server, groups: Sequence[Sequence[Object]]) -> float:
    """Store each group over an association of its own, all at once; return the seconds."""

    def send(group: Sequence[Object]) -> None:
        with Wire(server.address, timeout=60) as wire:
            wire.associate(calling="BENCH")
            for uid, content in group:
                if status := wire.store(CT_IMAGE_STORAGE, uid, content):
                    raise peers.PeerFailed(f"C-STORE was answered with {status:04X}H")
            wire.release()

    os.sync()  # what an earlier run left to write must not slow this one
    start = time.perf_counter()
    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(send, groups))
    return time.perf_counter() - start


def _node(durability: str, groups: Sequence[Sequence[Object]]) -> float:
    with dicomnode(durability)() as server:
        return store(server, groups)


def _copy(group: Sequence[Object], doing: Copying) -> float:
    """Send objects to a process that writes each to a file; return the seconds."""
    with (
        tempfile.TemporaryDirectory(prefix="dicomnode-bench-") as directory,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        receiver = multiprocessing.get_context("fork").Process(
            target=_receive, args=(listener, directory, len(group), doing)
        )
        receiver.start()
        with socket.create_connection(listener.getsockname()) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            os.sync()
            start = time.perf_counter()
            for _, content in group:
                connection.sendall(struct.pack(">Q", len(content)))
                connection.sendall(content)
                if connection.recv(1) != b"\0":
                    raise peers.PeerFailed("the receiver of the plain copy ended")
            seconds = time.perf_counter() - start
        receiver.join()
    return seconds


def _receive(listener: socket.socket, directory: str, number: int, doing: Copying) -> None:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    folder = os.open(directory, os.O_RDONLY)
    for each in range(number):
        (left,) = struct.unpack(">Q", connection.recv(8, socket.MSG_WAITALL))
        digest = hashlib.sha256()
        path = f"{directory}/{each}"
        file = os.open(f"{path}.part", os.O_WRONLY | os.O_CREAT)
        while left:
            size = connection.recv_into(buffer, min(left, _BUFFER_BYTES))
            if not size:
                return
            os.write(file, buffer[:size])
            if Copying.HASH in doing:
                digest.update(buffer[:size])
            left -= size
        if Copying.FLUSH in doing:
            os.fdatasync(file)
        os.close(file)
        os.rename(f"{path}.part", path)
        if Copying.FLUSH in doing:
            os.fsync(folder)
        connection.sendall(b"\0")


def _flushes(number: int) -> float:
    """Write 12 KB so many times over a log that is there, flushed each time; return the seconds."""
    block = os.urandom(_LOG_BYTES)
    with tempfile.TemporaryDirectory(prefix="dicomnode-bench-") as directory:
        file = os.open(Path(directory) / "log", os.O_WRONLY | os.O_CREAT)
        os.write(file, block * number)
        os.sync()
        start = time.perf_counter()
        for each in range(number):
            os.pwrite(file, block, each * len(block))
            os.fdatasync(file)
        seconds = time.perf_counter() - start
        os.close(file)
    return seconds


def _turns(runs: int, *ways: Callable[[], float]) -> list[float]:
    """Return the median seconds of each way; they take turns."""
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(runs):
        for way, seconds in zip(ways, taken, strict=True):
            seconds.append(way())
    return [median(seconds) for seconds in taken]


def large(runs: int) -> list[Figure]:
    """516 x 512 KB, against a plain copy from a socket to files and against SHA-256."""
    parts = objects(LARGE)
    every = [each for part in parts for each in part]
    size = sum(len(content) for _, content in every)

    def digests() -> float:
        start = time.perf_counter()
        for _, content in every:
            hashlib.sha256(content).digest()
        return time.perf_counter() - start

    full, flushed, relaxed, hashed, plain, hashes = _turns(
        runs,
        lambda: _node("full", [every]),
        lambda: _copy(every, Copying.FLUSH),
        lambda: _node("relaxed", [every]),
        lambda: _copy(every, Copying.HASH),
        lambda: _copy(every, Copying.WRITE),
        digests,
    )
    pairs = {
        "full; plain copy, flushed": (full, flushed, 1.5),
        "relaxed; plain copy with SHA-256": (relaxed, hashed, 1.5),
        "relaxed; plain copy": (relaxed, plain, None),
        "relaxed; SHA-256 of what is in memory": (relaxed, hashes, None),
    }
    return [
        Figure(
            f"516 x 512 KB, one association, {name}",
            *(f"{size / 1e6 / each:,.0f} MB/s" for each in (node, limit)),
            node / limit,
            bound,
        )
        for name, (node, limit, bound) in pairs.items()
    ]


def small(runs: int) -> list[Figure]:
    """1,000 x 12 KB, against a plain copy and against how often the disk flushes."""
    parts = objects(SMALL)
    every = [each for part in parts for each in part]
    one, eight, flushed, flushes = _turns(
        runs,
        lambda: _node("full", [every]),
        lambda: _node("full", parts),
        lambda: _copy(every, Copying.FLUSH),
        lambda: _flushes(len(every)),
    )
    pairs = {
        "one association, full; plain copy, flushed": (one, flushed, 1.5),
        "one association, full; flushes of a log, 12 KB each": (one, flushes, 1.5),
        "eight associations, full; flushes of a log, 12 KB each": (eight, flushes, 1.0),
    }
    return [
        Figure(
            f"1000 x 12 KB, {name}",
            *(f"{len(every) / each:,.0f}/s" for each in (node, limit)),
            node / limit,
            bound,
        )
        for name, (node, limit, bound) in pairs.items()
    ]


PARTS: dict[str, Part] = {"large": large, "small": small}

SECTION = Section(
    "limits",
    "The limit of the hardware",
    "Objects in memory, sent by a plain client that waits for each answer; the plain copy is a"
    " process that reads from a socket, writes each object to a file, gives it its name, and"
    " answers with one byte. The peer's column is the limit, the figure how many times as long"
    " dicomnode takes.",
    """- flushed: file and directory are flushed before the answer, as dicomnode's durability "full"
  promises; dicomnode makes small objects of all associations durable with one flush of its log.
- dicomnode takes two SHA-256 of each object in one pass: of the data set and of the file.""",
)

if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=3))
