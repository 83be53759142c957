"""Capture files: blocks, made-up packets, and their checksums."""

from __future__ import annotations

import pytest

from dicomnode.observe import pcapng
from tests.captures import ACK, FIN, SYN, Capture

OURS, THEIRS = ("192.0.2.1", 11112), ("192.0.2.7", 40000)


def recorded(talk: pcapng.Conversation, *said: tuple[bool, bytes]) -> Capture:
    blocks = [pcapng.header("test", "a comment"), *talk.opened(1.5, "begun")]
    for is_ours, data in said:
        blocks += talk.data(2.0, is_ours, data)
    return Capture(b"".join([*blocks, *talk.closed(3.0)]))


def test_a_connection_begins_with_a_handshake_and_ends_with_fin_both_ways() -> None:
    capture = recorded(pcapng.Conversation(OURS, THEIRS, requested=False))
    assert [packet.flags for packet in capture.packets] == [
        *(SYN, SYN | ACK, ACK, FIN | ACK, FIN | ACK, ACK)
    ]
    assert capture.packets[0].source == THEIRS
    assert capture.packets[-1].sequence == 2
    assert capture.packets[-1].acknowledged == 2


def test_the_side_that_accepts_has_the_port_that_wireshark_knows() -> None:
    accepted = recorded(pcapng.Conversation(OURS, THEIRS, requested=False))
    assert accepted.packets[0].target == ("192.0.2.1", 104)
    requested = recorded(
        pcapng.Conversation(("192.0.2.1", 5), ("192.0.2.7", 11112), requested=True)
    )
    assert requested.packets[0].source == ("192.0.2.1", 5)
    assert requested.packets[0].target == ("192.0.2.7", 104)


@pytest.mark.parametrize("size", [1, 2, 3, 32768, 32769, 100_001])
def test_what_was_said_is_put_together_again_by_its_sequence_numbers(size: int) -> None:
    said, answered = bytes(range(256)) * (size // 256 + 1), b"\xff" * size
    talk = pcapng.Conversation(OURS, THEIRS, requested=False)
    capture = recorded(talk, (False, said[:size]), (True, answered), (False, b"more"))
    assert capture.streams() == [(said[:size] + b"more", answered)]


def test_sequence_numbers_begin_anew_after_four_gigabytes() -> None:
    talk = pcapng.Conversation(OURS, THEIRS, requested=False)
    talk._theirs.sequence = 0xFFFF_FFFE
    packets = Capture(b"".join(talk.data(1.0, False, b"abcd"))).packets
    assert [packet.sequence for packet in packets] == [0xFFFF_FFFE, 0]
    assert packets[1].acknowledged == 2


@pytest.mark.parametrize(
    ("ours", "theirs", "written"),
    [
        ("fd00::1", "fd00::9", "fd00::9"),
        ("fe80::1%eth0", "fe80::9%eth0", "fe80::9"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.9", "192.0.2.9"),
        ("unknown", "unknown", "192.0.2.2"),
        ("192.0.2.1", "fd00::9", "192.0.2.2"),
    ],
)
def test_addresses_of_every_kind_can_be_written(ours: str, theirs: str, written: str) -> None:
    talk = pcapng.Conversation((ours, 1), (theirs, 2), requested=False)
    assert recorded(talk, (True, b"abc")).packets[0].source[0] == written


def test_comments_stand_where_they_belong_and_are_bounded() -> None:
    talk = pcapng.Conversation(OURS, THEIRS, requested=False)
    capture = recorded(talk)
    assert (capture.comment, capture.packets[0].comment) == ("a comment", "begun")
    long = Capture(talk.remark(1.0, "x" * 100_000)).packets[0]
    assert set(long.comment) == {"x"}
    assert len(long.comment) < 10_000


def test_the_end_says_what_is_not_there() -> None:
    capture = Capture(pcapng.statistics(1.0, 7, 123_456_789_012, "the end"))
    assert (capture.closing, capture.dropped) == ("the end", 123_456_789_012)
