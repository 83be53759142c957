"""A peer that does nothing wrong, all the while that others do: nothing may go wrong for it."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from tests.faults.scu import Image, associated, store
from tests.peers import Address
from tests.query_wire import (
    PATIENT_NAME,
    QUERY_RETRIEVE_LEVEL,
    STUDY_INSTANCE_UID,
    QueryWire,
    querying,
    values,
)
from tests.wire import CT_IMAGE_STORAGE, RELEASE_RP

_STUDY = 99
_HELD = tuple(Image(number, study=_STUDY) for number in (1, 2, 3))
_NEW_OBJECTS = 50
_ROUNDS_OF_AN_ASSOCIATION = 20
_PAUSE_SECONDS = 0.02


class Neighbour:
    """Echoes, stores, queries and retrieves until the block ends, which then raises what failed.

    ``operations`` is how many succeeded, ``longest_seconds`` what the slowest of them took.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._done = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="neighbour", daemon=True)
        self.operations = 0
        self.longest_seconds = 0.0

    def __enter__(self) -> Neighbour:
        assert store(self._address, *_HELD, calling="GOOD") == [0] * len(_HELD)
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join(60)
        if exception is None:
            self.check()

    def check(self, where: str = "") -> None:
        """Raise what failed; ``where`` tells what was going on beside it."""
        if self._failure is not None:
            words = f"the well-behaved peer was not served: {self._failure!r} {where}"
            raise AssertionError(words) from self._failure

    def _run(self) -> None:
        try:
            while not self._done.is_set():
                with querying(self._address, calling="GOOD") as wire:
                    for _ in range(_ROUNDS_OF_AN_ASSOCIATION):
                        self._query(wire)
                        self._store()
                        if self._done.wait(_PAUSE_SECONDS):
                            break
                    assert wire.release() == RELEASE_RP
        except BaseException as failure:  # the test's own thread raises it
            self._failure = failure

    def _query(self, wire: QueryWire) -> None:
        keys = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: _HELD[0].study_uid}
        self._done_at(time.monotonic(), wire.echo() == 0)
        began = time.monotonic()
        found = wire.find(keys | {PATIENT_NAME: ""})
        names = [values(each)[PATIENT_NAME].strip() for each in found.identifiers]
        self._done_at(began, found.status == 0 and names == [_HELD[0].patient_name.encode()])
        began = time.monotonic()
        got = wire.get(keys)
        held = {image.uid for image in _HELD}
        self._done_at(began, got.status == 0 and held <= got.stored.keys())

    def _store(self) -> None:
        began = time.monotonic()
        image = Image(self.operations % _NEW_OBJECTS, study=_STUDY + 1)
        with associated(self._address, "GOOD") as wire:
            status = wire.store(CT_IMAGE_STORAGE, image.uid, image.data_set)
            self._done_at(began, status == 0)
            assert wire.release() == RELEASE_RP

    def _done_at(self, began: float, succeeded: bool) -> None:
        assert succeeded
        self.operations += 1
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
