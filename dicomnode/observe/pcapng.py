"""Capture files as Wireshark reads them: pcapng blocks, and TCP connections that are made up.

What is recorded has no packets any more, as it was heard above TCP and TLS. So Ethernet, IP and TCP
headers are made up around it: handshake, sequence numbers, acknowledgements and FIN, with checksums
that are right. (pcapng: draft-ietf-opsawg-pcapng; IPv4: RFC 791, IPv6: RFC 8200, TCP: RFC 9293.)
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import Final

# Wireshark takes what goes over this port for DICOM, and over no other unless it is told to.
DICOM_PORT: Final = 104

_SECTION_HEADER, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D_0D0A, 1, 5, 6
_ETHERNET: Final = 1
_COMMENT, _USER_APPLICATION, _INTERFACE_NAME, _RECEIVED, _DROPPED = 1, 4, 2, 4, 5
_MOST_COMMENT_BYTES: Final = 2000

_FIN, _SYN, _PSH_ACK, _ACK = 0x01, 0x02, 0x18, 0x10
# What fits into one packet of IPv4 with room to spare.
_SEGMENT_BYTES: Final = 32 * 1024
# Maximum segment size, and a window of a gigabyte: nobody waits for acknowledgements here.
_SYN_OPTIONS: Final = struct.pack(">BBHBBBB", 2, 4, 65495, 1, 3, 3, 14)
_OURS, _THEIRS = b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02"
_UNKNOWN: Final = (ipaddress.IPv4Address("192.0.2.1"), ipaddress.IPv4Address("192.0.2.2"))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _comment(text: str) -> bytes:
    return _option(_COMMENT, text.encode("utf-8", "replace")[:_MOST_COMMENT_BYTES]) if text else b""


def _block(kind: int, body: bytes, options: bytes = b"") -> bytes:
    if options:
        options += bytes(4)  # the end of the options
    length = 12 + len(body) + len(options)
    return struct.pack("<II", kind, length) + body + options + struct.pack("<I", length)


def header(application: str, comment: str) -> bytes:
    """Return the beginning of a file: who wrote it, and a comment on the whole."""
    section = _block(
        _SECTION_HEADER,
        # The byte order of the file, version 1.0, and a section of unknown length.
        struct.pack("<IHHq", 0x1A2B_3C4D, 1, 0, -1),
        _comment(comment) + _option(_USER_APPLICATION, application.encode()),
    )
    interface = struct.pack("<HHI", _ETHERNET, 0, 0)
    return section + _block(_INTERFACE, interface, _option(_INTERFACE_NAME, b"upper layer"))


def statistics(at: float, packets: int, dropped: int, comment: str) -> bytes:
    """Return the end of a file: how many packets it has, and what is not in it."""
    numbers = _option(_RECEIVED, struct.pack("<Q", packets))
    numbers += _option(_DROPPED, struct.pack("<Q", dropped))
    return _block(_STATISTICS, bytes(4) + _moment(at), _comment(comment) + numbers)


def _moment(at: float) -> bytes:
    microseconds = int(at * 1_000_000)
    return struct.pack("<II", microseconds >> 32, microseconds & 0xFFFF_FFFF)


def _packet(at: float, frame: bytes, comment: str) -> bytes:
    body = bytes(4) + _moment(at) + struct.pack("<II", len(frame), len(frame))
    return _block(_PACKET, body + frame + bytes(-len(frame) % 4), _comment(comment))


def _sum(data: bytes) -> int:
    """Return the sum of the 16-bit words of ``data`` as RFC 1071 wants it, but not inverted."""
    # 65536 is 1 modulo 65535, so the number as a whole is congruent to the sum of its words.
    return int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


def _checksum(data: bytes) -> int:
    return 0xFFFF - _sum(data)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(ours: str, theirs: str) -> tuple[Address, Address]:
    """Return both addresses of one family; made up where they are none."""
    try:
        found = _address(ours), _address(theirs)
    except ValueError:
        return _UNKNOWN
    return found if found[0].version == found[1].version else _UNKNOWN


def _address(text: str) -> Address:
    found = ipaddress.ip_address(text.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


class _Side:
    """One side of a connection: its addresses, and the next number in its sequence."""

    __slots__ = ("address", "hardware", "port", "sequence")

    def __init__(self, hardware: bytes, address: Address, port: int) -> None:
        self.hardware = hardware
        self.address = address
        self.port = port
        self.sequence = 0


class Conversation:
    """One connection as packets; each method returns the blocks to be written.

    ``at`` is seconds since the epoch. The port of the side that accepted it is written as 104.
    """

    def __init__(self, ours: tuple[str, int], theirs: tuple[str, int], *, requested: bool) -> None:
        near, far = _addresses(ours[0], theirs[0])
        self._ours = _Side(_OURS, near, ours[1] if requested else DICOM_PORT)
        self._theirs = _Side(_THEIRS, far, DICOM_PORT if requested else theirs[1])
        self._requestor = self._ours if requested else self._theirs
        self._identification = 0

    def opened(self, at: float, comment: str) -> Iterator[bytes]:
        """Return the handshake."""
        requestor, acceptor = self._requestor, self._other(self._requestor)
        yield self._segment(at, requestor, _SYN, comment=comment)
        yield self._segment(at, acceptor, _SYN | _ACK)
        yield self._segment(at, requestor, _ACK)

    def data(self, at: float, is_ours: bool, data: bytes) -> Iterator[bytes]:
        """Return the packets of what one side said, and their acknowledgement."""
        side = self._ours if is_ours else self._theirs
        for start in range(0, len(data), _SEGMENT_BYTES):
            yield self._segment(at, side, _PSH_ACK, data[start : start + _SEGMENT_BYTES])
        yield self._segment(at, self._other(side), _ACK)

    def remark(self, at: float, comment: str) -> bytes:
        """Return a packet that says nothing but ``comment``."""
        return self._segment(at, self._ours, _ACK, comment=comment)

    def closed(self, at: float) -> Iterator[bytes]:
        """Return the end of the connection."""
        requestor, acceptor = self._requestor, self._other(self._requestor)
        yield self._segment(at, requestor, _FIN | _ACK)
        yield self._segment(at, acceptor, _FIN | _ACK)
        yield self._segment(at, requestor, _ACK)

    def _other(self, side: _Side) -> _Side:
        return self._theirs if side is self._ours else self._ours

    def _segment(
        self, at: float, sender: _Side, flags: int, data: bytes = b"", comment: str = ""
    ) -> bytes:
        receiver = self._other(sender)
        options = _SYN_OPTIONS if flags & _SYN else b""
        acknowledged = receiver.sequence if flags & _ACK else 0
        header_words = 5 + len(options) // 4
        tcp = struct.pack(
            ">HHIIBBHHH",
            *(sender.port, receiver.port, sender.sequence, acknowledged),
            *(header_words << 4, flags, 0xFFFF, 0, 0),
        )
        tcp += options
        length = len(tcp) + len(data)
        pseudo = sender.address.packed + receiver.address.packed + struct.pack(">II", length, 6)
        checksum = 0xFFFF - (_sum(pseudo) + _sum(tcp) + _sum(data)) % 0xFFFF
        tcp = tcp[:16] + struct.pack(">H", checksum) + tcp[18:]
        taken = len(data) + bool(flags & (_SYN | _FIN))
        sender.sequence = (sender.sequence + taken) & 0xFFFF_FFFF
        frame = (
            receiver.hardware + sender.hardware + self._ip(sender, receiver, length) + tcp + data
        )
        return _packet(at, frame, comment)

    def _ip(self, sender: _Side, receiver: _Side, length: int) -> bytes:
        """Return the type of the Ethernet frame, and the header of IP."""
        addresses = sender.address.packed + receiver.address.packed
        if sender.address.version == 6:
            return struct.pack(">HIHBB", 0x86DD, 6 << 28, length, 6, 64) + addresses
        self._identification = (self._identification + 1) & 0xFFFF
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, self._identification, 0x4000, 64, 6, 0)
        ip += addresses
        return b"\x08\x00" + ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
