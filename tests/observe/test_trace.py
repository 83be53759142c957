"""Recordings: what they take, their bounds, and what they say of what they leave out."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dicomnode.errors import TraceRefused
from dicomnode.net.taps import Ends
from dicomnode.observe.logs import Log
from dicomnode.observe.trace import MOST_TRACES, Trace, Tracing, Wanted
from dicomnode.settings import LogSettings
from tests.captures import Capture

WANTED = Wanted(ae_title="CT_1", count=1, seconds=60, max_bytes=10_000_000, asked_by="me")
ENDS = Ends(ours=("10.0.0.1", 11112), theirs=("10.0.0.7", 4711), requested=False, encrypted=False)


class Fixture:
    """What records, what it logged, and whom it told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stream = io.StringIO()
        self._log = Log(LogSettings(), stream=self._stream)
        self.audited: list[tuple[int, bool]] = []
        self.tracing = Tracing(
            directory,
            self._log.logger,
            audited=lambda trace: self.audited.append((trace.number, trace.is_over)),
        )

    def associate(self, title: str = "CT_1", ends: Ends = ENDS, *, request: bytes = b"RQ") -> Any:
        """Connect, and let the peer say who it is; return what listens, if anything does."""
        tap = self.tracing.connected(ends)
        if tap is None:
            return None
        tap.received(memoryview(request))
        return tap if tap.begins(title) else None

    def lines(self) -> list[str]:
        self._log.start()
        self._log.stop()
        return [row.split(" ", 1)[1] for row in self._stream.getvalue().splitlines()]


@pytest.fixture
async def on(tmp_path: Path) -> AsyncIterator[Fixture]:
    fixture = Fixture(tmp_path)
    yield fixture
    fixture.tracing.close()


async def content(trace: Trace) -> Capture:
    async with asyncio.timeout(20):
        return Capture(b"".join([part async for part in trace.content()]))


async def test_both_directions_of_an_association_are_recorded(on: Fixture) -> None:
    trace = await on.tracing.start(WANTED)
    tap = on.associate()
    tap.sent([b"A", memoryview(b"C")])
    tap.received(memoryview(b"DATA"))
    tap.ended(memoryview(b"rest"))
    capture = await content(trace)
    assert capture.streams() == [(b"RQDATArest", b"AC")]
    assert capture.packets[0].comment == (
        "Association requested by CT_1 at 10.0.0.7:4711, this node at 10.0.0.1:11112, not over TLS"
    )
    assert capture.dropped == 0
    assert "patients' data" in capture.comment


async def test_nothing_listens_while_nothing_is_recorded(on: Fixture) -> None:
    assert on.tracing.connected(ENDS) is None
    trace = await on.tracing.start(WANTED)
    trace.finish("enough")
    assert on.tracing.connected(ENDS) is None
    await content(trace)


async def test_only_what_is_wanted_is_recorded(on: Fixture) -> None:
    trace = await on.tracing.start(replace(WANTED, count=2, network=ip_network("10.0.0.0/24")))
    assert on.associate("MR_1") is None
    assert on.associate(ends=replace(ENDS, theirs=("192.0.2.1", 1))) is None
    assert on.associate("ct_1 ") is not None
    assert on.associate(ends=replace(ENDS, theirs=("::ffff:10.0.0.9", 1))) is not None
    assert on.associate() is None, "both have been had"
    trace.finish("enough")
    assert len((await content(trace)).streams()) == 2


async def test_an_association_of_ours_is_recorded_with_its_tls_told(on: Fixture) -> None:
    trace = await on.tracing.start(WANTED)
    tap = on.associate(ends=replace(ENDS, requested=True, encrypted=True), request=b"")
    tap.sent([b"RQ"])
    tap.received(memoryview(b"AC"))
    tap.ended(memoryview(b""))
    capture = await content(trace)
    assert capture.streams() == [(b"RQ", b"AC")]
    assert "requested by this node of CT_1" in capture.packets[0].comment
    assert "over TLS, decrypted" in capture.packets[0].comment


async def test_a_recording_ends_with_the_last_association_that_was_asked_for(on: Fixture) -> None:
    trace = await on.tracing.start(replace(WANTED, count=2))
    taps = [on.associate(), on.associate(ends=replace(ENDS, theirs=("10.0.0.7", 4712)))]
    taps[1].ended(memoryview(b""))
    assert not trace.is_over
    taps[0].ended(memoryview(b""))
    assert trace.is_over
    assert "all associations" in (await content(trace)).closing


async def test_a_recording_ends_after_its_time(on: Fixture) -> None:
    trace = await on.tracing.start(replace(WANTED, seconds=0.01))
    assert (await content(trace)).closing == "The recording ended: its time is over."


