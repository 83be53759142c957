"""Starts and stops the programs that tests and benchmarks talk to, and dicomnode itself.

Everything runs in a directory of the caller, listens where the system chose, and is ended by
the process id that was started here. Nothing of pytest: ``bench`` uses this too.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.nursery import Nursery, Nursling
from tests.programs import find_program

# What is waited for comes in a fraction of the time given; a machine may be slow all the same.
PATIENCE = 4.0
START_SECONDS = 120.0
Address = tuple[str, int]


class PeerFailed(Exception):
    """A program ended, or did not answer, where it should have."""


def peer_environment(*, nodelay: bool = True) -> dict[str, str]:
    """Return the environment of DCMTK's tools; without ``nodelay`` they leave Nagle on."""
    environment = {**os.environ, "TCP_NODELAY": "1"}
    if not nodelay:
        del environment["TCP_NODELAY"]
    return environment


@dataclass(frozen=True, slots=True)
class Finished:
    """How a tool ended: exit code and everything that it wrote."""

    returncode: int
    output: str


def run_tool(
    *command: str | int | Path,
    timeout: float = 30.0,
    nodelay: bool = True,
    directory: Path | None = None,
) -> Finished:
    """Run a tool to its end; PeerFailed when it takes longer than ``timeout`` seconds."""
    timeout *= PATIENCE
    program = find_program(str(command[0])) or str(command[0])
    try:
        done = subprocess.run(
            [program, *map(str, command[1:])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=peer_environment(nodelay=nodelay),
            cwd=directory,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        wrote = (late.stdout or b"").decode("utf-8", "replace")
        raise PeerFailed(f"{command[0]} still ran after {timeout} s: {wrote[-2000:]}") from None
    return Finished(done.returncode, done.stdout.decode("utf-8", "replace"))


def free_port() -> int:
    """Return a port for a program that cannot have the system choose one.

    Below those that the system gives to connections (Linux begins at 32768): one of them may be
    taken again before the program listens.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def eventually(
    condition: Callable[[], object], what: str = "the condition", *, timeout: float = 10.0
) -> None:
    """Return as soon as ``condition()`` is true; AssertionError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout * PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true in {timeout} s")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Peer:
    """A server under test's control."""

    ae_title: str
    dicom_address: Address
    directory: Path
    pid: int
    http_address: Address | None = None


@contextlib.contextmanager
def _process(
    command: Sequence[str], directory: Path, ready: Callable[[], bool], *, nodelay: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` until the block ends; enter it once ``ready()``."""
    with (directory / "output.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=peer_environment(nodelay=nodelay),
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                wrote = (directory / "output.log").read_text("utf-8", "replace")[-2000:]
                raise PeerFailed(f"{command[0]} did not start: {wrote}")
            time.sleep(0.01)
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[Any] | Nursling, *, seconds: float = 15.0) -> int:
    """End a process: SIGTERM, and SIGKILL after ``seconds``; return its exit code."""
    process.terminate()
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _accepts(address: Address) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def storescp(
    directory: Path,
    *options: str,
    accept: str = "--accept-all",
    bit_preserving: bool = True,
    nodelay: bool = True,
    port: int = 0,
) -> Iterator[Peer]:
    """Run DCMTK's storescp; received files are in ``Peer.directory``.

    ``accept`` says which transfer syntaxes it takes; without ``port`` it is given a free one.
    """
    received = directory / "received"
    received.mkdir(parents=True)
    address = ("127.0.0.1", port or free_port())
    command = [
        find_program("storescp") or "storescp",
        *("--output-directory", str(received), "-aet", "STORESCP", accept),
        *(["--bit-preserving"] if bit_preserving else []),
        *options,
        str(address[1]),
    ]
    with _process(command, directory, lambda: _accepts(address), nodelay=nodelay) as process:
        yield Peer("STORESCP", address, received, process.pid)


_DCMQRSCP_SETTINGS = """\
NetworkTCPPort = {port}
MaxPDUSize = 131072
MaxAssociations = 64
HostTable BEGIN
{hosts}
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
DCMQRSCP {storage} RW (500, 4096mb) ANY
AETable END
"""


@contextlib.contextmanager
def dcmqrscp(
    directory: Path,
    files: Sequence[Path] = (),
    *,
    destinations: Mapping[str, Address] | None = None,
) -> Iterator[Peer]:
    """Run DCMTK's dcmqrscp holding ``files``, which have to be Part 10 files.

    ``destinations`` are the AE titles that C-MOVE knows.
    """
    storage = directory / "storage"
    storage.mkdir(parents=True)
    for number, file in enumerate(files):
        (storage / f"{number:06d}.dcm").symlink_to(file.resolve())
    if files:
        entered = run_tool("dcmqridx", storage, *sorted(storage.glob("*.dcm")))
        if entered.returncode:
            raise PeerFailed(f"dcmqridx: {entered.output}")
    address = ("127.0.0.1", free_port())
    hosts = "\n".join(
        f"{title.lower()} = ({title}, {host}, {port})"
        for title, (host, port) in (destinations or {}).items()
    )
    settings = directory / "dcmqrscp.cfg"
    settings.write_text(_DCMQRSCP_SETTINGS.format(port=address[1], storage=storage, hosts=hosts))
    command = [find_program("dcmqrscp") or "dcmqrscp", "--config", str(settings)]
    with _process(command, directory, lambda: _accepts(address)) as process:
        yield Peer("DCMQRSCP", address, storage, process.pid)


@contextlib.contextmanager
def wlmscpfs(directory: Path, *options: str) -> Iterator[Peer]:
    """Run DCMTK's wlmscpfs on worklist files: ``<AE title>/*.wl`` below ``directory``.

    Each title's directory is given its lock file.
    """
    for folder in directory.iterdir():
        (folder / "lockfile").touch()
    address = ("127.0.0.1", free_port())
    command = [find_program("wlmscpfs") or "wlmscpfs", *options]
    command += ["--data-files-path", str(directory), str(address[1])]
    with _process(command, directory.parent, lambda: _accepts(address)) as process:
        yield Peer("WLMSCPFS", address, directory, process.pid)


def orthanc_configuration(directory: Path, dicom_port: int, http_port: int) -> dict[str, object]:
    """Return the settings of an Orthanc that keeps everything below ``directory``."""
    return {
        "Name": "ORTHANC",
        "StorageDirectory": str(directory / "storage"),
        "IndexDirectory": str(directory / "index"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowEcho": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "UnknownSopClassAccepted": True,
        "OrthancExplorerEnabled": False,
        "Plugins": [],
    }


@contextlib.contextmanager
def orthanc(directory: Path, *, dicom_port: int = 0, **settings: object) -> Iterator[Peer]:
    """Run Orthanc with a configuration made here; ``settings`` replace its keys."""
    directory.mkdir(parents=True, exist_ok=True)
    dicom, web = ("127.0.0.1", dicom_port or free_port()), ("127.0.0.1", free_port())
    configuration = directory / "orthanc.json"
    chosen = {**orthanc_configuration(directory, dicom[1], web[1]), **settings}
    configuration.write_text(json.dumps(chosen))

    def ready() -> bool:
        return _accepts(dicom) and http_get(web, "/system")[0] == 200

    command = [find_program("Orthanc") or "Orthanc", str(configuration)]
    with _process(command, directory, ready) as process:
        yield Peer("ORTHANC", dicom, directory, process.pid, web)


def http_request(
    address: Address, method: str, path: str, body: bytes | None = None, timeout: float = 30.0
) -> tuple[int, bytes]:
    """Make one HTTP request; return status and body, or (0, b"") when nobody answers."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request(method, path, body=body)
        response = connection.getresponse()
        return response.status, response.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def http_get(address: Address, path: str) -> tuple[int, bytes]:
    """GET ``path``; return status and body."""
    return http_request(address, "GET", path)


def metric(address: Address, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that carry ``labels``; 0.0 when there is none."""
    status, body = http_get(address, "/metrics")
    if status != 200:
        raise PeerFailed(f"/metrics answered {status}")
    total = 0.0
    for line in body.decode().splitlines():
        match = re.fullmatch(r"([a-z_:A-Z0-9]+)(?:\{(.*)\})? (\S+)", line)
        if match is None or match[1] != name:
            continue
        found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
        if labels.items() <= found.items():
            total += float(match[3])
    return total


def write_config(
    directory: Path,
    *,
    entities: Sequence[Mapping[str, object]] = (),
    forward: Sequence[Mapping[str, object]] = (),
    fetch: Sequence[Mapping[str, object]] = (),
    retention: Sequence[Mapping[str, object]] = (),
    **sections: Mapping[str, object],
) -> Path:
    """Write dicomnode.toml and ae.toml for a node on ports of the system's choice.

    ``sections`` are tables of dicomnode.toml whose keys replace those written by default;
    ``entities`` are the ``[[ae]]`` tables, ``forward``, ``fetch`` and ``retention`` those of that
    name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tables: dict[str, dict[str, object]] = {
        "node": {"ae_title": "DICOMNODE", "host": "127.0.0.1", "port": 0},
        "http": {"host": "127.0.0.1", "port": 0},
        "storage": {"directory": str(directory / "store")},
        "access": {"unknown_ae": "allow"},
    }
    for name, keys in sections.items():
        tables.setdefault(name, {}).update(keys)
    path = directory / "dicomnode.toml"
    written = [_toml_table(f"[{name}]", keys) for name, keys in tables.items()]
    written += [_toml_table("[[forward]]", keys) for keys in forward]
    written += [_toml_table("[[fetch]]", keys) for keys in fetch]
    written += [_toml_table("[[retention]]", keys) for keys in retention]
    path.write_text("\n".join(written))
    write_registry(directory, entities)
    return path


def write_registry(directory: Path, entities: Sequence[Mapping[str, object]]) -> Path:
    """Write ae.toml with one ``[[ae]]`` table for each of ``entities``."""
    path = directory / "ae.toml"
    path.write_text("\n".join(_toml_table("[[ae]]", keys) for keys in entities))
    return path


def _toml_table(header: str, keys: Mapping[str, object]) -> str:
    # Strings, numbers, booleans and lists are written alike in JSON and TOML.
    lines = [f"{key} = {_toml_value(value)}" for key, value in keys.items()]
    return "\n".join([header, *lines, ""])


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {_toml_value(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    return json.dumps(value)


class NodeProcess:
    """``dicomnode run`` as a process of its own whose output can be waited for.

    ``program`` is what Python runs instead of the command. A ``nursery`` starts the command sooner.
    """

    nursery: ClassVar[Nursery | None] = None

    def __init__(self, config: Path, *program: str) -> None:
        self.config = config
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self.process = self._started("run", "--config", str(config), program=program)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _started(self, *arguments: str, program: Sequence[str]) -> subprocess.Popen[str] | Nursling:
        if self.nursery is not None and program[:1] in ((), ("-m",)):
            return self.nursery.start([*program[2:], *arguments], *program[1:2])
        return subprocess.Popen(
            [sys.executable, *(program or ("-m", "dicomnode")), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        """All lines so far, standard output and error together."""
        with self._changed:
            return list(self._lines)

    def wait_for_line(self, pattern: str, *, timeout: float = 10.0) -> re.Match[str]:
        """Return the match of ``pattern`` in the first line that has one, past or to come."""
        deadline = time.monotonic() + timeout * PATIENCE
        seen = 0
        with self._changed:
            while True:
                for line in self._lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self._lines)
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    text = "\n".join(self._lines[-30:])
                    raise PeerFailed(f"no line matched {pattern!r}; the node wrote:\n{text}")
                self._changed.wait(min(left, 0.5))

    def wait_until_ready(self, seconds: float = START_SECONDS) -> NodeProcess:
        """Return once both ports are known."""
        found = self.wait_for_line(r"\blistening on (\S+):(\d+)", timeout=seconds)
        self.dicom_address: Address = (found[1], int(found[2]))
        found = self.wait_for_line(r"\bhttp on (\S+):(\d+)", timeout=seconds)
        self.http_address: Address = (found[1], int(found[2]))
        return self

    @property
    def tls_address(self) -> Address:
        """Where the node takes TLS."""
        found = self.wait_for_line(r"\bTLS on (\S+):(\d+),")
        return (found[1], int(found[2]))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Return the exit code; its output is complete then."""
        code = self.process.wait(timeout * PATIENCE)
        self._reader.join(timeout * PATIENCE)
        return code

    def close(self) -> None:
        """End the process and its pipe."""
        end(self.process)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def resident_bytes(self) -> int:
        """Return the resident set size as Linux reports it."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def node_process(
    directory: Path,
    *,
    entities: Sequence[Mapping[str, object]] = (),
    start_seconds: float = START_SECONDS,
    **sections: Mapping[str, object],
) -> Iterator[NodeProcess]:
    """Run a node on a configuration made by ``write_config``."""
    process = NodeProcess(write_config(directory, entities=entities, **sections))
    try:
        yield process.wait_until_ready(start_seconds)
    finally:
        process.close()
