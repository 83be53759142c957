"""Command sets (PS3.7 §6.3.1 and Annex E)."""

from __future__ import annotations

from collections.abc import Iterator

from dicomnode.dimse.command import (
    Request,
    UnrecognizedCommand,
    answer,
    decode_command,
    encode_command,
)
from dicomnode.errors import RemoteProtocolError
from tests.fuzz.recordings import recordings


def seeds() -> Iterator[bytes]:
    """Yield the command sets that were recorded."""
    for recording in recordings():
        yield from recording.commands()


def one(data: bytes) -> None:
    """Read a command set, or refuse it; what was read can be written and answered."""
    try:
        command = decode_command(data)
    except RemoteProtocolError:
        return
    if not isinstance(command, UnrecognizedCommand):
        assert decode_command(encode_command(command)).service == command.service
    if isinstance(command, Request):
        decode_command(encode_command(answer(command, 0)))
