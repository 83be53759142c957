"""How much each AE may store: objects and bytes an hour, and bytes held.

Hours are counted in memory, from the first object on; a restart begins them anew. What is held is
what the index says, plus what is on its way. Objects are counted on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from dicomnode.dimse.channel import DataSetSink, Lease
from dicomnode.errors import OutOfResources, StatusError
from dicomnode.registry import AE, Registry

_HOUR_SECONDS: Final = 3600.0


class Held(Protocol):
    """Knows what is held of whom."""

    def held(self, title: str) -> int | None:
        """Return the bytes held of an AE; None while they are not known."""

    def follow_sources(self, titles: Iterable[str], folded: Callable[[str], str]) -> None:
        """Know them of ``titles`` from now on; blocks. Raises CatalogError."""


@dataclass(slots=True)
class _Account:
    """What an AE has used; ``began_at`` is when its hour began, monotonic, in seconds."""

    began_at: float
    objects: int = 0
    received_bytes: int = 0
    arriving_bytes: int = 0


class Quotas:
    """The quotas of the registry, which ``registry`` returns; ``now`` is monotonic, in seconds."""

    def __init__(
        self,
        registry: Callable[[], Registry],
        held: Held,
        *,
        strict_ae_titles: bool,
        now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._strict = strict_ae_titles
        self._held = held
        self._now = now
        # By the title as the registry spells it: there are no more than it has ever held.
        self._accounts: dict[str, _Account] = {}

    def follow(self) -> None:
        """Find out what is held of AEs that the registry bounds anew; blocks.

        Raises CatalogError: what is held of these AEs is not bounded then.
        """
        folded: Callable[[str], str] = str if self._strict else str.casefold
        self._held.follow_sources(self._bounded(), folded)

    def stored(self) -> dict[str, int]:
        """Return the bytes held of each AE with max_stored_bytes."""
        return {title: self._held.held(title) or 0 for title in self._bounded()}

    def _bounded(self) -> list[str]:
        return [ae.title for ae in self._registry().entries if ae.max_stored_bytes]

    def begin(self, calling_ae_title: str) -> Allowance | None:
        """Count an object in; None for an AE without quotas. Raises OutOfResources."""
        ae = self._registry().lookup(calling_ae_title, self._strict)
        if ae is None or not has_quota(ae):
            return None
        account = self._account(ae)
        allowance = Allowance(self, ae, account)
        if ae.max_objects_per_hour and account.objects >= ae.max_objects_per_hour:
            raise self._spent(ae, "max_objects_per_hour", account)
        if (error := allowance.exceeded()) is not None:
            raise error
        account.objects += 1
        return allowance

    def exceeded(self, ae: AE, account: _Account) -> StatusError | None:
        """Return what refuses further bytes of ``ae``, if anything does."""
        if ae.max_bytes_per_hour and account.received_bytes >= ae.max_bytes_per_hour:
            return self._spent(ae, "max_bytes_per_hour", account)
        if ae.max_stored_bytes:
            held = (self._held.held(ae.title) or 0) + account.arriving_bytes
            if held >= ae.max_stored_bytes:
                return _error(
                    ae,
                    "max_stored_bytes",
                    f"Raise max_stored_bytes of {ae.title} in ae.toml, then send SIGHUP to the"
                    " node, or remove objects that it has sent.",
                )
        return None

    def _account(self, ae: AE) -> _Account:
        now = self._now()
        account = self._accounts.get(ae.title)
        if account is None:
            account = self._accounts[ae.title] = _Account(now)
        if now - account.began_at >= _HOUR_SECONDS:
            account.began_at = now
            account.objects = account.received_bytes = 0
        return account

    def _spent(self, ae: AE, key: str, account: _Account) -> StatusError:
        minutes = max(0.0, account.began_at + _HOUR_SECONDS - self._now()) / 60
        return _error(
            ae,
            key,
            f"Raise {key} of {ae.title} in ae.toml, then send SIGHUP to the node; without that it"
            f" may store again in {minutes:.0f} min.",
        )


class Allowance:
    """What one object may still take; ``end`` has to be called once its fate is known."""

    __slots__ = ("_account", "_ae", "_bytes", "_quotas")

    def __init__(self, quotas: Quotas, ae: AE, account: _Account) -> None:
        self._quotas = quotas
        self._ae = ae
        self._account = account
        self._bytes = 0

    def exceeded(self) -> StatusError | None:
        """Return what refuses the next byte, if anything does."""
        return self._quotas.exceeded(self._ae, self._account)

    def take(self, size_bytes: int) -> StatusError | None:
        """Count bytes that have arrived, or return what refuses them."""
        if (error := self.exceeded()) is not None:
            return error
        self._bytes += size_bytes
        self._account.received_bytes += size_bytes
        self._account.arriving_bytes += size_bytes
        return None

    def end(self) -> None:
        """The object is held, and counted there, or it is gone; may be called again."""
        self._account.arriving_bytes -= self._bytes
        self._bytes = 0


class Metered:
    """The sink of an object that counts against a quota: gives it up where that is exceeded."""

    def __init__(
        self, sink: DataSetSink, allowance: Allowance, fail: Callable[[StatusError], None]
    ) -> None:
        self._sink: DataSetSink | None = sink
        self._allowance = allowance
        self._fail = fail

    def write(self, fragment: memoryview, lease: Lease) -> None:
        if self._sink is None:
            return
        if (error := self._allowance.take(len(fragment))) is None:
            self._sink.write(fragment, lease)
            return
        self.abandon(error.comment)
        self._fail(error)

    def finish(self) -> None:
        if self._sink is not None:
            self._sink.finish()

    def abandon(self, why: str) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            self._allowance.end()
            sink.abandon(why)


def has_quota(ae: AE) -> bool:
    """Tell whether what ``ae`` stores is counted."""
    return bool(ae.max_objects_per_hour or ae.max_bytes_per_hour or ae.max_stored_bytes)


def _error(ae: AE, key: str, advice: str) -> StatusError:
    limit = getattr(ae, key)
    return OutOfResources(f"quota of {ae.title}: {key} is {limit}", rule=key, advice=advice)
