"""Recorded associations of each service: what real requestors said, and when they waited.

``tests.fuzz.record`` makes them, in ``recordings/``, one JSON file each.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

RECORDINGS = Path(__file__).parent / "recordings"


@dataclass(frozen=True, slots=True)
class Turn:
    """One PDU of the requestor, sent once it had ``after`` PDUs of the acceptor."""

    after: int
    pdu: bytes


@dataclass(frozen=True, slots=True)
class Recording:
    """An association of the program ``by``, from its request to its end."""

    service: str
    by: str
    turns: tuple[Turn, ...]

    def write(self, directory: Path = RECORDINGS) -> None:
        """Write ``<service>.json``."""
        turns = [[turn.after, base64.b64encode(turn.pdu).decode()] for turn in self.turns]
        lines = ",\n".join(f"  {json.dumps(turn)}" for turn in turns)
        head = f'{{"by": {json.dumps(self.by)}, "turns": [\n'
        (directory / f"{self.service}.json").write_text(f"{head}{lines}\n]}}\n")

    def commands(self) -> Iterator[bytes]:
        """Yield every command set."""
        return (data for _, is_command, data in self._messages() if is_command)

    def data_sets(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every data set behind the command set that it belongs to."""
        command = b""
        for _, is_command, data in self._messages():
            if not is_command:
                yield command, data
            command = data

    def _messages(self) -> Iterator[tuple[int, bool, bytes]]:
        """Yield context, kind and bytes of the commands and data sets (PS3.8 §9.3.5.1, Annex E)."""
        collected = b""
        for turn in self.turns:
            at = 6
            while turn.pdu[0] == 4 and at < len(turn.pdu):
                length, context_id, flags = struct.unpack_from(">IBB", turn.pdu, at)
                collected += turn.pdu[at + 6 : at + 4 + length]
                at += 4 + length
                if flags & 2:
                    yield context_id, bool(flags & 1), collected
                    collected = b""


@cache
def recordings() -> tuple[Recording, ...]:
    """Return all of them, in the order of their names."""
    return tuple(map(_read, sorted(RECORDINGS.glob("*.json"))))


def _read(path: Path) -> Recording:
    written = json.loads(path.read_text())
    turns = tuple(Turn(after, base64.b64decode(pdu)) for after, pdu in written["turns"])
    return Recording(path.stem, written["by"], turns)
