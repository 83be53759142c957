"""How messages of storage commitment come in, requests and reports alike (PS3.4 Annex J)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from dicomnode.dimse.channel import DataSetSink
from dicomnode.dimse.identifier import Budget, IdentifierSink
from dicomnode.dimse.status import Status
from dicomnode.errors import CatalogError, StatusError
from dicomnode.services.commitment_messages import MAX_MESSAGE_BYTES, too_long
from dicomnode.services.dispatch import Operation
from dicomnode.services.sop_classes import STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE

# Messages that are collected or wait for their turn, of all associations together.
_MAX_WAITING_BYTES: Final = 2 * MAX_MESSAGE_BYTES


class Journal(Protocol):
    """Is told of faults of our own."""

    def internal_error(self, what: str, error: BaseException) -> None:
        """A fault of our own, to be logged with its traceback."""


class CommitmentIntake:
    """Collects messages and has ``take`` take them up, each in a task.

    ``take`` answers the operation, or raises what is the answer. All of it belongs to the event
    loop.
    """

    def __init__(
        self, take: Callable[[Operation, bytes], Awaitable[None]], journal: Journal
    ) -> None:
        self._take = take
        self._journal = journal
        self._budget = Budget(_MAX_WAITING_BYTES)
        self._tasks: set[asyncio.Task[None]] = set()

    def collect(self, operation: Operation) -> DataSetSink:
        """Return what collects the data set of ``operation``."""
        return IdentifierSink(
            MAX_MESSAGE_BYTES,
            lambda data: self._start(operation, data),
            lambda: operation.fail(too_long()),
            budget=self._budget,
        )

    async def close(self) -> None:
        """Finish what is being taken."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, operation: Operation, data: bytes) -> None:
        operation.received_bytes = len(data)
        task = asyncio.get_running_loop().create_task(self._answer(operation, data))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, operation: Operation, data: bytes) -> None:
        """Take a message; whatever is wrong with it is its answer."""
        try:
            await self._take(operation, data)
        except StatusError as error:
            operation.fail(error)
        except CatalogError as error:
            self._journal.internal_error(operation.service, error)
            operation.fail(StatusError("the index failed", status=Status.PROCESSING_FAILURE))
        except Exception as error:
            self._journal.internal_error(operation.service, error)
            operation.fail(StatusError("internal error", status=Status.PROCESSING_FAILURE))
        finally:
            self._budget.give_back(len(data))


def check_instance(sop_instance_uid: str | None) -> None:
    """Raise StatusError unless the UID is that of the only instance (PS3.4 §J.3.5)."""
    if sop_instance_uid != STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE:
        words = "not the instance of the Storage Commitment Push Model"
        raise StatusError(words, status=Status.NO_SUCH_SOP_INSTANCE)
