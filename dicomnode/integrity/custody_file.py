"""``CUSTODY.JSON``: the custody records of everything in an export, a record a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from dicomnode.integrity import canonical
from dicomnode.integrity.findings import Differs, Kind
from dicomnode.integrity.record import CustodyRecord
from dicomnode.integrity.sidecar import check_records

ZIP: Final = "zip"
DIRECTORY: Final = "directory"

_MAX_LINE_BYTES: Final = 1024 * 1024
_END: Final = b"]}\n"


class _Lines(Protocol):
    def read(self, size: int, /) -> bytes: ...
    def readline(self, size: int, /) -> bytes: ...


def encode(container: str, at: str, records: Iterable[CustodyRecord]) -> Iterator[bytes]:
    """Yield the file, one JSON object; ``container`` is how the export was written."""
    yield _head(container, at)
    separator = b"\n"
    for record in records:
        yield separator + canonical.encode(record.to_json())
        separator = b",\n"
    yield b"\n" + _END


def _head(container: str, at: str) -> bytes:
    said = canonical.encode({"container": container, "dicomnode_custody": 1, "exported_at": at})
    return said[:-1] + b',"records":['


def parse(file: _Lines) -> tuple[str, int]:
    """Check a file of unknown origin; return how it was exported, and how many records it has.

    Raises Differs where it is not as it was written.
    """
    container = _container(_line(file))
    counted = _Counted(file)
    check_records(counted.records())
    if file.read(1):
        raise _wrong("something follows its end")
    return container, counted.count


class _Counted:
    """The records of a file, counted as they are read."""

    def __init__(self, file: _Lines) -> None:
        self._file = file
        self.count = 0

    def records(self) -> Iterator[CustodyRecord]:
        is_last = True
        while (line := _line(self._file)) != _END[:-1]:
            if self.count and is_last:
                raise _wrong("it does not end as it was written")
            is_last = not line.endswith(b",")
            self.count += 1
            yield _record(line if is_last else line[:-1])
        if not is_last:
            raise _wrong("it does not end as it was written")


def _line(file: _Lines) -> bytes:
    line = file.readline(_MAX_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise _wrong("it is cut short, or has a line that is too long")
    return line[:-1]


def _container(head: bytes) -> str:
    try:
        value = canonical.decode(head.removesuffix(b',"records":[') + b"}")
        container, at = value["container"], value["exported_at"]
    except (ValueError, TypeError, KeyError):
        raise _wrong("it does not begin as it was written") from None
    if container not in (ZIP, DIRECTORY) or _head(container, at) != head:
        raise _wrong("it does not begin as it was written")
    return str(container)


def _record(line: bytes) -> CustodyRecord:
    try:
        return CustodyRecord.from_json(canonical.decode(line))
    except ValueError as error:
        raise _wrong(f"a custody record cannot be read: {error}") from None


def _wrong(words: str) -> Differs:
    return Differs(Kind.SNAPSHOT, words)
