"""What else is committed together with the row of an object or of a performed step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sqlalchemy.engine.interfaces import DBAPICursor


class Attachment(Protocol):
    """Changes of other tables that are made with the entry of something, or not at all."""

    def apply(self, cursor: DBAPICursor) -> None:
        """Make them, in the writer's thread and transaction."""

    def committed(self) -> None:
        """They are durable; called on the writer's thread."""


class ObjectAttachment(Attachment, Protocol):
    """Changes that go with the row of an object, when that is taken back too."""

    def undo(self, cursor: DBAPICursor) -> None:
        """Take them back with the entry, in a later transaction of the writer's thread."""


class Together:
    """Several attachments of one object as one; an ``ObjectAttachment``."""

    def __init__(self, *parts: ObjectAttachment) -> None:
        self._parts = parts

    @staticmethod
    def of(parts: Iterable[ObjectAttachment | None]) -> ObjectAttachment | None:
        """Return those that there are as one, None for none."""
        there = [part for part in parts if part is not None]
        return Together(*there) if len(there) > 1 else next(iter(there), None)

    def apply(self, cursor: DBAPICursor) -> None:
        for part in self._parts:
            part.apply(cursor)

    def committed(self) -> None:
        for part in self._parts:
            part.committed()

    def undo(self, cursor: DBAPICursor) -> None:
        for part in self._parts:
            part.undo(cursor)
