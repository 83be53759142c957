"""Damaged associations out of recorded ones, each of them told by a number.

The same number gives the same course on every machine: what a node did not bear can be done again.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tests.fuzz.recordings import Recording, Turn, recordings
from tests.wire import ABORT, P_DATA, RELEASE_RP, RELEASE_RQ, item, pdu, pdv


class End(Enum):
    """How the requestor leaves when it has said everything."""

    CLOSE = "closes"
    RESET = "resets the connection"
    HALF = "closes its half and reads on"
    ABORT = "aborts"


class Secure(Enum):
    """Whether the requestor speaks TLS, and where."""

    NO = "no TLS"
    YES = "TLS"
    MISSING = "no TLS where TLS is spoken"
    UNWANTED = "TLS where none is spoken"


@dataclass(frozen=True, slots=True)
class Say:
    """Bytes that are sent once ``after`` PDUs came, or none come any more; in so many pieces."""

    data: bytes
    after: int = 0
    pieces: int = 1
    stall_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Course:
    """What one requestor does, from its first byte to its end; ``damage`` names what is wrong."""

    seed: int
    service: str
    says: tuple[Say, ...]
    end: End
    secure: Secure
    reads: bool
    damage: tuple[str, ...]

    def __str__(self) -> str:
        what = ", ".join(self.damage) or "as recorded"
        return f"{self.seed}: {self.service}: {what}; {self.secure.value}; {self.end.value}"


Turns = list[Turn]
_LENGTHS_32: Final = (0, 1, 2, 3, 5, 6, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 20)
_LENGTHS_16: Final = (0, 1, 2, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_BYTES: Final = (0, 1, 2, 3, 0x20, 0x2A, 0x2E, 0x5C, 0x7F, 0x80, 0xFE, 0xFF)
_LONGEST_STALL_SECONDS: Final = 0.2


def _some(chance: random.Random, turns: Turns) -> int:
    return chance.randrange(len(turns))


def _change(turns: Turns, at: int, data: bytes) -> None:
    turns[at] = Turn(turns[at].after, data)


def _bytes(chance: random.Random, turns: Turns) -> None:
    at = _some(chance, turns)
    changed = bytearray(turns[at].pdu)
    for _ in range(chance.randint(1, 6)):
        changed[chance.randrange(len(changed))] = chance.choice((*_BYTES, chance.randrange(256)))
    _change(turns, at, bytes(changed))


def _pdu_length(chance: random.Random, turns: Turns) -> None:
    at = _some(chance, turns)
    near = len(turns[at].pdu) - 6 + chance.choice((-2, -1, 1, 2))
    length = chance.choice((*_LENGTHS_32, near & 0xFFFFFFFF))
    _change(turns, at, turns[at].pdu[:2] + struct.pack(">I", length) + turns[at].pdu[6:])


def _inner_length(chance: random.Random, turns: Turns) -> None:
    """Write a length of another kind over any bytes within a PDU."""
    at = _some(chance, turns)
    data = turns[at].pdu
    order = chance.choice("<>")
    length = (
        struct.pack(f"{order}I", chance.choice(_LENGTHS_32))
        if chance.random() < 0.5
        else struct.pack(f"{order}H", chance.choice(_LENGTHS_16))
    )
    place = chance.randrange(6, max(7, len(data) - len(length)))
    _change(turns, at, data[:place] + length + data[place + len(length) :])


def _truncate(chance: random.Random, turns: Turns) -> None:
    """Cut a PDU off; half of the time its length says so."""
    at = _some(chance, turns)
    data = turns[at].pdu
    cut = data[: chance.randrange(len(data))]
    if chance.random() < 0.5 and len(cut) >= 6:
        cut = cut[:2] + struct.pack(">I", len(cut) - 6) + cut[6:]
    _change(turns, at, cut)


def _drop(chance: random.Random, turns: Turns) -> None:
    if len(turns) > 1:
        del turns[_some(chance, turns)]


def _repeat(chance: random.Random, turns: Turns) -> None:
    at = _some(chance, turns)
    turns[at:at] = [turns[at]] * chance.choice((1, 1, 2, 20))


def _order(chance: random.Random, turns: Turns) -> None:
    one, other = _some(chance, turns), _some(chance, turns)
    turns[one], turns[other] = turns[other], turns[one]


def _interleave(chance: random.Random, turns: Turns) -> None:
    """Put PDUs of other associations in between."""
    other = chance.choice(recordings()).turns
    for _ in range(chance.randint(1, 3)):
        turns.insert(_some(chance, turns) + 1, Turn(0, chance.choice(other).pdu))


def _insert(chance: random.Random, turns: Turns) -> None:
    """Put a PDU in that has no business there."""
    kind = chance.choice((*range(1, 9), 0, 0x47, 0xFF))
    body = chance.randbytes(chance.choice((0, 1, 4, 4, 68, 200)))
    if kind in (RELEASE_RQ, RELEASE_RP, ABORT) and chance.random() < 0.7:
        body = bytes(4)
    if kind == P_DATA and chance.random() < 0.7:
        contents = chance.randbytes(chance.randrange(60))
        body = pdv(
            chance.choice((1, 3, 5, 255, 0)),
            contents,
            command=chance.random() < 0.5,
            last=chance.random() < 0.5,
        )
    turns.insert(chance.randrange(len(turns) + 1), Turn(0, pdu(kind, body)))


def _item(chance: random.Random, turns: Turns) -> None:
    """Add an item of any kind to the end of the association request."""
    kind = chance.choice((0x10, 0x20, 0x30, 0x40, 0x50, 0x51, 0x53, 0x54, 0x56, 0x57, 0x58, 0x99))
    added = item(kind, chance.randbytes(chance.randrange(40))) * chance.choice((1, 1, 300))
    if chance.random() < 0.5:
        added = item(0x50, added)
    body = turns[0].pdu[6:] + added
    _change(turns, 0, pdu(turns[0].pdu[0], body[: (1 << 20)]))


def _header(chance: random.Random, turns: Turns) -> None:
    """Change the context or the flags of a PDV."""
    places = [at for at, turn in enumerate(turns) if turn.pdu[:1] == b"\4" and len(turn.pdu) > 12]
    if places:
        at = chance.choice(places)
        data = bytearray(turns[at].pdu)
        if chance.random() < 0.5:
            data[10] = chance.randrange(256)
        else:
            data[11] ^= chance.choice((1, 2, 3, 0x80))
        _change(turns, at, bytes(data))


def _split(chance: random.Random, turns: Turns) -> None:
    """Send a PDV in many, each in a PDU of its own: this is allowed."""
    places = [at for at, turn in enumerate(turns) if turn.pdu[:1] == b"\4" and len(turn.pdu) > 14]
    if places:
        at = chance.choice(places)
        after, data = turns[at].after, turns[at].pdu
        context_id, flags, contents = data[10], data[11], data[12:]
        step = max(1, len(contents) // chance.randint(2, 12))
        parts = [contents[start : start + step] for start in range(0, len(contents), step)]
        turns[at : at + 1] = [
            Turn(
                after,
                pdu(
                    P_DATA,
                    pdv(
                        context_id,
                        part,
                        command=bool(flags & 1),
                        last=bool(flags & 2) and number == len(parts),
                    ),
                ),
            )
            for number, part in enumerate(parts, 1)
        ]


def _hurry(chance: random.Random, turns: Turns) -> None:
    """Wait for no answer."""
    turns[:] = [Turn(0, turn.pdu) for turn in turns]


def _cut(chance: random.Random, turns: Turns) -> None:
    """Say nothing more from somewhere on."""
    at = _some(chance, turns)
    del turns[at + 1 :]
    _change(turns, at, turns[at].pdu[: chance.randrange(len(turns[at].pdu) + 1)])


def _noise(chance: random.Random, turns: Turns) -> None:
    _change(turns, _some(chance, turns), chance.randbytes(chance.choice((1, 6, 100, 5000))))


def _title(chance: random.Random, turns: Turns) -> None:
    """Be another application, or call another one (PS3.8 §9.3.2)."""
    if turns[0].pdu[:1] == b"\1" and len(turns[0].pdu) > 74:
        title = chance.choice(
            (b"", b"SINK", b"DICOMNODE", b"\0\0", b"A\\B", b"\xc3\xa4", b"X" * 16)
        )
        at = chance.choice((10, 26))
        data = turns[0].pdu
        _change(turns, 0, data[:at] + title.ljust(16) + data[at + 16 :])


Damage = Callable[[random.Random, Turns], None]
_DAMAGES: Final[Sequence[Damage]] = (
    *(_bytes, _bytes, _bytes, _pdu_length, _inner_length, _inner_length, _truncate, _drop),
    *(_repeat, _order, _interleave, _insert, _item, _header, _split, _hurry, _cut, _noise, _title),
)


def course(seed: int) -> Course:
    """Return the course that ``seed`` stands for."""
    chance = random.Random(seed)
    recording: Recording = chance.choice(recordings())
    turns = list(recording.turns)
    damages = chance.choices(_DAMAGES, k=chance.choice((0, 1, 1, 1, 2, 3, 5)))
    for damage in damages:
        if turns:
            damage(chance, turns)
            turns = [turn for turn in turns if turn.pdu]
    secure = Secure.NO
    if chance.random() < 0.12:
        secure = chance.choice((Secure.YES, Secure.YES, Secure.MISSING, Secure.UNWANTED))
    end = chance.choice((End.CLOSE, End.CLOSE, End.CLOSE, End.RESET, End.HALF, End.ABORT))
    return Course(
        seed,
        recording.service,
        tuple(_said(chance, turn) for turn in turns),
        end,
        secure,
        reads=chance.random() < 0.9,
        damage=tuple(damage.__name__.strip("_") for damage in damages),
    )


def _said(chance: random.Random, turn: Turn) -> Say:
    pieces = chance.choice((2, 7)) if chance.random() < 0.05 else 1
    stall = chance.random() * _LONGEST_STALL_SECONDS if chance.random() < 0.02 else 0.0
    return Say(turn.pdu, turn.after, pieces, stall)
