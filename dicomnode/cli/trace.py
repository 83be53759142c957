"""``trace``: has a running node record the next associations of an AE, for Wireshark."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dicomnode.cli.asking import Streamed, call, stream
from dicomnode.cli.common import ConfigOption, explained, fail, user_here
from dicomnode.cli.terminal import plain
from dicomnode.errors import DicomnodeError
from dicomnode.observe.words import size
from dicomnode.settings import Settings, load_settings

_NUMBER_HEADER = "X-Trace-Number"
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def trace(
    config: ConfigOption = None,
    ae: Annotated[
        str, typer.Option("--ae", metavar="TITLE", help="The AE, whichever side asks.")
    ] = "",
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1000, help="So many associations.")
    ] = 1,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="IP", help="Only with this address or network."),
    ] = None,
    seconds: Annotated[
        int, typer.Option("--seconds", min=1, max=86400, help="For so long at most.")
    ] = 600,
    max_bytes: Annotated[
        str, typer.Option("--max-bytes", metavar="N", help="So much at most, such as 64M or 2G.")
    ] = "256M",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to; without it, a name is made."),
    ] = None,
) -> None:
    """Record the next associations of an AE as a file that Wireshark opens.

    The file holds patients' data, and is for its owner alone. Ctrl-C ends the recording.
    """
    if not ae:
        fail("say whose associations: --ae TITLE")
    with explained():
        settings = load_settings(config)
        path = out or Path(f"{_file_name(ae)}-{time.strftime('%Y%m%d-%H%M%S')}.pcapng")
        asked = {
            "ae_title": ae,
            "count": count,
            "seconds": seconds,
            "max_bytes": _bytes(max_bytes),
            "asked_by": user_here(),
        }
        if address is not None:
            asked["address"] = address
        _record(settings, path, asked)


def _record(settings: Settings, path: Path, asked: dict[str, Any]) -> None:
    console = Console(stderr=True, highlight=False)
    # Made before anything is asked for: what cannot be kept need not be recorded. Never over a file
    # that is there, and for nobody else.
    with closing(_OwnFile(path)) as file:
        try:
            answer = stream(settings, "/api/traces", asked, silent_seconds=asked["seconds"] + 60)
        except BaseException:
            file.remove()
            raise
        number = int(asked["count"])
        what = "association" if number == 1 else f"{number} associations"
        words = f"recording the next {what} with {asked['ae_title']}, for {asked['seconds']} s"
        console.print(plain(f"{words} at most; Ctrl-C ends it"), soft_wrap=True)
        try:
            _receive(settings, answer, file)
        finally:
            answer.close()
    _tell(settings, console, path, answer.header(_NUMBER_HEADER))


def _receive(settings: Settings, answer: Streamed, file: _OwnFile) -> None:
    """Write the recording as it comes; Ctrl-C ends it, a second one leaves the file as it is."""
    number = answer.header(_NUMBER_HEADER)

    def end(number_of_signal: int, frame: object) -> None:
        # The node closes it properly: what is cut off within a packet is no file to Wireshark.
        signal.signal(signal.SIGINT, before)
        with suppress(DicomnodeError):
            call(settings, "DELETE", f"/api/traces/{number}")

    before = signal.signal(signal.SIGINT, end)
    try:
        while part := answer.read():
            file.write(part)
    finally:
        signal.signal(signal.SIGINT, before)


def _tell(settings: Settings, console: Console, path: Path, number: str) -> None:
    """Say what has been recorded, and what has not."""
    figures: dict[str, Any] = {}
    with suppress(DicomnodeError):
        # The file is there, whatever the node says now.
        figures = call(settings, "GET", f"/api/traces/{number}")
    associations = int(figures.get("associations", 0))
    noun = "association" if associations == 1 else "associations"
    line = f"{path}: {associations} {noun}, {size(path.stat().st_size)}"
    if why := figures.get("why"):
        line += f"; {why}"
    console.print(plain(line), soft_wrap=True)
    if dropped := int(figures.get("dropped_bytes", 0)):
        words = f"{size(dropped)} were not recorded: they came faster than they could be written"
        console.print(plain(words), style="yellow")
    console.print("It holds patients' data: delete it when it is no longer needed.")


class _OwnFile:
    """A new file that only its owner reads. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(path, flags, 0o600), "wb")

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()


def _file_name(title: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", title.strip())


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d{1,12})([KMG]?)B?", text.strip().upper())
    if found is None:
        fail(f"--max-bytes must be a number such as 64M or 2G, not {text!r}")
    return int(found[1]) * _UNITS[found[2]]
