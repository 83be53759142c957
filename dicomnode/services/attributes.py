"""Attributes that only an object's file has, for queries at the IMAGE level.

They are read with pydicom, and written in the transfer syntax and character set of the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.multival import MultiValue

from dicomnode.errors import OutOfResources
from dicomnode.services.answers import Elements, Further
from dicomnode.storage.files import FileStore
from dicomnode.storage.text import encode_text

# Answers are for people to look at: longer values are left out of them.
_MAX_VALUE_BYTES: Final = 64 * 1024
_BULK_VRS: Final = ("OB", "OW", "OB or OW", "OD", "OF", "OL", "OV", "UN")
_TEXT_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_FIRST_PIXEL_GROUP: Final = 0x7FE0


def can_be_read(tag: int) -> bool:
    """Tell whether an attribute of an object can be asked back: standard, and no bulk data."""
    group = tag >> 16
    return (
        0x0008 <= group < _FIRST_PIXEL_GROUP
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
    try:
        with os.fdopen(files.open_object(path), "rb") as file:
            return dcmread(
                file,
                stop_before_pixels=True,
                specific_tags=list(tags),
                defer_size=_MAX_VALUE_BYTES,
            )
    except (OutOfResources, InvalidDicomError, OSError, ValueError, KeyError, EOFError):
        # The match stands whatever has become of its file; retrieval will tell.
        return Dataset()


def _element(data_set: Dataset, tag: int, elements: Elements) -> Callable[[tuple[str, ...]], bytes]:
    try:
        raw = data_set.get_item(tag, keep_deferred=True) if tag in data_set else None
        if raw is not None and not (isinstance(raw, RawDataElement) and raw.value is None):
            element = data_set[tag]
            _encoded(elements, element, ("utf8",))
            return partial(_encoded, elements, element)
    except (ValueError, KeyError, TypeError, NotImplementedError, OverflowError):
        pass  # a value that is none of its VR
    vr = dictionary_VR(tag).partition(" or ")[0]
    return lambda encodings: elements.element(tag, vr, b"")


def _encoded(elements: Elements, element: DataElement, encodings: tuple[str, ...]) -> bytes:
    vr, value = str(element.VR), element.value
    if vr == "SQ":
        return elements.items(
            element.tag,
            [b"".join(_encoded(elements, each, encodings) for each in item) for item in value],
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
