"""A queue on an index of its own, for the tests of the outbox."""

from __future__ import annotations

from pathlib import Path

from dicomnode.forward_settings import ForwardRule
from dicomnode.index.catalog import Catalog, InstanceEntry
from dicomnode.outbox.items import Item
from dicomnode.outbox.queue import Queue
from dicomnode.outbox.rules import Order, Rules
from dicomnode.registry import Registry
from tests.index.entries import entry, sqlite_url, waited


class Clock:
    """Seconds since 1970 UTC, as the test has them."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A queue, and objects that are entered with their rows."""

    def __init__(self, directory: Path, *tables: dict[str, object]) -> None:
        self.clock = Clock()
        self.catalog = Catalog(sqlite_url(directory), synchronous="OFF")
        self.catalog.open()
        self.registry = Registry()
        self.rules = Rules(
            [
                ForwardRule.model_validate({"name": f"rule {number}", "to": ("ARCHIVE",)} | table)
                for number, table in enumerate(tables or ({},))
            ],
            self.registry,
            strict=False,
        )
        self.told: list[Order] = []
        self.reopen()

    def reopen(self) -> None:
        """Open the queue as after a restart."""
        self.queue = Queue(self.catalog, self.clock)

    def enter(self, *entries: InstanceEntry, replace: bool = False) -> list[object]:
        """Enter objects with their rows; return the outcomes."""
        submit = self.catalog.replace if replace else self.catalog.add

        def entered(each: InstanceEntry) -> object:
            also = self.queue.attachment(each, self.rules.orders(each), self.told.extend)
            return waited(lambda done: submit(each, done, also=also))

        return [entered(each) for each in entries]

    def fill(self, count: int, **more: object) -> None:
        """Enter objects with the Instance Numbers 1 to ``count``."""
        self.enter(*(entry(number, **more) for number in range(1, count + 1)))  # type: ignore[arg-type]

    def take(self, destination: str = "ARCHIVE", limit: int = 100) -> list[Item]:
        return self.queue.take(destination, limit)

    def counts(self) -> dict[str, int]:
        """Return how many rows there are by destination and state."""
        return {
            f"{tally.destination} {tally.state.name}": tally.count for tally in self.queue.tallies()
        }

    def close(self) -> None:
        self.catalog.close()


def numbers(items: list[Item]) -> list[int]:
    """Return the last component of each SOP Instance UID."""
    return [int(item.sop_instance_uid.rpartition(".")[2]) for item in items]
