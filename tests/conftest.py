"""Fixtures for nodes and peers, and the guards that every test runs under."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings

from tests import peers
from tests.authority import Authority
from tests.nursery import Nursery
from tests.programs import PACKAGES, find_program, missing_programs

TEST_SECONDS = 60.0

# Nodes are started by the hundred: each finds itself compiled, whatever the environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault(
    "PYTHONPYCACHEPREFIX", str(Path(tempfile.gettempdir()) / "dicomnode-tests-bytecode")
)

# How long an example takes says nothing where tests share the machine.
settings.register_profile("without deadline", settings(), deadline=None)
settings.load_profile("without deadline")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "timeout(seconds): how long the test may take at most")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that takes too long, with the place of every thread."""
    marker = item.get_closest_marker("timeout")
    seconds = (float(marker.args[0]) if marker else TEST_SECONDS) * peers.PATIENCE

    def too_late(number: int, frame: FrameType | None) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        pytest.fail(f"the test took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip ``@pytest.mark.interop("storescu", …)`` without the programs; in CI, fail."""
    for marker in item.iter_markers("interop"):
        for name in marker.args:
            if find_program(name) is None:
                words = f"{name} is not installed (Debian package {PACKAGES[name]})"
                if os.environ.get("CI") == "true":
                    pytest.fail(words, pytrace=False)
                pytest.skip(words)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which interop tests were not run."""
    missing = missing_programs()
    if missing:
        terminalreporter.section("INTEROP TESTS WERE SKIPPED", sep="!", red=True, bold=True)
        for name, package in sorted(missing.items()):
            terminalreporter.line(f"{name} is not installed: apt-get install {package}")


class RunningNode:
    """A ``dicomnode.node.Node`` on a loop of its own, so that tests may block."""

    def __init__(self, directory: Path, config: Path) -> None:
        self.directory = directory
        self.config = config
        self.store_directory = directory / "store"
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="node under test", daemon=True)
        self._thread.start()
        self._started.wait(peers.START_SECONDS)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:  # handed to the test's own thread
            self._failure = failure
            self._started.set()

    async def _serve(self) -> None:
        from dicomnode.node import Node
        from dicomnode.reload import read_configuration

        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.node = Node(read_configuration(self.config))
        await self.node.start()
        self.dicom_address: peers.Address = self.node.dicom_address
        self.tls_address = self.node.tls_address or self.dicom_address
        assert self.node.http_address is not None
        self.http_address: peers.Address = self.node.http_address
        self._started.set()
        try:
            await self._stop.wait()
        finally:
            await self.node.stop()

    def stop(self) -> None:
        """Stop the node and wait for it; what it raised is raised here."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(peers.START_SECONDS)
        assert not self._thread.is_alive(), "the node did not stop"
        if self._failure is not None:
            raise self._failure

    def reload(self) -> bool:
        """Have the node read its files again, as SIGHUP does; return whether it took them."""
        reloading = self.node.reload()
        return asyncio.run_coroutine_threadsafe(reloading, self._loop).result(peers.START_SECONDS)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of one metric."""
        return peers.metric(self.http_address, name, **labels)

    def files(self, folder: str = "objects") -> list[Path]:
        """Return the files below ``folder`` of the storage directory."""
        return sorted(path for path in (self.store_directory / folder).rglob("*") if path.is_file())


StartNode = Callable[..., RunningNode]


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """Start nodes in this process: ``start_node(entities=[…], limits={…}, …)``.

    Keywords are those of ``peers.write_config``; ``directory`` lets two nodes share one.
    """
    with contextlib.ExitStack() as running:

        def start(
            *,
            directory: Path | None = None,
            entities: Sequence[Mapping[str, object]] = (),
            **sections: Mapping[str, Any],
        ) -> RunningNode:
            where = directory or tmp_path / "node"
            node = RunningNode(where, peers.write_config(where, entities=entities, **sections))
            running.callback(node.stop)
            return node

        yield start


@pytest.fixture
def node(start_node: StartNode) -> RunningNode:
    """Return a node in this process that admits everybody."""
    return start_node()


@pytest.fixture(autouse=True, scope="session")
def _nursery() -> Iterator[None]:
    """Have the nodes of all tests started by one nursery; it imports when the first one is."""
    with contextlib.closing(Nursery()) as nursery:
        peers.NodeProcess.nursery = nursery
        yield
        peers.NodeProcess.nursery = None


StartNodeProcess = Callable[..., peers.NodeProcess]


@pytest.fixture
def start_node_process(tmp_path: Path) -> Iterator[StartNodeProcess]:
    """Start ``dicomnode run`` as child processes; keywords as for ``start_node``."""
    with contextlib.ExitStack() as running:

        def start(directory: Path | None = None, **keywords: Any) -> peers.NodeProcess:
            where = directory or tmp_path / "node"
            return running.enter_context(peers.node_process(where, **keywords))

        yield start


@pytest.fixture
def node_process(start_node_process: StartNodeProcess) -> peers.NodeProcess:
    """Return a node in a process of its own that admits everybody."""
    return start_node_process()


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[peers.Peer]:
    """Return DCMTK's storescp, which keeps data sets as they were sent."""
    with peers.storescp(tmp_path / "storescp") as peer:
        yield peer


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[peers.Peer]:
    """Return an empty Orthanc."""
    with peers.orthanc(tmp_path / "orthanc") as peer:
        yield peer


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Issue certificates for the test."""
    return Authority(tmp_path / "ca")
