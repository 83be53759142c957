"""Brings what is spooled for one target there, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from dicomnode.audit.spool import Spool
from dicomnode.observe.logs import Logger
from dicomnode.observe.words import counted

_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0


class Target(Protocol):
    """Where messages go; used by one thread."""

    @property
    def batch(self) -> int:
        """How many messages it takes at once."""

    def deliver(self, messages: Sequence[bytes]) -> int:
        """Deliver; return how many can never be. Raises OSError: try again later."""

    def close(self) -> None:
        """Let go of whatever it holds."""


class Delivery:
    """Delivers to ``target``, trying again with growing pauses while that cannot be had.

    ``name`` is the target's in the spool, ``where`` what it is called in the log. ``lost`` is
    told how many messages it can never take.
    """

    def __init__(
        self,
        name: str,
        where: str,
        target: Target,
        spool: Spool,
        log: Logger,
        lost: Callable[[str, int], None],
    ) -> None:
        self.name = name
        self.where = where
        self.error = ""
        self._target = target
        self._spool = spool
        self._log = log
        self._lost = lost
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._pause = _FIRST_PAUSE_SECONDS
        # Delivered, but still in the spool, as that could not be written.
        self._unforgotten: list[tuple[int, bytes]] = []
        self._thread = threading.Thread(target=self._run, name=f"audit-{name}", daemon=True)

    def start(self) -> None:
        """Begin with what a former run has left."""
        self._thread.start()

    def wake(self) -> None:
        """Look into the spool: there is more in it."""
        self._wake.set()

    def stop(self, seconds: float) -> None:
        """Deliver what waits if it can be done at once, for ``seconds`` at most; the rest stays."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            # Cleared first: what is added while it is looked sets it again.
            self._wake.clear()
            more = self._deliver()
            if more:
                continue
            if self._stopping.is_set():
                break
            if self.error:
                self._stopping.wait(self._pause)
                self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._wake.wait()
        self._target.close()

    def _deliver(self) -> bool:
        """Deliver one batch; tell whether there may be another to be delivered now."""
        try:
            self._forget()
            batch = self._spool.oldest(self.name, self._target.batch)
            if not batch:
                self._succeeded()
                return False
            never = self._target.deliver([message for _, message in batch])
            self._unforgotten = batch
            if never:
                self._lost("too long", never)
            self._forget()
        except Exception as error:
            # Whatever it is: a thread that ends would leave the trail standing still unseen.
            self._failed(error)
            return False
        self._succeeded()
        return True

    def _forget(self) -> None:
        if self._unforgotten:
            self._spool.forget(self.name, self._unforgotten)
            self._unforgotten = []

    def _failed(self, error: Exception) -> None:
        words = str(error) or type(error).__name__
        # Once, not at every attempt; again when it fails in another way.
        if words != self.error and not self._stopping.is_set():
            waiting = self._spool.waiting(self.name)
            noun = counted(waiting.messages, "message waits", "messages wait")
            self._log.error(f"audit trail cannot be written to {self.where}, {noun}: {words}")
        self.error = words

    def _succeeded(self) -> None:
        self._pause = _FIRST_PAUSE_SECONDS
        if self.error:
            self.error = ""
            self._log.info(f"audit trail is written to {self.where} again")
