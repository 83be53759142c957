"""Joins the fragments of P-DATA into commands and data set streams (PS3.7 §6.3, PS3.8 Annex E)."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Protocol

from dicomnode.dimse.command import Command, decode_command
from dicomnode.dimse.elements import broken


class Fragment(Protocol):
    """One presentation data value, such as ``ul.events.DataIndication``."""

    @property
    def context_id(self) -> int:
        """The presentation context it came on."""

    @property
    def is_command(self) -> bool:
        """Part of a command set, not of a data set (message control header bit 0)."""

    @property
    def is_last(self) -> bool:
        """The last fragment of its command set or data set (bit 1)."""

    @property
    def data(self) -> memoryview:
        """The fragment itself, without header."""


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """A whole command set; when it has a data set, DataFragments on the same context follow."""

    context_id: int
    command: Command


@dataclass(frozen=True, slots=True)
class DataFragment:
    """Part of the data set of the last command; ``data`` is the view that came in, not a copy."""

    context_id: int
    data: memoryview
    is_last: bool


MessageEvent = CommandReceived | DataFragment


class MessageReader:
    """Turns what arrives on one association into messages.

    ``context_ids`` are the accepted presentation contexts. At most ``max_command_bytes`` of one
    command set are kept; data sets are handed on and never kept. After RemoteProtocolError the
    association is to be aborted and the reader dropped.
    """

    __slots__ = ("_command", "_context_id", "_context_ids", "_data_is_open", "_max_command_bytes")

    def __init__(self, context_ids: Container[int], *, max_command_bytes: int = 65536) -> None:
        self._context_ids = context_ids
        self._max_command_bytes = max_command_bytes
        self._command = bytearray()
        self._context_id: int | None = None
        self._data_is_open = False

    @property
    def is_between_messages(self) -> bool:
        """Tell whether everything begun so far is whole."""
        return self._context_id is None

    def feed(self, fragment: Fragment) -> MessageEvent | None:
        """Take the next fragment; give what it completes, or None when it completes nothing.

        Raises RemoteProtocolError when the fragment may not come here (PS3.7 §6.3.1).
        """
        context_id = fragment.context_id
        if context_id != self._context_id:
            self._begin(context_id)
        if fragment.is_command:
            return self._feed_command(context_id, fragment)
        if not self._data_is_open:
            raise broken(f"a data set fragment on context {context_id} before its command is whole")
        if fragment.is_last:
            self._data_is_open = False
            self._context_id = None
        elif not fragment.data:
            return None
        return DataFragment(context_id, fragment.data, fragment.is_last)

    def _begin(self, context_id: int) -> None:
        if self._context_id is not None:
            raise broken(
                f"a fragment on context {context_id} inside a message on context {self._context_id}"
            )
        if context_id not in self._context_ids:
            raise broken(f"a fragment on presentation context {context_id}, which is not accepted")
        self._context_id = context_id

    def _feed_command(self, context_id: int, fragment: Fragment) -> CommandReceived | None:
        if self._data_is_open:
            raise broken(f"a command fragment on context {context_id} inside a data set")
        data = fragment.data
        size = len(self._command) + len(data)
        if size > self._max_command_bytes:
            raise broken(
                f"a command set of {size} bytes or more;"
                f" at most {self._max_command_bytes} are taken"
            )
        if not fragment.is_last:
            self._command += data
            return None
        if self._command:
            command = decode_command(bytes(self._command + data))
            self._command = bytearray()
        else:
            command = decode_command(data)
        self._data_is_open = command.has_data_set
        if not command.has_data_set:
            self._context_id = None
        return CommandReceived(context_id, command)
