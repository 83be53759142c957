"""What else is committed together with the row of an object or of a performed step."""

from __future__ import annotations

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
