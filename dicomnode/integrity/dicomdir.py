"""The DICOMDIR of a file-set: the Basic Directory IOD (PS3.3 Annex F), as bytes of a file.

pydicom's ``FileSet`` writes every object anew into a place of its own and refuses those that lack
an attribute; here objects are described where they lie, whatever they lack.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from dicomnode.errors import ExportFailed
from dicomnode.integrity.directory_records import Described
from dicomnode.storage.encoding import EXPLICIT_VR_LITTLE_ENDIAN, Elements
from dicomnode.storage.json_model import Attributes, encode_attributes, encode_element
from dicomnode.storage.part10 import file_meta
from dicomnode.storage.text import encodings_of

_MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_FILE_SET_ID: Final = "DICOMNODE"
_ELEMENTS: Final = Elements(EXPLICIT_VR_LITTLE_ENDIAN)
_UTF_8: Final = encodings_of(b"ISO_IR 192")
_ITEM: Final = struct.Struct("<HHI")
_OFFSET: Final = struct.Struct("<I")
# In the elements of a record: where the next one of its level is, and the first one below it.
_NEXT_AT: Final = 8
_LOWER_AT: Final = 30
_MAX_BYTES: Final = 0xFFFF_FFFE
_MOST_OF_A_KIND: Final = 999_999

FileID = tuple[str, ...]


@dataclass(slots=True)
class _Record:
    """A record's elements, its offsets still zero, and the records below it."""

    elements: bytearray
    below: list[_Record] = field(default_factory=list)
    offset: int = 0

    def in_order(self) -> Iterator[_Record]:
        for each in self.below:
            yield each
            yield from each.in_order()


class Directory:
    """Gives each object its place in the file-set, and keeps its records."""

    def __init__(self) -> None:
        self._root = _Record(bytearray())
        # Patients, studies and series by what tells them apart.
        self._groups: dict[tuple[str, ...], _Record] = {}
        self._folders: dict[tuple[str, ...], FileID] = {}
        self._counts: dict[FileID, int] = {}

    def place(self, described: Described) -> FileID:
        """Return where an object goes: DICOM, ST000001, SE000001, IM000001 (PS3.10 §8.2).

        Raises ExportFailed when a level is full.
        """
        uids = described.study_instance_uid, described.series_instance_uid
        study = self._folder(uids[:1], ("DICOM",), "ST")
        series = self._folder(uids, study, "SE")
        return (*series, self._name(series, "IM"))

    def _folder(self, uids: tuple[str, ...], above: FileID, letters: str) -> FileID:
        if uids not in self._folders:
            self._folders[uids] = (*above, self._name(above, letters))
        return self._folders[uids]

    def _name(self, above: FileID, letters: str) -> str:
        count = self._counts[above] = self._counts.get(above, 0) + 1
        if count > _MOST_OF_A_KIND:
            raise ExportFailed(f"more than {_MOST_OF_A_KIND} in one folder: export less at once")
        return f"{letters}{count:06d}"

    def add(self, file_id: FileID, described: Described) -> None:
        """Enter an object that is at ``file_id``."""
        *groups, (own_type, own) = described.records
        above = self._root
        key: tuple[str, ...] = described.patient
        names = (described.study_instance_uid, described.series_instance_uid)
        for level, (record_type, attributes) in enumerate(groups):
            key = (*key, record_type, names[level - 1] if level else "")
            if key not in self._groups:
                self._groups[key] = _record(record_type, attributes)
                above.below.append(self._groups[key])
            above = self._groups[key]
        above.below.append(_record(own_type, own, _reference(own_type, file_id, described)))

    def encoded(self) -> Iterator[bytes]:
        """Yield the DICOMDIR file. Raises ExportFailed when it were too long."""
        head = file_meta(
            _MEDIA_STORAGE_DIRECTORY, f"2.25.{uuid.uuid4().int}", EXPLICIT_VR_LITTLE_ENDIAN
        )
        start = len(head) + len(_front(0, 0, 0))
        end = start
        for record in self._root.in_order():
            record.offset = end
            end += _ITEM.size + len(record.elements)
        if end > _MAX_BYTES:
            raise ExportFailed("the DICOMDIR would be too long: export less at once")
        _link(self._root)
        first = self._root.below[0].offset if self._root.below else 0
        last = self._root.below[-1].offset if self._root.below else 0
        yield head + _front(first, last, end - start)
        for record in self._root.in_order():
            yield _ITEM.pack(0xFFFE, 0xE000, len(record.elements)) + record.elements


def _front(first: int, last: int, length: int) -> bytes:
    """Return what precedes the records (PS3.3 Table F.3-2 and F.3-3)."""
    return b"".join(
        (
            _ELEMENTS.element(0x0004_1130, "CS", _FILE_SET_ID.encode()),
            _ELEMENTS.element(0x0004_1200, "UL", _OFFSET.pack(first)),
            _ELEMENTS.element(0x0004_1202, "UL", _OFFSET.pack(last)),
            _ELEMENTS.element(0x0004_1212, "US", b"\0\0"),
            b"\x04\x00\x20\x12SQ\0\0" + _OFFSET.pack(length),
        )
    )


def _link(above: _Record) -> None:
    for record, following in pairwise(above.below):
        _OFFSET.pack_into(record.elements, _NEXT_AT, following.offset)
    for record in above.below:
        if record.below:
            _OFFSET.pack_into(record.elements, _LOWER_AT, record.below[0].offset)
        _link(record)


def _record(record_type: str, attributes: Attributes, reference: Sequence[bytes] = ()) -> _Record:
    fixed = (
        _ELEMENTS.element(0x0004_1400, "UL", bytes(4)),
        _ELEMENTS.element(0x0004_1410, "US", b"\xff\xff"),
        _ELEMENTS.element(0x0004_1420, "UL", bytes(4)),
        _ELEMENTS.element(0x0004_1430, "CS", record_type.encode()),
    )
    keys = encode_attributes(attributes, _ELEMENTS, _UTF_8)
    if not keys.isascii():
        said = {"vr": "CS", "Value": ["ISO_IR 192"]}
        keys = encode_element(0x0008_0005, said, _ELEMENTS, _UTF_8) + keys
    return _Record(bytearray(b"".join((*fixed, *reference, keys))))


def _reference(record_type: str, file_id: FileID, described: Described) -> list[bytes]:
    """Return which file the record is of (PS3.3 Table F.3-3)."""
    values = [
        (0x0004_1500, "CS", "\\".join(file_id)),
        (0x0004_1510, "UI", described.sop_class_uid),
        (0x0004_1511, "UI", described.sop_instance_uid),
        (0x0004_1512, "UI", described.transfer_syntax_uid),
    ]
    if record_type == "PRIVATE":
        # Who knows the private SOP class knows the record.
        values.insert(0, (0x0004_1432, "UI", described.sop_class_uid))
    return [
        _ELEMENTS.element(tag, vr, value.encode("ascii", "replace")) for tag, vr, value in values
    ]
