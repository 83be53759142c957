"""C-GET and C-MOVE SCP (PS3.4 §C.4.2, §C.4.3; PS3.7 §9.1.3, §9.1.4).

Each retrieval is a task of its own, so that C-CANCEL lands while it goes on; those of one
association follow one another, so that a peer holds a few objects in memory and not a few times
its window of operations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from weakref import WeakValueDictionary

from dicomnode.dimse.channel import DataSetSink, Requestor
from dicomnode.dimse.command import CGetRQ, CMoveRQ
from dicomnode.dimse.identifier import IdentifierSink
from dicomnode.dimse.status import Status
from dicomnode.errors import StatusError
from dicomnode.index.catalog import Catalog
from dicomnode.observe.logs import Logger
from dicomnode.registry import Registry
from dicomnode.scu.conversion import Converters
from dicomnode.services.auditing import Auditing
from dicomnode.services.custody import Custodian
from dicomnode.services.dispatch import Operation
from dicomnode.services.identifier import mismatch
from dicomnode.services.retrieval import Journal, Parts, Retrieval, Rules
from dicomnode.services.sop_classes import QUERY_RETRIEVE
from dicomnode.services.stored_objects import StoredObjects
from dicomnode.services.verified_reads import VerifiedReads
from dicomnode.storage.files import FileStore

__all__ = ["Retrieve", "Rules"]

_SERVED: Final = {CGetRQ: "get", CMoveRQ: "move"}
_THREADS: Final = 16


class Retrieve:
    """Performs C-GET and C-MOVE requests; ``registry`` returns the one in force."""

    def __init__(
        self,
        catalog: Catalog,
        files: FileStore,
        requestor: Requestor,
        registry: Callable[[], Registry],
        journal: Journal,
        log: Logger,
        rules: Rules,
        auditing: Auditing | None = None,
        custodian: Custodian | None = None,
        verified: VerifiedReads | None = None,
    ) -> None:
        # Two pools: long searches must not hold up retrievals that are under way.
        self._searching = ThreadPoolExecutor(_THREADS, "dicomnode-select")
        self._reading = ThreadPoolExecutor(_THREADS, "dicomnode-fetch")
        self._converters = Converters(files, rules.min_free_bytes)
        self._max_identifier_bytes = rules.bounds.max_identifier_bytes
        self._parts = Parts(
            catalog=catalog,
            requestor=requestor,
            registry=registry,
            journal=journal,
            log=log,
            rules=rules,
            auditing=auditing,
            custodian=custodian,
            objects=StoredObjects(files, self._converters, self._reading, verified, "retrieval"),
            searching=self._searching,
            reading=self._reading,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        # By association; a lock is kept by the retrievals that hold it or wait for it.
        self._turns: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def serves(self, sop_class_uid: str) -> bool:
        return sop_class_uid in QUERY_RETRIEVE

    def begin(self, operation: Operation) -> DataSetSink | None:
        request = operation.request
        assert isinstance(request, CGetRQ | CMoveRQ)
        if QUERY_RETRIEVE[request.affected_sop_class_uid][0] != _SERVED[type(request)]:
            raise StatusError(
                f"{request.service} is no operation of this SOP class",
                status=Status.UNRECOGNIZED_OPERATION,
            )
        if not request.has_data_set:
            raise mismatch(f"{request.service} without an identifier")
        retrieval = Retrieval(operation, request, self._parts)
        operation.on_cancel = retrieval.cancel

        def too_long() -> None:
            words = f"identifier exceeds limits.max_identifier_bytes ({limit})"
            operation.fail(StatusError(words, status=Status.OUT_OF_RESOURCES_FOR_MATCHES))

        limit = self._max_identifier_bytes
        number = operation.channel.number
        return IdentifierSink(limit, lambda data: self._start(retrieval, data, number), too_long)

    def _start(self, retrieval: Retrieval, data: bytes, number: int) -> None:
        turn = self._turns.setdefault(number, asyncio.Lock())
        task = asyncio.get_running_loop().create_task(retrieval.run(data, turn))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what goes on, and the threads and processes."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._converters.close()
        for pool in (self._searching, self._reading):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
