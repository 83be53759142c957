"""Draws the dashboard with the data of some minutes of traffic: ``python -m bench.dashboard``.

A node, DCMTK's storescp as its destination and Prometheus run here; each panel's queries are
answered by Prometheus, and drawn by this program into docs/dashboard.svg. It is no Grafana: the
picture shows what the queries say, not quite what Grafana makes of it.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.drawing import draw
from tests import peers
from tests.deployment.monitoring import Prometheus, panels, prometheus
from tests.faults.scu import associated
from tests.wire import CT_IMAGE_STORAGE, Wire, data_set

PICTURE = Path(__file__).parents[1] / "docs/dashboard.svg"
SECONDS = 240.0
_STEP_SECONDS = 3
_RATE = "15s"
_ROOT = "1.2.826.0.1.3680043.10.1666.77"


class Traffic:
    """Devices that do their work again and again until stopped."""

    def __init__(self, node: peers.NodeProcess) -> None:
        self._node = node
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._numbers = itertools.count(1)

    def every(self, seconds: float, work: Callable[[], object]) -> None:
        """Do ``work`` now, and again after each pause."""

        def run() -> None:
            while not self._stopping.is_set():
                work()
                self._stopping.wait(seconds)

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)

    def stop(self) -> None:
        """Let everybody finish."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def study(self, calling: str, objects: int, size: int) -> None:
        """Send a study."""
        study = f"{_ROOT}.{next(self._numbers)}"
        with associated(self._node.dicom_address, calling) as wire:
            for number in range(1, objects + 1):
                uid = f"{study}.1.{number}"
                sent = data_set(
                    CT_IMAGE_STORAGE,
                    uid,
                    study_uid=study,
                    series_uid=f"{study}.1",
                    patient_id=f"P{study.rpartition('.')[2]}",
                    pixels=bytes(size),
                )
                assert wire.store(CT_IMAGE_STORAGE, uid, sent) == 0
            wire.release()

    def command(self, *arguments: str) -> None:
        """Run a command of ours to its end; what it asks for may not be there."""
        subprocess.run(
            [sys.executable, "-m", "dicomnode", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )

    def wrong_title(self) -> None:
        """Call somebody who is not here."""
        with Wire(self._node.dicom_address) as wire:
            wire.associate(called="SOMEBODY", calling="CT_9")


@contextlib.contextmanager
def _hospital(directory: Path) -> Iterator[tuple[peers.NodeProcess, Callable[[], object]]]:
    """Run a node that forwards; also return what takes its destination away for a while."""
    port = peers.free_port()
    entities = [
        *({"title": title} for title in ("CT_1", "MR_1", "WS_1")),
        {"title": "ARCHIVE", "host": "127.0.0.1", "port": port},
    ]
    forwarding = {"retry_seconds": 2, "max_retry_seconds": 5}
    rules = [{"name": "all", "to": ["ARCHIVE"]}]
    numbers = itertools.count()

    def started() -> contextlib.AbstractContextManager[peers.Peer]:
        return peers.storescp(directory / f"archive{next(numbers)}", port=port)

    with (
        contextlib.ExitStack() as archive,
        peers.node_process(
            directory / "node", entities=entities, forward=rules, forwarding=forwarding
        ) as node,
    ):
        archive.enter_context(started())

        def interrupt() -> None:
            archive.close()
            time.sleep(SECONDS / 6)
            archive.enter_context(started())

        yield node, interrupt


def _run(directory: Path) -> str:
    with (
        _hospital(directory) as (node, interrupt),
        prometheus(directory / "prometheus", node.http_address) as watching,
    ):
        began = time.time()
        traffic = Traffic(node)
        host, port = node.dicom_address
        ours = f"DICOMNODE@{host}:{port}"
        config = ("--config", str(node.config))
        for number in range(6):
            traffic.command(
                *("worklist", "add", *config, "--patient-name", f"Doe^{number}"),
                *("--patient-id", str(number), "--modality", "CT", "--station", "CT_1"),
                *("--start", "2026-11-21 09:30", "--accession", f"A{number}"),
            )
        traffic.every(11, lambda: traffic.study("CT_1", 40, 512 * 1024))
        traffic.every(4, lambda: traffic.study("MR_1", 30, 128 * 1024))
        traffic.every(2, lambda: traffic.command("find", ours, "-k", "PatientID=P*"))
        got = str(directory / "got")
        one = f"StudyInstanceUID={_ROOT}.2"
        traffic.every(15, lambda: traffic.command("get", ours, "-k", one, "-od", got))
        traffic.every(9, traffic.wrong_title)
        time.sleep(SECONDS / 3)
        interrupt()
        time.sleep(SECONDS / 2)
        traffic.stop()
        return draw([_answered(watching, panel, began) for panel in panels()])


def _answered(watching: Prometheus, panel: dict[str, object], began: float) -> dict[str, object]:
    """Return a panel with the series of its queries, as ``(legend, [(time, value), …])``."""
    series = []
    for target in panel["targets"]:  # type: ignore[attr-defined]
        query = target["expr"].replace("$__rate_interval", _RATE).replace("$instance", ".*")
        span = {"start": str(began + 5), "end": str(time.time()), "step": str(_STEP_SECONDS)}
        for each in watching.get("query_range", query=query, **span)["result"]:
            legend = target["legendFormat"]
            for label, value in each["metric"].items():
                legend = legend.replace("{{" + label + "}}", value)
            points = [(float(at), float(value)) for at, value in each["values"]]
            series.append((legend, [point for point in points if point[1] == point[1]]))
    return {**panel, "series": series}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PICTURE.write_text(_run(Path(folder)))
