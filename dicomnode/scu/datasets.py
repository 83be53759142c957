"""pydicom Datasets to bytes and back, for the small data sets of queries and the like."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from dicomnode.errors import Unreadable
from dicomnode.scu.answers import Encoded
from dicomnode.storage.encoding import (
    DEFLATED,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT,
    deflated,
)
from dicomnode.storage.header import read_identifier

# What a deflated data set may become: what a peer sends is small, what it inflates to may not be.
_MAX_INFLATED_BYTES: Final = 64 * 1024 * 1024

# Attributes by keyword or tag.
Attributes = Dataset | Mapping[Any, Any]


def encode(attributes: Attributes, transfer_syntax_uid: str) -> bytes:
    """Write a data set; raises ValueError for what cannot be written."""
    data_set = attributes if isinstance(attributes, Dataset) else data_set_of(attributes)
    output = DicomBytesIO()
    output.is_implicit_VR = transfer_syntax_uid in IMPLICIT
    output.is_little_endian = transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    try:
        write_dataset(output, data_set)
    except Exception as error:  # pydicom raises all kinds for values that do not fit
        raise ValueError(f"the data set cannot be written: {error}") from error
    data: bytes = output.getvalue()
    return deflated(data) if transfer_syntax_uid == DEFLATED else data


def data_set_of(attributes: Mapping[Any, Any]) -> Dataset:
    """Make a Dataset of keywords or tags and values; raises ValueError for what is neither.

    Where the values need one and name none, its character set is UTF-8.
    """
    data_set = Dataset()
    for name, value in attributes.items():
        try:
            _set(data_set, name, value)
        except Exception as error:  # pydicom raises all kinds for values that do not fit
            raise ValueError(f"{name!r} cannot be {value!r}: {error}") from error
    if "SpecificCharacterSet" not in data_set and not str(attributes).isascii():
        data_set.SpecificCharacterSet = "ISO_IR 192"
    return data_set


def _set(data_set: Dataset, name: Any, value: Any) -> None:
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(name) if isinstance(name, str) else name
    if tag is None:
        raise ValueError("no attribute of PS3.6 has this keyword")
    data_set.add_new(tag, dictionary_VR(tag), value)


def decode(encoded: Encoded) -> Dataset:
    """Read a data set; values are decoded when they are looked at. Raises Unreadable."""
    data, syntax = encoded.data, encoded.transfer_syntax_uid
    try:
        # pydicom takes what is cut short for whole.
        read_identifier(data, syntax, _MAX_INFLATED_BYTES)
        if syntax == DEFLATED:
            data = _inflated(data)
        return read_dataset(BytesIO(data), syntax in IMPLICIT, syntax != EXPLICIT_VR_BIG_ENDIAN)
    except Exception as error:  # pydicom raises all kinds for what is no data set
        kind = type(error).__name__
        raise Unreadable(f"the peer's data set cannot be read ({kind}: {error})") from error


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    return inflater.decompress(data, _MAX_INFLATED_BYTES)
