"""What the queue hands out, and what it is told of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from dicomnode.index.catalog import InstanceRow
from dicomnode.index.records import OutboxState
from dicomnode.integrity.record import Happening


@dataclass(frozen=True, slots=True)
class Item:
    """One object for one destination; ``row`` is None when the archive no longer has it.

    ``operation`` is "" for an object, else that of the message of a performed step; then
    ``sop_instance_uid`` is the step's.
    """

    id: int
    rule: str
    priority: int
    attempts: int
    queued_at: float
    sop_instance_uid: str
    to_commit: bool
    meant_for: str
    operation: str
    row: InstanceRow | None

    @property
    def words(self) -> str:
        """Say what it is, at the beginning of a sentence in the log."""
        return f"an {self.operation or 'object'}"


@dataclass(frozen=True, slots=True)
class Failure:
    """An object that was not sent: why, and when it is tried again (None: it is set aside)."""

    item: Item
    words: str
    not_before: float | None


@dataclass(slots=True)
class Settlement:
    """What became of objects that were taken; ``deferred`` wait for a time, through no fault.

    ``happenings`` is what the custody log is told of it.
    """

    done: list[Item] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    deferred: list[tuple[Item, float]] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Down:
    """A destination that cannot be had; times are in seconds since 1970 UTC."""

    since: float
    failures: int
    not_before: float
    words: str


@dataclass(frozen=True, slots=True)
class Tally:
    """How many objects of a destination are in a state, since when the oldest is queued."""

    destination: str
    state: OutboxState
    count: int
    oldest: float
    last_error: str
