"""What hostile streams may cost in memory: not what they claim, no multiple of what they send."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable

import pytest

from dicomnode.ul.framing import MAXIMUM_ASSOCIATE_LENGTH
from tests.fuzz.endpoint import MAXIMUM_LENGTH, RECORDED, Endpoint

_KIBIBYTE = 1024


def peak_bytes(run: Callable[[], None]) -> int:
    """What ``run`` took at most."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def established() -> Endpoint:
    endpoint = Endpoint()
    endpoint.receive(RECORDED[0])
    return endpoint


@pytest.mark.parametrize("length", [MAXIMUM_LENGTH, MAXIMUM_LENGTH + 1, 1 << 31, 0xFFFFFFFF])
def test_a_claimed_p_data_length_takes_no_memory(length: int) -> None:
    endpoint = established()
    claim = struct.pack(">BxIIBB", 4, length, length, 1, 1)
    assert peak_bytes(lambda: endpoint.receive(claim)) < 16 * _KIBIBYTE


@pytest.mark.parametrize("length", [MAXIMUM_ASSOCIATE_LENGTH, 1 << 21, 0xFFFFFFFF])
def test_a_claimed_association_length_takes_no_memory(length: int) -> None:
    endpoint = Endpoint()
    claim = struct.pack(">BxI", 1, length)
    assert peak_bytes(lambda: endpoint.receive(claim)) < 16 * _KIBIBYTE


def test_a_command_that_never_ends_is_aborted_before_it_fills_memory() -> None:
    endpoint = established()
    fragment = pdu(4, struct.pack(">IBB", 4002, 1, 1) + bytes(4000))

    def run() -> None:
        for _ in range(500):
            endpoint.receive(fragment)

    assert peak_bytes(run) < 512 * _KIBIBYTE
    assert len(endpoint.broken_rules) == 1


def test_empty_fragments_without_end_keep_nothing() -> None:
    endpoint = established()
    fragments = pdu(4, struct.pack(">IBB", 2, 1, 1) * 600)

    def run() -> None:
        for _ in range(5):
            endpoint.receive(fragments)
            endpoint.events.clear()

    assert peak_bytes(run) < 512 * _KIBIBYTE
    assert not endpoint.broken_rules


@pytest.mark.parametrize(
    "items",
    [
        item(0x99, b"") * 20_000,
        item(0x20, b"\1\0\0\0") * 10_000,
        item(0x50, item(0x56, b"\0\0") * 10_000),
        item(0x50, item(0x54, b"\0\x031.2\1\1") * 5_000),
    ],
    ids=["unknown items", "presentation contexts", "extended negotiation", "role selection"],
)
def test_a_request_of_the_smallest_items_costs_no_great_multiple_of_itself(items: bytes) -> None:
    endpoint = Endpoint()
    header = struct.pack(">H2x16s16s32x", 1, b"DICOMNODE", b"CT_1")
    request = pdu(1, header + item(0x10, b"1.2.840.10008.3.1.1.1") + items)
    assert peak_bytes(lambda: endpoint.receive(request)) < 32 * len(request)
    endpoint.sent_pdus()
