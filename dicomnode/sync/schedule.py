"""When a rule's next run begins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta

from dicomnode.forward_settings import Window


@dataclass(frozen=True, slots=True)
class Schedule:
    """So often, or at a time of day, or each time that the window opens; within the window."""

    every_seconds: float | None
    at: time | None
    window: Window | None

    def next_run(self, started_at: float, since: float, now: float) -> float:
        """Return when a run begins after the one that began at ``started_at``, 0 for none.

        ``since`` is when the node started. Times are in seconds since 1970 UTC.
        """
        # A clock that was set back puts nothing off.
        started_at = min(started_at, now)
        if self.every_seconds is not None:
            return started_at + self.every_seconds if started_at else now
        at = self.at
        if at is None:
            if self.window is None or not started_at:
                return now
            at = self.window.opens
        after = datetime.fromtimestamp(started_at or since)
        due = after.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)
        return (due if due > after else due + timedelta(days=1)).timestamp()

    def is_open(self, now: float) -> bool:
        """Tell whether a run may go on."""
        return self.window is None or self.window.is_open(datetime.fromtimestamp(now))

    def opening(self, due: float) -> float:
        """Return ``due``, or when the window opens after it."""
        at = datetime.fromtimestamp(due)
        if self.window is None or self.window.is_open(at):
            return due
        return self.window.opening(at).timestamp()
