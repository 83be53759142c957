"""Detached CMS signatures (RFC 5652) in the one form that we write, and ``openssl cms`` reads.

There is one way to write each signature: whoever checks it writes it anew and compares, so that no
byte is left that says nothing. ``cryptography`` writes such signatures, but does not read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_TAGGED_0: Final = 0xA0
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18

_DATA: Final = bytes.fromhex("06092a864886f70d010701")
_SIGNED_DATA: Final = bytes.fromhex("06092a864886f70d010702")
_CONTENT_TYPE: Final = bytes.fromhex("06092a864886f70d010903")
_MESSAGE_DIGEST: Final = bytes.fromhex("06092a864886f70d010904")
_SIGNING_TIME: Final = bytes.fromhex("06092a864886f70d010905")
_SHA_256: Final = bytes.fromhex("300b0609608648016503040201")
_RSA: Final = bytes.fromhex("300d06092a864886f70d0101010500")
_ECDSA_SHA_256: Final = bytes.fromhex("300a06082a8648ce3d040302")
# RFC 5652 §11.3: what is before 2050 is a UTCTime.
_UTC_TIME_ENDS: Final = 2050
_MAX_SIGNATURE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """What of a signature is not known beforehand: when it was made, and its value."""

    at: datetime
    value: bytes


def attributes(digest: bytes, at: datetime) -> bytes:
    """Return what is signed: attributes with the SHA-256 of the content, as a SET (§5.4)."""
    each = (
        _tlv(_SEQUENCE, _CONTENT_TYPE + _tlv(_SET, _DATA)),
        _tlv(_SEQUENCE, _SIGNING_TIME + _tlv(_SET, _time(at))),
        _tlv(_SEQUENCE, _MESSAGE_DIGEST + _tlv(_SET, _tlv(_OCTETS, digest))),
    )
    return _tlv(_SET, b"".join(sorted(each)))


def message(
    certificates: Sequence[x509.Certificate], digest: bytes, at: datetime, value: bytes
) -> bytes:
    """Return the signature file; the first of ``certificates`` is the signer's."""
    signer = certificates[0]
    info = _tlv(
        _SEQUENCE,
        b"".join(
            (
                _integer(1),
                _tlv(_SEQUENCE, signer.issuer.public_bytes() + _integer(signer.serial_number)),
                _SHA_256,
                bytes([_TAGGED_0]) + attributes(digest, at)[1:],
                _algorithm(signer),
                _tlv(_OCTETS, value),
            )
        ),
    )
    encoded = sorted(each.public_bytes(Encoding.DER) for each in certificates)
    signed = b"".join(
        (
            _integer(1),
            _tlv(_SET, _SHA_256),
            _tlv(_SEQUENCE, _DATA),
            _tlv(_TAGGED_0, b"".join(encoded)),
            _tlv(_SET, info),
        )
    )
    return _tlv(_SEQUENCE, _SIGNED_DATA + _tlv(_TAGGED_0, _tlv(_SEQUENCE, signed)))


def find(data: bytes) -> Found:
    """Find time and value in a signature of unknown origin; ValueError where they are not."""
    try:
        # ContentInfo, its content, SignedData; the last of that, and its only SignerInfo.
        signed = _parts(_parts(_parts(_one(data))[1])[0])
        info = _parts(_parts(signed[-1])[0])
        signing_time = next(
            part for part in map(_parts, _parts(info[3])) if _tlv(0x06, part[0][1]) == _SIGNING_TIME
        )
        ((tag, written),) = _parts(signing_time[1])
        value = info[5][1]
    except (IndexError, StopIteration):
        raise ValueError("it is no signature that dicomnode writes") from None
    if len(value) > _MAX_SIGNATURE_BYTES:
        raise ValueError("its value is too long")
    layout = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    at = datetime.strptime(written.decode("ascii"), layout).replace(tzinfo=UTC)
    return Found(at, value)


def _algorithm(signer: x509.Certificate) -> bytes:
    match signer.public_key():
        case rsa.RSAPublicKey():
            return _RSA
        case ec.EllipticCurvePublicKey():
            return _ECDSA_SHA_256
        case _:
            raise ValueError("a certificate with an RSA or EC key is needed")


# -- DER (X.690) -----------------------------------------------------------------------------------


def _tlv(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def _integer(value: int) -> bytes:
    return _tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _time(at: datetime) -> bytes:
    if at.year < _UTC_TIME_ENDS:
        return _tlv(_UTC_TIME, at.strftime("%y%m%d%H%M%SZ").encode())
    return _tlv(_GENERALIZED_TIME, at.strftime("%Y%m%d%H%M%SZ").encode())


_Part = tuple[int, bytes]


def _one(data: bytes) -> _Part:
    (part,) = _split(data)
    return part


def _parts(part: _Part) -> list[_Part]:
    return _split(part[1])


def _split(data: bytes) -> list[_Part]:
    """Return tag and content of each value that ``data`` consists of. Raises ValueError."""
    found: list[_Part] = []
    position = 0
    while position < len(data):
        if position + 2 > len(data):
            raise ValueError("it is cut short")
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4:
                raise ValueError("it has a length that none can have")
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        if position + length > len(data):
            raise ValueError("it is cut short")
        found.append((tag, data[position : position + length]))
        position += length
    return found
