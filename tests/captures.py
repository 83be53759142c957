"""Reads capture files without Wireshark: their packets, comments, and what TCP carried."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import ip_address

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D_0D0A, 1, 5, 6
FIN, SYN, ACK = 1, 2, 16


def sums_to_zero(data: bytes) -> bool:
    """Tell whether the checksum within ``data`` is right (RFC 1071), word for word."""
    total = 0
    for (word,) in struct.iter_unpack(">H", data + bytes(len(data) % 2)):
        total += word
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet of TCP, taken apart."""

    source: tuple[str, int]
    target: tuple[str, int]
    sequence: int
    acknowledged: int
    flags: int
    data: bytes
    comment: str

    @classmethod
    def read(cls, frame: bytes, comment: str) -> Packet:
        kind, ip = struct.unpack_from(">H", frame, 12)[0], frame[14:]
        if kind == 0x0800:
            assert sums_to_zero(ip[:20])
            assert struct.unpack_from(">H", ip, 2)[0] == len(ip)
            addresses, tcp = (ip[12:16], ip[16:20]), ip[20:]
        else:
            assert kind == 0x86DD
            assert struct.unpack_from(">H", ip, 4)[0] == len(ip) - 40
            addresses, tcp = (ip[8:24], ip[24:40]), ip[40:]
        assert sums_to_zero(b"".join(addresses) + struct.pack(">II", len(tcp), 6) + tcp)
        ports = struct.unpack_from(">HH", tcp)
        sequence, acknowledged = struct.unpack_from(">II", tcp, 4)
        source, target = (
            (str(ip_address(address)), port) for address, port in zip(addresses, ports, strict=True)
        )
        data = tcp[(tcp[12] >> 4) * 4 :]
        return cls(source, target, sequence, acknowledged, tcp[13], data, comment)


@dataclass(slots=True)
class Capture:
    """A capture file; reading it checks that blocks are whole and checksums right."""

    packets: list[Packet] = field(default_factory=list)
    comment: str = ""
    closing: str = ""
    dropped: int = -1

    def __init__(self, content: bytes) -> None:
        self.packets, self.comment, self.closing, self.dropped = [], "", "", -1
        offset = 0
        while offset < len(content):
            kind, length = struct.unpack_from("<II", content, offset)
            assert length % 4 == 0
            assert struct.unpack_from("<I", content, offset + length - 4)[0] == length
            self._block(kind, content[offset + 8 : offset + length - 4])
            offset += length
        assert offset == len(content)

    def _block(self, kind: int, body: bytes) -> None:
        match kind:
            case 0x0A0D_0D0A:
                self.comment = options(body[16:])[1].decode()
            case 5:
                found = options(body[12:])
                self.closing = found[1].decode()
                self.dropped = struct.unpack("<Q", found[5])[0]
            case 6:
                length = struct.unpack_from("<I", body, 12)[0]
                rest = body[20 + length + -length % 4 :]
                comment = options(rest).get(1, b"").decode()
                self.packets.append(Packet.read(body[20 : 20 + length], comment))

    def streams(self) -> list[tuple[bytes, bytes]]:
        """Return of each connection what requestor and acceptor said, as TCP puts it together."""
        requestors: dict[tuple[str, int], bytearray] = {}
        acceptors: dict[tuple[str, int], bytearray] = {}
        for packet in self.packets:
            is_requestor = packet.target[1] == 104
            end = packet.source if is_requestor else packet.target
            said = (requestors if is_requestor else acceptors).setdefault(end, bytearray())
            if packet.data:
                assert packet.sequence == 1 + len(said), "a hole in the sequence"
                said += packet.data
        return [(bytes(said), bytes(acceptors[end])) for end, said in requestors.items()]


def options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while data:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            break
        found[code] = data[4 : 4 + length]
        data = data[4 + length + -length % 4 :]
    return found
