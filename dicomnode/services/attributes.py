"""Attributes that only an object's file has, for queries at the IMAGE level.

They are read with pydicom, and written in the transfer syntax and character set of the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Any, Final, cast

from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import (
    correct_ambiguous_vr,
    correct_ambiguous_vr_element,
    write_data_element,
)
from pydicom.multival import MultiValue

from dicomnode.services.answers import Further
from dicomnode.storage.encoding import Elements
from dicomnode.storage.files import FileStore
from dicomnode.storage.header import read_elements
from dicomnode.storage.part10 import read_file_meta
from dicomnode.storage.text import encode_text

_BULK_VRS: Final = ("OB", "OW", "OB or OW", "OD", "OF", "OL", "OV", "UN")
_TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_FIRST_PIXEL_GROUP: Final = 0x7FE0
_SPECIFIC_CHARACTER_SET: Final = 0x0008_0005
_PIXEL_REPRESENTATION: Final = 0x0028_0103


def can_be_read(tag: int) -> bool:
    """Tell whether an attribute of an object can be asked back: standard, and no bulk data."""
    group = tag >> 16
    return (
        tag > _SPECIFIC_CHARACTER_SET
        and group < _FIRST_PIXEL_GROUP
        and not group & 1
        and dictionary_has_tag(tag)
        and dictionary_VR(tag) not in _BULK_VRS
    )


def read_attributes(
    files: FileStore, path: str, tags: Sequence[int], elements: Elements
) -> list[Further]:
    """Return ``tags`` of a stored object; without a value where it has none or cannot be read."""
    data_set = _read(files, path, tags)
    return [(tag, _element(data_set, tag, elements)) for tag in tags]


def _read(files: FileStore, path: str, tags: Sequence[int]) -> Dataset:
    """Return the data set of ``tags`` alone, bounded whatever the file has beside them."""
    wanted = {*tags, _SPECIFIC_CHARACTER_SET, _PIXEL_REPRESENTATION}
    try:
        with os.fdopen(files.open_object(path), "rb") as file:
            meta = read_file_meta(file.fileno())
            size = os.fstat(file.fileno()).st_size - meta.data_set_offset
            data, explicit, little_endian = read_elements(
                file.fileno(),
                meta.data_set_offset,
                size,
                meta.transfer_syntax_uid,
                wanted,
                max(wanted),
            )
        return read_dataset(BytesIO(data), not explicit, little_endian)
    except Exception:
        # The match stands whatever has become of its file; retrieval will tell.
        return Dataset()


def _element(data_set: Dataset, tag: int, elements: Elements) -> Callable[[tuple[str, ...]], bytes]:
    vr = dictionary_VR(tag).partition(" or ")[0]
    # Values that are none of their VR, or sequences nested without end, are left out.
    with suppress(Exception):
        if tag in data_set:
            element = data_set[tag]
            little_endian = data_set.original_encoding[1] is not False
            if element.VR == "SQ":
                for item in element.value:
                    correct_ambiguous_vr(item, little_endian, [data_set])
            elif " or " in element.VR:
                corrected = correct_ambiguous_vr_element(element, data_set, little_endian)
                element = cast(DataElement, corrected)
            _encoded(elements, element, ("utf8",))
            return partial(_encoded, elements, element)
    return lambda encodings: elements.element(tag, vr, b"")


def _encoded(elements: Elements, element: DataElement, encodings: tuple[str, ...]) -> bytes:
    vr, value = str(element.VR), element.value
    if vr == "SQ":
        return elements.items(
            element.tag,
            [
                b"".join(
                    _encoded(elements, each, encodings)
                    for each in item
                    # Its text is in the character set of the answer, too.
                    if each.tag != _SPECIFIC_CHARACTER_SET
                )
                for item in value
            ],
        )
    if vr in _TEXT_VRS:
        return elements.element(element.tag, vr, encode_text(_text(value), encodings, vr))
    buffer = DicomBytesIO()
    buffer.is_little_endian = elements.order == "<"
    buffer.is_implicit_VR = not elements.explicit
    write_data_element(buffer, element)
    return buffer.getvalue()


def _text(value: Any) -> str:
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
