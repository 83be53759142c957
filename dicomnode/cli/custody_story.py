"""How custody records read: a table of what happened, when, and who had a part in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.table import Table

from dicomnode.cli.terminal import plain
from dicomnode.index.custody import Kind
from dicomnode.integrity.record import CustodyRecord, Event
from dicomnode.observe.words import counted, size

# What is said beside the table, or of no interest there; --json has it.
_UNSAID = frozenset(
    {
        "data_set_bytes",
        "file_bytes",
        "file_sha256",
        "sha256",
        "series_instance_uid",
        "transfer_syntax_uid",
        "replaced_sha256",
        "replaced_file_sha256",
        "recorded_sha256",
        "recorded_file_sha256",
        "found_sha256",
        "found_file_sha256",
        "told_over",
    }
)
_WORDS = {
    Event.RECEIVED: "received",
    Event.RECEIVED_AGAIN: "received again, the same bytes",
    Event.REPLACED: "replaced by other bytes",
    Event.QUARANTINED: "put into the quarantine",
    Event.ENTERED: "indexed from its file,",
    Event.FORWARDED: "forwarded",
    Event.RETRIEVED: "handed out",
    Event.COMMITTED: "storage committed",
    Event.EXPORTED: "exported",
    Event.VERIFIED: "verified",
    Event.DAMAGED: "file DAMAGED,",
    Event.MISSING: "file MISSING,",
    Event.UNREADABLE: "file UNREADABLE,",
    Event.WHOLE_AGAIN: "file whole again",
    Event.DELETED: "deleted",
}
# Details in the order in which they are said, with words around them; others follow by name.
_PHRASES = {
    "service": " by {}",
    "calling_ae_title": " from {}",
    "fetched_from": " from {}, which this node had asked for it",
    "source_ae_title": " first received from {}",
    "by": " by {}",
    "to": " to {}",
    "address": " at {}",
    "association": " on association {}",
    "user": " as user {}",
    "asked_by": ", asked by {}",
    "asked_from": " at {}",
    "asked_on": " on association {}",
    "rule": " by rule {}",
    "found_by": " found by {}",
    "words": ": {}",
    "against": " against {}",
    "compared": " {}",
    "transaction_uid": ", transaction {}",
    "converted_to": ", converted to {}",
    "status": ", which answered {}H",
    "reason": ": {}",
    "mended": ": {}",
    "kept": ", kept as {}",
}


def story(kind: Kind, uid: str, records: Sequence[CustodyRecord]) -> Iterator[RenderableType]:
    """Yield what is shown of records; those of several objects that read alike are one row."""
    objects = len({record.sop_instance_uid for record in records} - {""})
    what = counted(objects, "object", "objects")
    of = "" if kind is Kind.INSTANCE else f" of {what}"
    yield plain(f"{kind.value} {uid}: {counted(len(records), 'record', 'records')}{of}")
    table = Table("when", "objects", "what happened", "records")
    table.columns[1].justify = "right"
    table.columns[2].overflow = table.columns[3].overflow = "fold"
    if kind is Kind.INSTANCE:
        rows = [_Row(record) for record in records]
    else:
        rows = list(_gathered(records))
    for row in rows:
        table.add_row(*map(plain, (row.when, row.count, row.words, row.records)))
    yield table
    if kind is Kind.INSTANCE:
        yield from _contents(records)


class _Row:
    """Records that read alike, in the order of the chain."""

    def __init__(self, first: CustodyRecord) -> None:
        self.words = sentence(first)
        self._first = self._last = first
        self.count = 1

    def add(self, record: CustodyRecord) -> None:
        self._last = record
        self.count += 1

    @property
    def when(self) -> str:
        first, last = _local(self._first.at), _local(self._last.at)
        if first == last:
            return first
        return f"{first} to {last[11:] if first[:10] == last[:10] else last}"

    @property
    def records(self) -> str:
        first, last = self._first.sequence, self._last.sequence
        return str(first) if first == last else f"{first} to {last}"


def _gathered(records: Sequence[CustodyRecord]) -> Iterator[_Row]:
    rows: dict[str, _Row] = {}
    for record in records:
        words = sentence(record)
        if words in rows:
            rows[words].add(record)
        else:
            rows[words] = _Row(record)
    yield from rows.values()


def sentence(record: CustodyRecord) -> str:
    """Say what a record tells."""
    details = dict(record.details)
    said = [_WORDS[record.event]]
    said += [_PHRASES[name].format(details.pop(name)) for name in _PHRASES if name in details]
    rest = [f"{name.replace('_', ' ')} {details[name]}" for name in details if name not in _UNSAID]
    return ", ".join(["".join(said), *rest])


def _contents(records: Sequence[CustodyRecord]) -> Iterator[RenderableType]:
    """Say which bytes the object has, by the last record that tells."""
    for record in reversed(records):
        if record.event in (Event.RECEIVED, Event.REPLACED, Event.ENTERED):
            told = record.details
            yield plain(f"study {record.study_instance_uid}")
            yield plain(f"series {told.get('series_instance_uid', '')}")
            length = told.get("file_bytes", "?")
            length = size(length) if isinstance(length, int) else length
            yield plain(f"file SHA-256 {told.get('file_sha256', '?')}, {length}")
            yield plain(f"data set SHA-256 {told.get('sha256')}")
            return


def _local(at: str) -> str:
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
