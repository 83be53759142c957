"""What systemd is told, datagram by datagram (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomnode.errors import CatalogError
from dicomnode.observe.logs import Log
from dicomnode.settings import LogSettings
from dicomnode.supervision import Supervisor, feed_watchdog
from tests.notifying import Manager, manager


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Manager]:
    with manager(tmp_path) as made:
        yield made


def supervisor(listening: Manager, watchdog: float | None = None) -> Supervisor:
    return Supervisor(listening.address, watchdog)


def test_each_state_is_one_datagram_of_assignments(listening: Manager) -> None:
    told = supervisor(listening)
    told.ready("DICOM on 127.0.0.1:11112")
    assert listening.receive() == {"READY": "1", "STATUS": "DICOM on 127.0.0.1:11112"}
    told.alive()
    assert listening.receive() == {"WATCHDOG": "1"}
    told.stopping("draining", 30)
    stopping = listening.receive()
    assert stopping["STOPPING"] == "1"
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 30_000_000


def test_reloading_comes_with_the_monotonic_time_in_microseconds(listening: Manager) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    supervisor(listening).reloading()
    message = listening.receive()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= after


def test_a_status_cannot_smuggle_a_second_field_in(listening: Manager) -> None:
    supervisor(listening).ready("one\nWATCHDOG=trigger")
    assert listening.receive() == {"READY": "1", "STATUS": "one WATCHDOG=trigger"}


def test_an_abstract_socket_is_named_with_an_at_sign() -> None:
    name = f"dicomnode-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(10)
        Supervisor("@" + name).alive()
        assert listening.recv(100) == b"WATCHDOG=1"


def test_what_systemd_set_is_taken_out_of_the_environment() -> None:
    ours = str(os.getpid())
    environment = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": ours, "A": ""}
    made = Supervisor.from_environment(environment)
    assert made.watchdog_seconds == 3.0
    assert made.is_there
    assert environment == {"A": ""}


@pytest.mark.parametrize(
    "environment",
    [
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "3000000"},
    ],
    ids=["another process", "no number", "zero", "nobody listens"],
)
def test_there_is_no_watchdog(environment: dict[str, str]) -> None:
    assert Supervisor.from_environment(environment).watchdog_seconds is None


def test_without_a_manager_nothing_is_said_and_nothing_fails(tmp_path: Path) -> None:
    Supervisor().ready("")
    Supervisor(str(tmp_path / "gone")).alive()


async def test_the_watchdog_is_fed_while_the_index_answers_even_with_an_error(
    listening: Manager,
) -> None:
    def touch() -> None:
        raise CatalogError("the disk is full")

    log = Log(LogSettings())
    feeding = asyncio.create_task(feed_watchdog(supervisor(listening, 0.3), touch, log.logger))
    for _ in range(3):
        assert await asyncio.to_thread(listening.receive) == {"WATCHDOG": "1"}
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)


async def test_the_watchdog_is_not_fed_while_the_index_does_not_answer(
    listening: Manager,
) -> None:
    hangs, asked = threading.Event(), threading.Event()

    def touch() -> None:
        asked.set()
        assert hangs.wait(60)

    log = Log(LogSettings())
    feeding = asyncio.create_task(feed_watchdog(supervisor(listening, 0.3), touch, log.logger))
    await asyncio.to_thread(asked.wait)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(listening.receive, 1.0)
    hangs.set()
    assert await asyncio.to_thread(listening.receive) == {"WATCHDOG": "1"}
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
