"""Converts objects in processes of their own (``storage.converter``).

Two at once: a third waits. A process that takes too long or dies harms its object alone, and
another takes its place.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import suppress
from typing import Final, Protocol

from dicomnode.errors import ConversionFailed, OutOfResources
from dicomnode.storage.converter import Job, Result
from dicomnode.storage.disk import OpenFile

_PROCESSES: Final = 2
_MAX_CONVERTED_BYTES: Final = 2 * 1024**3
_MAX_SECONDS: Final = 300.0


class Scratch(Protocol):
    """Where converted objects are written, such as the storage."""

    def new_temporary(self) -> str:
        """Return an absolute path that was not given before."""

    def free_bytes(self) -> int:
        """Return the bytes that may still be written there. Raises OutOfResources."""


class Converters:
    """Processes that are started when they are first needed.

    ``min_free_bytes`` of ``scratch`` are never used up by converted objects.
    """

    def __init__(self, scratch: Scratch, min_free_bytes: int, *, seconds: float = _MAX_SECONDS):
        self._scratch = scratch
        self._min_free_bytes = min_free_bytes
        self._seconds = seconds
        self._turn = asyncio.Semaphore(_PROCESSES)
        self._idle: list[asyncio.subprocess.Process] = []
        self._all: set[asyncio.subprocess.Process] = set()
        self._is_closed = False

    async def convert(
        self, path: str, offset: int, size: int, stored: str, wanted: str
    ) -> tuple[OpenFile, int]:
        """Convert the data set at ``offset`` of the file ``path``, which is absolute.

        Returns a file without a name that holds the converted data set, and its size. Raises
        ConversionFailed.
        """
        target = self._scratch.new_temporary()
        try:
            async with self._turn:
                try:
                    free = await asyncio.to_thread(self._scratch.free_bytes)
                except OutOfResources as error:
                    raise ConversionFailed(error.comment) from error
                job = Job(
                    path=path,
                    offset=offset,
                    size=size,
                    stored=stored,
                    wanted=wanted,
                    target=target,
                    # Those at work at once share what may be used.
                    max_bytes=max(
                        0, min(_MAX_CONVERTED_BYTES, (free - self._min_free_bytes) // _PROCESSES)
                    ),
                )
                result = await self._ask(job)
            if result.failure:
                raise ConversionFailed(result.failure, result.advice)
            try:
                return await asyncio.to_thread(OpenFile.at, target), result.size
            except OSError as error:
                raise ConversionFailed(f"disk error: {error.strerror}") from error
        finally:
            await asyncio.to_thread(_remove, target)

    async def _ask(self, job: Job) -> Result:
        process = self._take_idle() or await self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(job.encode())
            async with asyncio.timeout(self._seconds):
                line = await process.stdout.readline()
            result = Result(**json.loads(line))
        except TimeoutError:
            return Result(failure=f"converting took longer than {self._seconds:g} s")
        except (ValueError, TypeError, OSError):
            return Result(failure="the decoder crashed")
        else:
            self._idle.append(process)
            return result
        finally:
            # Whoever stopped waiting leaves it at work; it is of no use to the next.
            if process not in self._idle:
                await self._kill(process)

    def _take_idle(self) -> asyncio.subprocess.Process | None:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
            self._all.discard(process)  # ended by somebody else, such as a system short of memory
        return None

    async def _start(self) -> asyncio.subprocess.Process:
        if self._is_closed:
            raise ConversionFailed("the converters have been ended")
        try:
            process = await asyncio.create_subprocess_exec(
                # -P: whatever lies in the working directory is none of our modules.
                *(sys.executable, "-P", "-m", "dicomnode.storage.converter"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # the terminal's Ctrl-C is for the node, which drains
            )
        except OSError as error:
            raise ConversionFailed(f"no process for converting: {error.strerror}") from error
        self._all.add(process)
        if self._is_closed:  # meanwhile
            await self._kill(process)
        return process

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        self._all.discard(process)
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def close(self) -> None:
        """End the processes; conversions that are under way, or wait for their turn, fail."""
        self._is_closed = True
        self._idle.clear()
        for process in list(self._all):
            await self._kill(process)


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
