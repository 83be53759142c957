"""Identifiers of worklist responses (PS3.4 §K.4.1.1.3.2): exactly what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dicomnode.services.answers import Repertoire
from dicomnode.services.worklist_plan import Key
from dicomnode.storage.encoding import Elements
from dicomnode.storage.json_model import Attributes, encode_element, items_of


def written(keys: Sequence[Key], attributes: Attributes, repertoire: Repertoire) -> bytes:
    """Return the identifier that answers ``keys`` with an item's attributes."""
    return repertoire.identifier(partial(_elements, keys, attributes, repertoire.elements))


def _elements(
    keys: Sequence[Key], attributes: Attributes, elements: Elements, encodings: tuple[str, ...]
) -> bytes:
    """Return the elements asked for; those that the item does not have are empty."""
    return b"".join(_element(key, attributes, elements, encodings) for key in keys)


def _element(
    key: Key, attributes: Attributes, elements: Elements, encodings: tuple[str, ...]
) -> bytes:
    tag = int(key.key, 16)
    if not key.keys:
        held = attributes.get(key.key, {"vr": key.vr})
        return encode_element(tag, held, elements, encodings)
    return elements.items(
        tag, [_elements(key.keys, item, elements, encodings) for item in items_of(attributes, tag)]
    )
