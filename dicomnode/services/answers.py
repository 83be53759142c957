"""Identifiers of query responses as bytes (PS3.4 §C.4.1.1.3.2), as fast as their number demands.

A ``Layout`` is worked out once a query: which elements, in which order, from which values. The
values of a match then cost little more than their bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Final

from dicomnode.storage.encoding import (
    DEFLATED,
    Elements,
    deflated,
)
from dicomnode.storage.json_model import Attributes, encode_attributes
from dicomnode.storage.text import encode_text, encodings_of

UNICODE: Final = b"ISO_IR 192"
_SPECIFIC_CHARACTER_SET: Final = 0x0008_0005
_TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
# The default repertoire, and what holds everything.
_ASCII: Final = ("iso8859",)
_UTF8: Final = ("utf8",)

# Makes a whole element of a value, in the encodings given.
Write = Callable[[Any, tuple[str, ...]], bytes]
# An element that one answer alone has: its tag, and its bytes in the encodings given.
Further = tuple[int, Callable[[tuple[str, ...]], bytes]]


@dataclass(frozen=True, slots=True)
class Field:
    """One element of the answers: its tag and VR.

    ``item_keys`` are keyword, tag and VR of what a sequence's items are asked for.
    """

    tag: int
    vr: str
    item_keys: tuple[tuple[str, int, str], ...] = ()


class Repertoire:
    """The character set of the answers to one query, and how they are sent.

    Text is in ``character_set``, a raw Specific Character Set, where that has all characters of
    an answer, else in UTF-8; ``said`` has it said even where an answer is ASCII.
    """

    def __init__(self, transfer_syntax_uid: str, character_set: bytes, *, said: bool) -> None:
        self.elements = elements = Elements(transfer_syntax_uid)
        self._deflated = transfer_syntax_uid == DEFLATED
        self._encodings = encodings_of(character_set) if character_set else _ASCII
        self._said = said
        self._is_extended = bool(character_set)
        write_set = elements.writer(_SPECIFIC_CHARACTER_SET, "CS")
        self._ours, self._unicode = write_set(character_set), write_set(UNICODE)

    def identifier(self, write: Callable[[tuple[str, ...]], bytes]) -> bytes:
        """Return an identifier; ``write`` makes its other elements in the encodings given."""
        try:
            chosen, body = self._ours, write(self._encodings)
        except UnicodeEncodeError:
            chosen, body = self._unicode, write(_UTF8)
        # Nothing that can be asked for precedes (0008,0005).
        if self._said or chosen is self._unicode or (self._is_extended and _shows(body)):
            body = chosen + body
        return deflated(body) if self._deflated else body


def written(attributes: Attributes, transfer_syntax_uid: str, character_set: bytes) -> bytes:
    """Return a data set of well-formed attributes, its text as ``Repertoire`` has it."""
    repertoire = Repertoire(transfer_syntax_uid, character_set, said=False)
    return repertoire.identifier(partial(encode_attributes, attributes, repertoire.elements))


class Layout:
    """How the values of matches become identifiers.

    ``fields`` are those that differ from match to match, in the order of the values;
    ``constants`` are tag, VR and value of elements that are the same in all.
    """

    def __init__(
        self,
        repertoire: Repertoire,
        fields: Sequence[Field],
        constants: Sequence[tuple[int, str, bytes]],
    ) -> None:
        self._repertoire = repertoire
        self.elements = elements = repertoire.elements
        self._constants = tuple(elements.element(*constant) for constant in constants)
        parts = [(field.tag, _writer(elements, field), at) for at, field in enumerate(fields)]
        parts += [(tag, _as_it_is, at) for at, (tag, _, _) in enumerate(constants, len(parts))]
        self._parts = sorted(parts, key=itemgetter(0))

    def encode(self, row: Sequence[Any], further: Sequence[Further] = ()) -> bytes:
        """Return the identifier of the match whose values are ``row``."""
        return self._repertoire.identifier(partial(self._body, (*row, *self._constants), further))

    def _body(
        self, values: Sequence[Any], further: Sequence[Further], encodings: tuple[str, ...]
    ) -> bytes:
        if not further:
            return b"".join([write(values[at], encodings) for _, write, at in self._parts])
        parts = [(tag, write(values[at], encodings)) for tag, write, at in self._parts]
        parts += [(tag, write(encodings)) for tag, write in further]
        return b"".join(element for _, element in sorted(parts))


def _shows(body: bytes) -> bool:
    """Tell whether there may be text that needs its character set said."""
    return not body.isascii() or b"\x1b" in body


def _writer(elements: Elements, field: Field) -> Write:
    """Return what writes the values that the index has of ``field``."""
    vr = field.vr
    write = elements.writer(field.tag, vr)
    match vr:
        case "SQ":
            return _sequence_writer(elements, field)
        case "IS":
            return lambda value, encodings: write(b"" if value is None else b"%d" % value)
        case "US":
            return lambda value, encodings: write(b"" if value is None else elements.integer(value))
        case _ if vr in _TEXT_VRS:
            return lambda value, encodings: write(
                value.encode() if value.isascii() else encode_text(value, encodings, vr)
            )
        case _:
            return lambda value, encodings: write(value.encode("ascii", "replace"))


def _sequence_writer(elements: Elements, field: Field) -> Write:
    """Return what writes the JSON of a sequence's items (see ``index.entry``)."""

    def write(value: str, encodings: tuple[str, ...]) -> bytes:
        held: list[dict[str, str]] = json.loads(value) if value else []
        items = [
            b"".join(
                elements.element(tag, vr, encode_text(item.get(keyword, ""), encodings, vr))
                for keyword, tag, vr in field.item_keys
            )
            for item in held
        ]
        return elements.items(field.tag, items)

    return write


def _as_it_is(value: Any, encodings: tuple[str, ...]) -> bytes:
    element: bytes = value
    return element
