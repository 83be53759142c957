"""The archive as ``delete`` and ``retention`` reach it: through the running node, or itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from dicomnode.cli.asking import call
from dicomnode.cli.common import user_here
from dicomnode.cli.worklist_access import store_alone, why_no_node
from dicomnode.reload import read_configuration
from dicomnode.settings import Settings

if TYPE_CHECKING:
    from dicomnode.removal import Removal

# An index of millions of objects takes its time.
_PLAN_SECONDS: Final = 600.0
_LEAST_POLL_SECONDS: Final = 0.02
_MOST_POLL_SECONDS: Final = 0.5
_RUN_SECONDS: Final = 10.0

Shown = dict[str, Any]
Progress = Callable[[Shown], None]


class ArchiveAccess(Protocol):
    """What can be done; what cannot be done raises a DicomnodeError."""

    def plan(self, level: str, values: Sequence[str]) -> Shown: ...

    def order(self, level: str, values: Sequence[str], reason: str, mark: str) -> Shown: ...

    def finish(self, order: Shown, progress: Progress) -> Shown: ...

    def retention(self) -> Shown: ...

    def retention_plan(self, within_days: int) -> Shown: ...

    def retention_run(self) -> Shown: ...

    def trust_clock(self) -> None: ...


class ThroughNode:
    """Asks the running node over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def plan(self, level: str, values: Sequence[str]) -> Shown:
        """Return what would go."""
        body = {"level": level, "values": list(values), "dry_run": True}
        return self._call("POST", "/api/delete", body)

    def order(self, level: str, values: Sequence[str], reason: str, mark: str) -> Shown:
        """Order what was shown with this ``mark``."""
        said = {"reason": reason, "mark": mark, "asked_by": user_here(), "dry_run": False}
        return self._call("POST", "/api/delete", {"level": level, "values": list(values), **said})

    def finish(self, order: Shown, progress: Progress) -> Shown:
        """Wait until an order has been carried out; return how that went."""
        pause = _LEAST_POLL_SECONDS
        while not order["ended_at"]:
            time.sleep(pause)
            pause = min(2 * pause, _MOST_POLL_SECONDS)
            order = self._call("GET", f"/api/deletions/{order['id']}")
            progress(order)
        return order

    def retention(self) -> Shown:
        """Return how it stands with the rules."""
        return self._call("GET", "/api/retention")

    def retention_plan(self, within_days: int) -> Shown:
        """Return what is due now, and within so many days."""
        return self._call("GET", f"/api/retention/plan?within_days={within_days}")

    def retention_run(self) -> Shown:
        """Have the rules applied; return how it stands, though it may take longer than this."""
        before = self._call("GET", "/api/retention")["runs"]
        shown, deadline = self._call("POST", "/api/retention/run"), time.monotonic() + _RUN_SECONDS
        while shown["runs"] == before and time.monotonic() < deadline:
            time.sleep(_LEAST_POLL_SECONDS)
            shown = self.retention()
        return shown

    def trust_clock(self) -> None:
        """Say that the clock is right."""
        self._call("POST", "/api/retention/trust-clock")

    def _call(self, method: str, path: str, body: object = None) -> Shown:
        shown: Shown = call(self._settings, method, path, body, timeout_seconds=_PLAN_SECONDS)
        return shown


class InArchive:
    """Works on the archive of a node that does not run."""

    def __init__(self, removal: Removal) -> None:
        self._removal = removal

    def plan(self, level: str, values: Sequence[str]) -> Shown:
        """Return what would go."""
        deleting = self._removal.deleting
        return deleting.shown(deleting.plan(level, values))

    def order(self, level: str, values: Sequence[str], reason: str, mark: str) -> Shown:
        """Order what was shown with this ``mark``."""
        return asdict(self._removal.deleting.order(level, values, reason, user_here(), mark))

    def finish(self, order: Shown, progress: Progress) -> Shown:
        """Carry out what was ordered; return how that went."""
        deleting = self._removal.deleting
        deleting.carry_out(lambda each: progress(asdict(each)))
        done = deleting.get(order["id"])
        return asdict(done) if done is not None else order

    def retention(self) -> Shown:
        """Return how it stands with the rules."""
        return self._removal.retention.figures()

    def retention_plan(self, within_days: int) -> Shown:
        """Return what is due now, and within so many days."""
        return self._removal.retention.plan(within_days)

    def retention_run(self) -> Shown:
        """Apply the rules; return how it stands."""
        self._removal.retention.run()
        return self._removal.retention.figures()

    def trust_clock(self) -> None:
        """Say that the clock is right."""
        self._removal.retention.trust_clock()


@contextlib.contextmanager
def archive_of(config: Path | None) -> Iterator[ArchiveAccess]:
    """Lend the archive of the node that ``config`` is of, whether it runs or not."""
    configuration = read_configuration(config)
    settings = configuration.settings
    unavailable = why_no_node(settings)
    if unavailable is None:
        yield ThroughNode(settings)
        return
    # Here, since asking a node is quicker without SQLAlchemy.
    from dicomnode.offline import removal_offline

    with (
        store_alone(settings, unavailable) as files,
        removal_offline(configuration, files) as removal,
    ):
        yield InArchive(removal)
