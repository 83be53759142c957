"""Listening to a connection: what a tap is given, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dicomnode.net.taps import Ends
from tests import wire
from tests.net.shell import ABORT_PDU, ECHO_PDU, RELEASE_PDU, Bench


class Listener:
    """A tap, and what decides on it."""

    def __init__(self, wanted: str = "STORESCU") -> None:
        self.wanted = wanted
        self.ends: list[Ends] = []
        self.heard = bytearray()
        self.said = bytearray()
        self.names: list[str] = []
        self.unread: bytes | None = None

    is_listening = True

    def connected(self, ends: Ends) -> Listener:
        self.ends.append(ends)
        return self

    def begins(self, peer_ae_title: str) -> bool:
        self.names.append(peer_ae_title)
        return peer_ae_title == self.wanted

    def received(self, data: memoryview) -> None:
        self.heard += data

    def sent(self, buffers: Sequence[bytes | memoryview]) -> None:
        self.said += b"".join(buffers)

    def ended(self, unread: memoryview) -> None:
        self.unread = bytes(unread)


def bench_with(listener: Listener) -> Bench:
    bench = Bench(is_made=False)
    bench.connection._taps = listener
    bench.connection.connection_made(bench.transport)
    return bench


@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_a_tap_is_given_every_byte_of_both_sides(step: int) -> None:
    request = wire.associate_rq()
    listener = Listener(wire_title(request))
    bench = bench_with(listener)
    said = request + ECHO_PDU + RELEASE_PDU
    # The peer has to wait for the answer to its request.
    for part in (request, ECHO_PDU + RELEASE_PDU):
        for at in range(0, len(part), step):
            bench.feed(part[at : at + step])
    bench.lose()
    assert listener.heard == said
    assert listener.said == bench.transport.written
    assert listener.unread == b""
    assert listener.names == [wire_title(request)]


async def test_what_was_cut_off_is_given_at_the_end() -> None:
    request = wire.associate_rq()
    listener = Listener(wire_title(request))
    bench = bench_with(listener)
    bench.feed(request)
    bench.feed(ECHO_PDU[:20])
    bench.lose()
    assert listener.unread == ECHO_PDU[:20]


async def test_a_tap_that_does_not_want_the_peer_is_given_nothing_more() -> None:
    listener = Listener("SOMEBODY_ELSE")
    bench = bench_with(listener)
    request = wire.associate_rq()
    bench.feed(request)
    bench.feed(ECHO_PDU + ABORT_PDU)
    bench.lose()
    assert (listener.heard, listener.said, listener.unread) == (request, b"", None)


async def test_a_tap_hears_where_the_ends_are() -> None:
    listener = Listener()
    bench_with(listener)
    (ends,) = listener.ends
    assert ends.theirs == ("192.0.2.7", 4711)
    assert ends.ours == ("unknown", 0)
    assert not ends.requested
    assert not ends.encrypted


async def test_nothing_is_looked_at_while_nobody_listens() -> None:
    listener = Listener()
    listener.is_listening = False
    bench = bench_with(listener)
    bench.feed(wire.associate_rq())
    assert listener.ends == []


async def test_traffic_is_counted_and_its_rates_follow() -> None:
    bench = Bench()
    said = wire.associate_rq() + ECHO_PDU
    bench.feed(said)
    traffic = bench.connection.traffic
    assert traffic.received_bytes == len(said)
    assert traffic.sent_bytes == len(bench.transport.written)
    start = traffic._at
    traffic.tick(start + 1.0)
    assert traffic.received_rate == pytest.approx(len(said), rel=0.01)
    for second in range(2, 60):
        traffic.tick(start + second)
    assert traffic.received_rate < 1


def wire_title(request: bytes) -> str:
    return request[26:42].decode().strip()