async def test_a_recording_is_never_longer_than_it_may_be(on: Fixture) -> None:
    trace = await on.tracing.start(replace(WANTED, max_bytes=100_000))
    tap = on.associate()
    for _ in range(10):
        tap.received(memoryview(bytes(20_000)))
    capture = await content(trace)
    assert trace.written_bytes <= 100_000
    assert "all the bytes" in capture.closing
    assert len(capture.streams()[0][0]) == 2 + 4 * 20_000
    tap.received(memoryview(bytes(20_000)))
    tap.ended(memoryview(b""))


async def test_what_comes_too_fast_ends_its_association_in_the_file_and_is_counted(
    tmp_path: Path,
) -> None:
    may_write = threading.Event()

    class Slow(io.FileIO):
        def write(self, data: Any) -> int:
            may_write.wait(20)
            return super().write(data)

    over = asyncio.Event()
    wanted = replace(WANTED, count=2)
    with Slow(tmp_path / "slow", "w+") as file:
        trace = Trace(1, wanted, file, lambda _: over.set(), waiting_bytes=3000)
        fixture = Fixture(tmp_path)
        fixture.tracing._running.append(trace)
        first, second = fixture.associate(), fixture.associate()
        first.received(memoryview(bytes(900)))
        first.received(memoryview(bytes(200)))
        first.received(memoryview(bytes(1)))
        assert trace.dropped_bytes == 201
        second.received(memoryview(b"fits"))
        for tap in (first, second):
            tap.ended(memoryview(b""))
        may_write.set()
        await over.wait()
        fixture.tracing._running.clear()
        capture = await content(trace)
    assert capture.dropped == 201
    assert "201B were not recorded" in capture.closing
    remarks = [packet.comment for packet in capture.packets if "faster" in packet.comment]
    assert len(remarks) == 1
    assert sum(len(packet.data) for packet in capture.packets) == 2 + 900 + 2 + 4


async def test_a_disk_that_fails_ends_the_recording_and_nothing_else(tmp_path: Path) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    over = asyncio.Event()
    trace = Trace(1, WANTED, Full(tmp_path / "full", "w+"), lambda _: over.set())
    async with asyncio.timeout(20):
        await over.wait()
        assert [part async for part in trace.content()] == []
    assert "No space left" in trace.why


async def test_whoever_stops_listening_ends_the_recording(on: Fixture) -> None:
    trace = await on.tracing.start(WANTED)
    parts = trace.content()
    assert await anext(parts)
    await parts.aclose()
    assert trace.is_over


async def test_a_recording_is_announced_and_audited_at_both_ends(on: Fixture) -> None:
    trace = await on.tracing.start(WANTED)
    trace.finish("enough")
    await content(trace)
    first, last = on.lines()
    assert first.startswith("warn  trace 1 begins: it records the next association with CT_1")
    assert "patients' data" in first
    assert first.endswith("asked_by=me")
    assert last.startswith("warn  trace 1 of CT_1 is over: enough; 0 associations recorded")
    assert on.audited == [(1, False), (1, True)]


async def test_no_more_recordings_are_made_at_once_than_may_be(on: Fixture) -> None:
    traces = [await on.tracing.start(WANTED) for _ in range(MOST_TRACES)]
    with pytest.raises(TraceRefused, match="already"):
        await on.tracing.start(WANTED)
    on.tracing.close()
    assert {trace.why for trace in traces} == {"the node stops"}
    with pytest.raises(TraceRefused, match="stops"):
        await on.tracing.start(WANTED)


async def test_what_other_recordings_may_still_take_is_no_room(
    on: Fixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = SimpleNamespace(free=2 * WANTED.max_bytes - 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda directory: room)
    first = await on.tracing.start(WANTED)
    with pytest.raises(TraceRefused, match="the recordings may take 19MB"):
        await on.tracing.start(WANTED)
    first.finish("enough")
    await on.tracing.start(WANTED)


async def test_a_disk_without_room_is_not_filled(on: Fixture) -> None:
    with pytest.raises(TraceRefused, match=r"storage\.min_free_bytes"):
        await on.tracing.start(replace(WANTED, max_bytes=2**62))


async def test_no_file_with_a_name_is_left(on: Fixture) -> None:
    trace = await on.tracing.start(WANTED)
    on.associate()
    assert os.listdir(on.directory) == []
    trace.finish("enough")


async def test_figures_tell_how_far_it_is_and_what_became_of_it(on: Fixture) -> None:
    trace = await on.tracing.start(WANTED)
    on.associate().ended(memoryview(b""))
    await content(trace)
    figures = on.tracing.figures(trace.number)
    assert figures is not None
    assert (figures["associations"], figures["over"], figures["dropped_bytes"]) == (1, True, 0)
    assert on.tracing.figures(99) is None
