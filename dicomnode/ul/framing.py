"""Finds PDUs in a byte stream: type and length are judged before any memory is taken for them.

PS3.8 §9.3.1: type (1 byte), reserved (1), length of what follows (4, big endian).
"""

from __future__ import annotations

from dicomnode.errors import LocalProtocolError, RemoteProtocolError
from dicomnode.ul.items import malformed
from dicomnode.ul.pdu import (
    PDU_HEADER,
    PDV_HEADER_LENGTH,
    AbortReason,
    Buffer,
    PDUType,
    p_data_header,
)

HEADER_LENGTH = 6
MAXIMUM_ASSOCIATE_LENGTH = 1 << 20

# Beyond this, longer PDUs gain nothing; it is also what most peers ask for at most.
LONGEST_P_DATA = 1 << 17

# Two objects for each fragment smaller than this would cost many times its bytes.
_JOINED_FRAGMENT = 64

_FIXED_LENGTH = 4

TLS_ON_PLAIN_PORT = "peer speaks TLS on the plain port"
"""The rule that a TLS client breaks where no TLS is spoken."""

# First bytes of other protocols that find their way to a DICOM port.
_STRANGERS = (
    (b"\x16\x03", TLS_ON_PLAIN_PORT),
    (b"\x15\x03", "peer answered with a TLS alert: it expects TLS on this port"),
    (b"SSH-", "peer speaks SSH"),
    *(
        (verb, "peer speaks HTTP")
        for verb in (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE", b"OPTION", b"PATCH ")
    ),
    *((verb, "peer speaks HTTP") for verb in (b"TRACE ", b"CONNEC", b"PRI * ", b"HTTP/")),
)


def read_header(data: memoryview, offset: int, maximum_length: int) -> tuple[int, int]:
    """Return type and length of the PDU at ``offset``, of which 6 bytes must be there.

    ``maximum_length`` is what we advertised for P-DATA-TF; 0 admits any length. Raises
    RemoteProtocolError for types that do not exist and lengths that their type cannot have.
    """
    pdu_type, length = PDU_HEADER.unpack_from(data, offset)
    if pdu_type == PDUType.P_DATA_TF:
        if length <= maximum_length or not maximum_length:
            return pdu_type, length
        raise malformed(
            f"P-DATA-TF of {length} bytes exceeds the maximum length of {maximum_length} "
            "that we advertised (PS3.8 D.1)"
        )
    if pdu_type in (PDUType.A_ASSOCIATE_RQ, PDUType.A_ASSOCIATE_AC):
        if length <= MAXIMUM_ASSOCIATE_LENGTH:
            return pdu_type, length
        raise malformed(
            f"{PDUType(pdu_type).words} of {length} bytes exceeds our limit of "
            f"{MAXIMUM_ASSOCIATE_LENGTH}"
        )
    if not PDUType.A_ASSOCIATE_RJ <= pdu_type <= PDUType.A_ABORT:
        raise _unrecognized(bytes(data[offset : offset + HEADER_LENGTH]))
    if length != _FIXED_LENGTH:
        raise malformed(f"{PDUType(pdu_type).words} claims a length of {length} instead of 4")
    return pdu_type, length


def _unrecognized(header: bytes) -> RemoteProtocolError:
    rule = f"PDU type {header[0]:02X}H does not exist (PS3.8 §9.3.1)"
    for prefix, words in _STRANGERS:
        if header.startswith(prefix):
            rule = words
    return RemoteProtocolError(rule, reason=AbortReason.UNRECOGNIZED_PDU)


def fragment_size(maximum_length: int) -> int:
    """Return how many bytes of data a P-DATA-TF PDU carries when it is full.

    ``maximum_length`` is the peer's (PS3.8 §D.1); 0 is no limit. Raises LocalProtocolError when
    it leaves no room for data.
    """
    limit = min(maximum_length or LONGEST_P_DATA, LONGEST_P_DATA)
    # Some peers take only fragments of even length, as the data they carry are (PS3.5 §7.1).
    size = (limit - PDV_HEADER_LENGTH) & ~1
    if size <= 0:
        raise LocalProtocolError(f"maximum length {maximum_length} leaves no room for data")
    return size


def p_data(
    context_id: int,
    data: Buffer,
    maximum_length: int,
    *,
    is_command: bool,
    is_last: bool = True,
) -> list[Buffer]:
    """Cut a command or data set, or part of one, into P-DATA-TF PDUs of one fragment each.

    Returns header and data of each in turn; the data are views, not copies, except for peers
    that take next to nothing in one PDU: theirs are joined. ``is_last`` marks the last fragment
    as the last of its command or data set.
    """
    size = fragment_size(maximum_length)
    view = memoryview(data)
    tail = max(len(view) - 1, 0) // size * size
    buffers: list[Buffer] = []
    if tail:
        header = p_data_header(context_id, size, is_command=is_command, is_last=False)
        if size < _JOINED_FRAGMENT:
            buffers.append(_joined(header, view[:tail], size))
        else:
            for start in range(0, tail, size):
                buffers += (header, view[start : start + size])
    rest = view[tail:]
    buffers.append(p_data_header(context_id, len(rest), is_command=is_command, is_last=is_last))
    buffers.append(rest)
    return buffers


def _joined(header: bytes, data: memoryview, size: int) -> memoryview:
    """Return ``data`` with ``header`` before each ``size`` bytes of it; no remainder is left."""
    count, stride = len(data) // size, len(header) + size
    joined = bytearray(count * stride)
    # Column by column: a peer may ask for half a million fragments of two bytes.
    for column, byte in enumerate(header):
        joined[column::stride] = bytes((byte,)) * count
    for column in range(size):
        joined[len(header) + column :: stride] = data[column::size]
    return memoryview(joined)
