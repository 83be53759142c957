"""Reads worklist files: DICOM with or without File Meta, and the DICOM JSON model."""

from __future__ import annotations

import json
from typing import Final

from dicomnode.errors import CannotUnderstand, UnreadableAttributes
from dicomnode.index.worklist import NewItem
from dicomnode.services.worklist_items import Source, Unfit, UnfitItem, data_sets_of, new_items
from dicomnode.storage.encoding import IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.storage.json_model import Attributes, decode_attributes
from dicomnode.storage.part10 import is_part10, parse_file_meta

_JSON: Final = ".json"

SUFFIXES: Final = (".wl", _JSON)
"""The endings of the names of worklist files, in lower case."""


def items_of_file(name: str, data: bytes, source: Source) -> list[NewItem]:
    """Return the items of a file's content. Raises UnfitItem."""
    return new_items(data_sets_of_file(name, data), source)


def data_sets_of_file(name: str, data: bytes) -> list[Attributes]:
    """Return the data sets of a file's content; its name tells its format. Raises UnfitItem."""
    return (_json if name.lower().endswith(_JSON) else _dicom)(data)


def _dicom(data: bytes) -> list[Attributes]:
    if not data:
        raise UnfitItem(Unfit.UNREADABLE, "is empty")
    try:
        if not is_part10(data):
            # As other servers do: a data set without File Meta, whichever way it is encoded.
            return [decode_attributes(data, IMPLICIT_VR_LITTLE_ENDIAN)]
        meta = parse_file_meta(data)
        return [decode_attributes(data[meta.data_set_offset :], meta.transfer_syntax_uid)]
    except (CannotUnderstand, UnreadableAttributes) as error:
        is_dicom = "" if is_part10(data) else "is no DICOM file, nor a data set: "
        raise UnfitItem(Unfit.UNREADABLE, f"{is_dicom}{error}") from None


def _json(data: bytes) -> list[Attributes]:
    try:
        value = json.loads(data)
    except RecursionError:
        raise UnfitItem(Unfit.UNREADABLE, "is JSON that is nested too deeply") from None
    except ValueError as error:
        raise UnfitItem(Unfit.UNREADABLE, f"is no JSON: {error}") from None
    return data_sets_of(value)
