"""Takes one figure at a time: seconds, round trips, resident memory."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

from bench.servers import Server, StartServer
from tests import peers
from tests.programs import find_program
from tests.wire import RELEASE_RP, VERIFICATION, Wire

MEBIBYTE = 1 << 20
ECHO_CONTEXT = ((1, VERIFICATION, ("1.2.840.10008.1.2",)),)


def seconds_to_send(
    server: Server, directories: Sequence[Path], objects: int, *, nodelay: bool = True
) -> float:
    """Send each directory with a storescu of its own, all at once; return the seconds.

    Raises PeerFailed when a storescu fails or the server does not hold ``objects`` afterwards.
    """
    os.sync()  # what an earlier run left to write must not slow this one
    program = find_program("storescu") or "storescu"
    host, port = server.address
    start = time.perf_counter()
    senders = [
        subprocess.Popen(
            [program, "+sd", "+r", "-aet", "BENCH", "-aec", "DICOMNODE", host, str(port), where],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=peers.peer_environment(nodelay=nodelay),
        )
        for where in directories
    ]
    codes = [sender.wait() for sender in senders]
    seconds = time.perf_counter() - start
    if any(codes):
        raise peers.PeerFailed(f"storescu ended with {codes}")
    if server.objects() != objects:
        raise peers.PeerFailed(f"{server.objects()} objects arrived, not {objects}")
    return seconds


def alternate(
    starts: Sequence[StartServer], run: Callable[[Server], float], runs: int
) -> list[float]:
    """Return the median of ``run`` for each server; they take turns, each time started anew."""
    taken: list[list[float]] = [[] for _ in starts]
    for _ in range(runs):
        for start, seconds in zip(starts, taken, strict=True):
            with start() as server:
                seconds.append(run(server))
    return [median(seconds) for seconds in taken]


def echo_99th_percentile(
    server: Server, directories: Sequence[Path], objects: int
) -> tuple[float, int]:
    """Return the 99th percentile of C-ECHO in seconds while ``directories`` are sent, and count."""
    times: list[float] = []
    with ThreadPoolExecutor(1) as pool, Wire(server.address) as wire:
        wire.associate(calling="ECHO", contexts=ECHO_CONTEXT)
        sending = pool.submit(seconds_to_send, server, directories, objects)
        while not sending.done():
            start = time.perf_counter()
            wire.echo()
            times.append(time.perf_counter() - start)
            time.sleep(0.002)  # a round trip at a time, not a load of its own
        sending.result()
        wire.release()
    return quantiles(times, n=100)[98], len(times)


def peak_resident_bytes(node: peers.NodeProcess, action: Callable[[], object]) -> int:
    """Return the highest resident memory of the node while ``action`` runs."""
    peak = node.resident_bytes()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(action)
        while not running.done():
            peak = max(peak, node.resident_bytes())
            time.sleep(0.01)
        running.result()
    return peak


def associate_and_release(address: peers.Address, times: int, *, threads: int = 4) -> None:
    """Open and close ``times`` associations, each with one C-ECHO."""
    left = threading.Semaphore(times)

    def work() -> None:
        while left.acquire(blocking=False):
            with Wire(address) as wire:
                wire.associate(calling="BENCH", contexts=ECHO_CONTEXT)
                if wire.echo() != 0 or wire.release() != RELEASE_RP:
                    raise peers.PeerFailed("an association was not served")

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
