"""Identifiers of worklist responses (PS3.4 §K.4.1.1.3.2): exactly what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from dicomnode.services.answers import Repertoire
from dicomnode.services.worklist_plan import Key
from dicomnode.storage.encoding import Elements
from dicomnode.storage.json_model import TEXT_VRS, Attributes, encode_element, items_of, joined
from dicomnode.storage.text import encode_text

# Makes an element of an item's attributes, in the encodings given.
_Write = Callable[[Attributes, tuple[str, ...]], bytes]


def identifiers(keys: Sequence[Key], repertoire: Repertoire) -> Callable[[Attributes], bytes]:
    """Return what makes the identifier that answers ``keys`` of an item's attributes.

    What the item does not have is empty.
    """
    writers = _writers(keys, repertoire.elements)
    return lambda attributes: repertoire.identifier(partial(_elements, writers, attributes))


def _writers(keys: Sequence[Key], elements: Elements) -> tuple[_Write, ...]:
    return tuple(_writer(key, elements) for key in keys)


def _elements(
    writers: Sequence[_Write], attributes: Attributes, encodings: tuple[str, ...]
) -> bytes:
    return b"".join([write(attributes, encodings) for write in writers])


def _writer(key: Key, elements: Elements) -> _Write:
    if key.keys:
        return _sequence_writer(key, elements)
    return _text_writer(key, elements) if key.vr in TEXT_VRS else _element_writer(key, elements)


def _sequence_writer(key: Key, elements: Elements) -> _Write:
    tag, writers = int(key.key, 16), _writers(key.keys, elements)

    def write(attributes: Attributes, encodings: tuple[str, ...]) -> bytes:
        items = items_of(attributes, tag)
        return elements.items(tag, [_elements(writers, item, encodings) for item in items])

    return write


def _element_writer(key: Key, elements: Elements) -> _Write:
    tag, nothing = int(key.key, 16), {"vr": key.vr}

    def write(attributes: Attributes, encodings: tuple[str, ...]) -> bytes:
        return encode_element(tag, attributes.get(key.key, nothing), elements, encodings)

    return write


def _text_writer(key: Key, elements: Elements) -> _Write:
    """Return what writes text: most of an answer is that."""
    vr, write_value = key.vr, elements.writer(int(key.key, 16), key.vr)
    empty, otherwise = write_value(b""), _element_writer(key, elements)

    def write(attributes: Attributes, encodings: tuple[str, ...]) -> bytes:
        held = attributes.get(key.key)
        if held is None:
            return empty
        if held["vr"] != vr:
            return otherwise(attributes, encodings)
        return write_value(encode_text(joined(vr, held.get("Value", ())), encodings, vr))

    return write
