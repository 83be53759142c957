"""System calls of a running node that fail, or kill it: strace attached to all of its threads.

Run as a program it starts ``dicomnode`` with strace attached from the beginning.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import NodeProcess
from tests.programs import find_program


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault that is put into a node's system calls; ``log`` is what strace writes."""

    log: Path

    @property
    def happened(self) -> bool:
        """Whether any call has been touched so far."""
        return "(INJECTED)" in self.log.read_text("utf-8", "replace")


def _options(call: str, fault: str, log: Path) -> Sequence[str]:
    return [
        *("-f", "-o", str(log), "-e", "signal=none"),
        *("-e", f"trace={call}", "-e", f"inject={call}:{fault}"),
    ]


@contextlib.contextmanager
def injected(node: NodeProcess, call: str, fault: str, directory: Path) -> Iterator[Injection]:
    """Put a fault (strace(1), ``-e inject``) into a system call of a node until the block ends.

    ``when=K`` counts the calls of each thread by itself. Skips, with words, where strace may not
    be attached; in CI that fails.
    """
    log = directory / "strace.log"
    log.touch()
    command = [find_program("strace") or "strace", *_options(call, fault, log)]
    command += ["-p", str(node.process.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:
            assert strace.stderr is not None
            words = strace.stderr.readline()
            if "attached" not in words:
                give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
                give_up(f"faults of system calls are not tested: {words.strip()}")
            yield Injection(log)
        finally:
            # It lets go of the node, which runs on.
            strace.terminate()


def _main() -> None:
    call, fault, log, *arguments = sys.argv[1:]
    # The tracer is the child, so that the node is the process that was started here.
    command = ["strace", "-D", *_options(call, fault, Path(log))]
    command += [sys.executable, "-m", "dicomnode", *arguments]
    os.execv(find_program("strace") or "strace", command)


if __name__ == "__main__":
    _main()
