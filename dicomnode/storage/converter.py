"""The process that converts objects: ``python -m dicomnode.storage.converter``.

Codecs are C code that is fed with bytes from peers: what they do to memory, to the interpreter's
lock and to themselves must not reach the node. A job is one line of JSON on standard input, its
result one on standard output; the process ends with its input.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict, dataclass
from typing import Final

from dicomnode.errors import ConversionFailed
from dicomnode.hardening import harden
from dicomnode.storage.transcode import convert

# A frame may have 256 MiB, and decoders need a few times that.
_MAX_MEMORY_BYTES: Final = 2 * 1024**3
_FILE_MODE: Final = 0o640


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """An object to convert; ``target`` is a path that does not exist yet."""

    path: str
    offset: int
    size: int
    stored: str
    wanted: str
    target: str
    max_bytes: int

    def encode(self) -> bytes:
        """Return the job as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Result:
    """``size`` bytes were written, unless ``failure`` says why not; ``advice`` what to change."""

    size: int = 0
    failure: str = ""
    advice: str = ""

    def encode(self) -> bytes:
        """Return the result as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def perform(job: Job) -> Result:
    """Do ``job``; whatever goes wrong is in the result."""
    try:
        source = os.open(job.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            target = os.open(job.target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
            with os.fdopen(target, "wb", buffering=1024 * 1024) as file:
                size = convert(
                    source,
                    job.offset,
                    job.size,
                    job.stored,
                    job.wanted,
                    file,
                    max_bytes=job.max_bytes,
                    directory=os.path.dirname(job.target),
                )
        finally:
            os.close(source)
    except ConversionFailed as error:
        return Result(failure=str(error), advice=error.advice)
    except OSError as error:
        return Result(failure=f"disk error while converting: {error.strerror}")
    except MemoryError:
        return Result(failure="converting needs too much memory")
    except Exception as error:
        return Result(failure=f"internal error while converting: {error!r}"[:300])
    return Result(size)


def main() -> None:
    """Do jobs until there are no more."""
    harden()
    # A service manager sends it to all processes; the node drains, and may need this one for it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    # What codecs print must not be taken for a result.
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        results.write(perform(Job(**json.loads(line))).encode())
        results.flush()


if __name__ == "__main__":
    main()
