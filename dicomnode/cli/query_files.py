"""Query files, as findscu takes them: data sets whose attributes are the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dicomnode.errors import CannotUnderstand, Unreadable, UnreadableAttributes
from dicomnode.scu.keys import Keys
from dicomnode.storage.encoding import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicomnode.storage.json_model import decode_attributes
from dicomnode.storage.part10 import is_part10, parse_file_meta

# More than any query has.
_MAX_BYTES: Final = 1024 * 1024


def read_query(path: Path) -> Keys:
    """Return the keys of a query file. Raises Unreadable, OSError."""
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise Unreadable(f"{path}: longer than a query is, {_MAX_BYTES} bytes")
    try:
        if is_part10(data):
            meta = parse_file_meta(data)
            data, syntax = data[meta.data_set_offset :], meta.transfer_syntax_uid
        else:
            explicit = data[4:6].isalpha() and data[4:6].isupper()
            syntax = EXPLICIT_VR_LITTLE_ENDIAN if explicit else IMPLICIT_VR_LITTLE_ENDIAN
        query = Keys()
        query.merge(decode_attributes(data, syntax))
    except (CannotUnderstand, UnreadableAttributes) as error:
        raise Unreadable(f"{path}: {error}") from None
    return query
