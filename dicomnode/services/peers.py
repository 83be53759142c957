"""What has become of the traffic with each AE of the registry: for ``/api/peers``.

Nothing about patients, and bounded: titles that the registry does not have share one account, and
an account tells no more reasons apart than so many.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dicomnode.registry import Registry

_MOST_REASONS: Final = 20
_OTHER_REASONS: Final = "other reasons"


@dataclass(slots=True)
class _Failures:
    """How often something failed for one reason, and when last (seconds since the epoch)."""

    count: int = 0
    last_at: float = 0.0


@dataclass(slots=True)
class Account:
    """The traffic with one AE since the node started; times are seconds since the epoch."""

    last_seen: float | None = None
    last_address: str = ""
    last_success: float | None = None
    last_success_of: str = ""
    objects_in: int = 0
    bytes_in: int = 0
    objects_out: int = 0
    bytes_out: int = 0
    # Whether the AE could be had the last time it was called, and since when that is so.
    can_be_had: bool | None = None
    since: float | None = None
    why_not: str = ""
    failures: dict[str, _Failures] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "last_seen": self.last_seen,
            "last_address": self.last_address or None,
            "last_success": self.last_success,
            "last_success_of": self.last_success_of or None,
            "objects_in": self.objects_in,
            "bytes_in": self.bytes_in,
            "objects_out": self.objects_out,
            "bytes_out": self.bytes_out,
            "failures": [
                {"reason": reason, "count": each.count, "last": each.last_at}
                for reason, each in sorted(
                    self.failures.items(), key=lambda item: item[1].last_at, reverse=True
                )
            ],
            "outgoing": {
                "state": {None: "not called", True: "up", False: "down"}[self.can_be_had],
                "since": self.since,
                "why": self.why_not or None,
            },
        }


class Peers:
    """Keeps the accounts; called on the event loop. ``registry`` returns the one in force."""

    def __init__(
        self, registry: Callable[[], Registry], *, now: Callable[[], float] = time.time
    ) -> None:
        self._registry = registry
        self._now = now
        self._accounts: dict[str, Account] = {}
        self._others = Account()

    def _of(self, title: str) -> Account:
        ae = self._registry().lookup(title)
        return self._others if ae is None else self._accounts.setdefault(ae.title, Account())

    def seen(self, title: str, address: str) -> None:
        """An AE has called, or has answered our call."""
        account = self._of(title)
        account.last_seen, account.last_address = self._now(), address

    def succeeded(self, title: str, what: str) -> None:
        """Something was done with an AE."""
        account = self._of(title)
        account.last_success, account.last_success_of = self._now(), what

    def failed(self, title: str, reason: str) -> None:
        """Something was not done with an AE; ``reason`` is in words of ours."""
        failures = self._of(title).failures
        if reason not in failures and len(failures) >= _MOST_REASONS:
            reason = _OTHER_REASONS
        kept = failures.setdefault(reason, _Failures())
        kept.count += 1
        kept.last_at = self._now()

    def received(self, title: str, objects: int, count_bytes: int) -> None:
        """Objects have been stored here for an AE."""
        account = self._of(title)
        account.objects_in += objects
        account.bytes_in += count_bytes

    def sent(self, title: str, objects: int, count_bytes: int) -> None:
        """Objects have been taken by an AE."""
        account = self._of(title)
        account.objects_out += objects
        account.bytes_out += count_bytes

    def called(self, title: str, address: str) -> None:
        """An association that we asked an AE for has been made."""
        self.seen(title, address)
        self._had(self._of(title), True, "")

    def not_had(self, title: str, why: str, reason: str) -> None:
        """An association that we asked an AE for has not been made."""
        self.failed(title, reason)
        self._had(self._of(title), False, why)

    def _had(self, account: Account, can_be_had: bool, why_not: str) -> None:
        if account.can_be_had is not can_be_had:
            account.can_be_had, account.since = can_be_had, self._now()
        account.why_not = why_not

    def figures(self) -> dict[str, Any]:
        """Return the accounts of all AEs of the registry, and of all others together."""
        entries = self._registry().entries
        peers = [
            {"ae_title": ae.title, "host": ae.host, "port": ae.port if ae.host else None}
            | self._accounts.get(ae.title, Account()).as_json()
            for ae in entries
        ]
        return {"peers": peers, "others": self._others.as_json()}
