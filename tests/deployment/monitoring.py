"""A Prometheus that scrapes a node, with the rules of docker/; and what the dashboard asks it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import peers
from tests.programs import find_program

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "docker/prometheus/alerts.yml"
DASHBOARD = ROOT / "docker/grafana/dashboards/dicomnode.json"

_SETTINGS = """\
global: {{scrape_interval: 250ms, evaluation_interval: 250ms}}
rule_files: ["{alerts}"]
scrape_configs:
  - job_name: dicomnode
    static_configs: [{{targets: ["{target}"]}}]
"""
_METRIC = re.compile(r"\b(?:dicomnode|process)_[a-z_]+\b|\bup\b")


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard that show something."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(panel: dict[str, Any]) -> list[str]:
    """Return the queries of a panel, with what Grafana would fill in."""
    return [
        target["expr"].replace("$__rate_interval", "2s").replace("$instance", ".*")
        for target in panel["targets"]
    ]


def metrics_in(query: str) -> set[str]:
    """Return the metrics that a query asks for; labels' values and by-lists do not count."""
    return set(_METRIC.findall(re.sub(r'"[^"]*"', "", query)))


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running Prometheus."""

    address: peers.Address

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its HTTP API; PeerFailed with its words otherwise."""
        asked = f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        _, body = peers.http_get(self.address, asked)
        answer = json.loads(body) if body else {"error": "no answer"}
        if answer.get("status") != "success":
            raise peers.PeerFailed(f"{asked}: {answer.get('error')}")
        return answer["data"]

    def value_of(self, query: str) -> list[dict[str, Any]]:
        """Return the series that a query has now."""
        series: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return series


@contextlib.contextmanager
def prometheus(directory: Path, node: peers.Address) -> Iterator[Prometheus]:
    """Run Prometheus on a node until the block ends."""
    directory.mkdir()
    address = ("127.0.0.1", peers.free_port())
    settings = directory / "prometheus.yml"
    settings.write_text(_SETTINGS.format(alerts=ALERTS, target="{}:{}".format(*node)))
    with (directory / "output.log").open("wb") as log:
        process = subprocess.Popen(
            [
                find_program("prometheus") or "prometheus",
                f"--config.file={settings}",
                f"--storage.tsdb.path={directory / 'data'}",
                "--web.listen-address={}:{}".format(*address),
                # Targets are taken up every five seconds otherwise.
                "--scrape.discovery-reload-interval=100ms",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        peers.eventually(lambda: peers.http_get(address, "/-/ready")[0] == 200, "Prometheus")
        yield Prometheus(address)
    finally:
        peers.end(process)
