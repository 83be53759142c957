"""Starts the command from a process that has imported dicomnode already.

Importing takes most of the second in which a node starts, and the tests start nodes by the hundred.
Each is still a process of its own, which can be killed, stopped and looked at in /proc; only the
imports are done before it begins. Tests of the command itself start it without this.

The process that forks is asked over a socket. Between it and each command is one that waits for the
command's end and tells the exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any, Final, NoReturn

_MOST_BYTES: Final = 1 << 20
_IMPORTED: Final = (
    "dicomnode.cli",
    "dicomnode.daemon",
    "dicomnode.services.tokens",
    "dicomnode.tls.files",
    "sqlalchemy.dialects.sqlite",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.h11_impl",
    "uvloop",
)


class Nursling:
    """A command that runs, with what is used of ``subprocess.Popen``."""

    def __init__(self, status: socket.socket, stdout: IO[str]) -> None:
        self._status = status
        self.stdout: IO[str] | None = stdout
        self.returncode: int | None = None
        self.pid = int(self._told(None))

    def _told(self, timeout: float | None) -> bytes:
        self._status.settimeout(timeout)
        told = self._status.recv(64)
        assert told, "the nursery has ended"
        return told

    def poll(self) -> int | None:
        """Return the exit code, None while the command runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            try:
                self.returncode = int(self._told(timeout))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("python", timeout or 0) from None
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the command has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Starts commands; its process ends with the one that made it."""

    def __init__(self) -> None:
        self._asked: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def _open(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        return ours

    def start(self, arguments: Sequence[str], module: str = "dicomnode") -> Nursling:
        """Run a module with ``arguments``, its output in a pipe, in the current directory."""
        self._asked = self._asked or self._open()
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, writing = os.pipe()
        wanted = {
            "module": module,
            "arguments": list(arguments),
            "directory": os.getcwd(),
            "environment": dict(os.environ),
        }
        with theirs, open(writing, "wb"):
            socket.send_fds(self._asked, [json.dumps(wanted).encode()], [theirs.fileno(), writing])
        return Nursling(status, open(reading, encoding="utf-8", errors="replace"))

    def close(self) -> None:
        """Start nothing any more."""
        if self._asked is not None and self._process is not None:
            self._asked.close()
            self._process.wait()


# -- the process that starts them ------------------------------------------------------------------


def _serve(asked: socket.socket) -> dict[str, Any] | None:
    """Fork for each command that is asked for; return what to run in its process, at last None."""
    while True:
        request, fds, _, _ = socket.recv_fds(asked, _MOST_BYTES, 2)
        if not request:
            return None
        if os.fork() == 0:
            asked.close()
            status, output = fds
            return _keep(json.loads(request), socket.socket(fileno=status), output)
        for fd in fds:
            os.close(fd)


def _keep(wanted: dict[str, Any], status: socket.socket, output: int) -> dict[str, Any]:
    """Fork the command's own process, and return in it; here, tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        for fd in (1, 2):
            os.dup2(output, fd)
        status.detach()
        os.closerange(3, 1024)
        return wanted
    os.close(output)
    # Whoever asked may be gone, as when a test was broken off.
    with contextlib.suppress(OSError):
        status.send(str(pid).encode())
        status.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def _run(wanted: dict[str, Any]) -> NoReturn:
    # Those of the nursery were made for other files.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(wanted["directory"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    sys.argv = [wanted["module"], *wanted["arguments"]]
    runpy.run_module(wanted["module"], run_name="__main__", alter_sys=True)
    sys.exit(0)


def _main() -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    # Those in between are not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        wanted = _serve(asked)
    if wanted is not None:
        _run(wanted)


if __name__ == "__main__":
    _main()
