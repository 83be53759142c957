"""Generated messages of every kind, their classes, and pydicom's form of them."""

from __future__ import annotations

import string
from dataclasses import fields
from typing import Any

from hypothesis import strategies as st
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from dicomnode.dimse import command as command_module
from dicomnode.dimse.command import Command, CommandField
from dicomnode.dimse.elements import ELEMENTS, Kind

MESSAGES: list[type[Any]] = sorted(
    (
        kind
        for kind in vars(command_module).values()
        if isinstance(kind, type)
        and issubclass(kind, Command)
        and isinstance(getattr(kind, "command_field", None), CommandField)
    ),
    key=lambda kind: int(kind.command_field),
)

_PRINTABLE = string.ascii_letters + string.digits + " .,:;-_/()[]^=+*?!#%&"


def _text(maximum: int) -> st.SearchStrategy[str]:
    return st.text(_PRINTABLE, min_size=1, max_size=maximum).map(str.strip).filter(bool)


_VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.UI: st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,8})){1,6}", fullmatch=True),
    Kind.AE: _text(16),
    Kind.LO: _text(64),
    Kind.US: st.integers(0, 0xFFFF),
    Kind.AT: st.lists(st.integers(0, 0xFFFFFFFF), max_size=4).map(tuple),
    Kind.COUNTER: st.integers(0, 0xFFFF),
    Kind.DATA_SET_TYPE: st.booleans(),
}


def messages_of(message: type[Any]) -> st.SearchStrategy[Any]:
    """Messages of one class, with and without its optional fields."""
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields(message):
        is_optional = field.default is None or field.default == ()
        (optional if is_optional else required)[field.name] = _VALUES[ELEMENTS[field.name].kind]
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: message(**given))


def messages() -> st.SearchStrategy[Any]:
    """Messages of every class."""
    return st.one_of([messages_of(message) for message in MESSAGES])


def keyword(name: str) -> str:
    """pydicom's keyword of one of our fields."""
    return keyword_for_tag(ELEMENTS[name].number)


def as_dataset(message: Any) -> Dataset:
    """The command set as pydicom holds it, with a group length of zero."""
    dataset = Dataset()
    dataset.CommandGroupLength = 0
    dataset.CommandField = int(message.command_field)
    dataset.CommandDataSetType = 0x0001 if message.has_data_set else 0x0101
    for field in fields(message):
        value = getattr(message, field.name)
        if field.name != "has_data_set" and value is not None and value != ():
            setattr(dataset, keyword(field.name), list(value) if type(value) is tuple else value)
    return dataset
