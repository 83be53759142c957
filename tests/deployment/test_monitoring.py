"""Alert rules and the dashboard, against Prometheus' own tools and a node's real metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.cli.commands import run, written
from tests.conftest import RunningNode, StartNode
from tests.deployment.monitoring import ALERTS, ROOT, metrics_in, panels, prometheus, queries
from tests.destination import Conversation, destination
from tests.faults.scu import Image, associated, store
from tests.peers import eventually, http_get, run_tool
from tests.wire import Wire

# Exposed only while TLS is on.
OF_TLS = {"dicomnode_tls_certificate_expiry_timestamp_seconds"}
# Prometheus' own.
NOT_THE_NODES = {"up"}
WITH_DATA = {
    "Node",
    "Archive",
    "Objects held",
    "Size of the objects",
    "Free space",
    "Waiting to go on",
    "Set aside",
    "Up since",
    "Received, by calling AE",
    "Operations, by service",
    "Sent",
    "Associations open",
    "Time of an operation, 95th percentile",
    "Time of a query, 95th percentile",
    "Associations rejected",
    "Forwarded, by result",
    "Files that are not whole",
    "Proven whole last",
    "Memory",
    "Processor",
    "File descriptors and log",
}


def rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, str]] = group["rules"]
    return found


def exposed(node: RunningNode) -> set[str]:
    """Return the names under which a node exposes samples, those without any yet too."""
    text = http_get(node.http_address, "/metrics")[1].decode()
    names: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        names.add(name)
        if kind == "histogram":
            names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")}
    return names


@pytest.mark.interop("promtool")
def test_promtool_takes_the_rules_and_the_scrape_settings() -> None:
    checked = run_tool("promtool", "check", "rules", ALERTS)
    assert checked.returncode == 0, checked.output
    checked = run_tool("promtool", "check", "config", ALERTS.with_name("prometheus.yml"))
    assert checked.returncode == 0, checked.output


@pytest.mark.interop("promtool")
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    tested = run_tool("promtool", "test", "rules", Path(__file__).with_name("alerts_test.yml"))
    assert tested.returncode == 0, tested.output


def test_each_alert_has_a_test() -> None:
    tests = Path(__file__).with_name("alerts_test.yml").read_text()
    assert {rule["alert"] for rule in rules()} <= set(re.findall(r"\w+", tests))


def test_every_metric_that_is_asked_for_is_one_of_the_nodes(node: RunningNode) -> None:
    asked = {name for rule in rules() for name in metrics_in(rule["expr"])}
    asked |= {name for panel in panels() for query in queries(panel) for name in metrics_in(query)}
    assert len(asked) > 30
    assert asked - NOT_THE_NODES - OF_TLS <= exposed(node)


def test_panels_do_not_overlap_and_have_a_data_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & taken
        taken |= cells
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    assert max(column for column, _ in taken) == 23


def test_grafana_finds_its_data_source_and_dashboards_where_compose_puts_them() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yml").read_text())["services"]
    provisioning = ROOT / "docker/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards/dicomnode.yml").read_text())[
        "providers"
    ]
    mounts = [volume.split(":") for volume in services["grafana"]["volumes"]]
    assert ["./grafana/dashboards", provider["options"]["path"], "ro"] in mounts
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/dicomnode.json"


def whole(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take()


@pytest.mark.interop("prometheus")
def test_the_dashboard_shows_what_a_node_does(start_node: StartNode, tmp_path: Path) -> None:
    with destination(whole) as target:
        node = start_node(
            entities=[{"title": "CT_1"}, target.entity("D0")],
            forward=[{"name": "all", "to": ["D0"]}],
        )
        with (
            prometheus(tmp_path / "prometheus", node.http_address) as watching,
            associated(node.dicom_address, "CT_1"),
        ):
            eventually(lambda: watching.value_of('up{job="dicomnode"} == 1'), "a scrape")
            # A rate needs a sample from before: those of a series that is new are its first.
            missing = dict.fromkeys(WITH_DATA)
            numbers = iter(range(1, 1000))

            def all_show_something() -> bool:
                store(node.dicom_address, Image(next(numbers)))
                run("find", written(node.dicom_address), "-k", "StudyInstanceUID")
                with Wire(node.dicom_address) as wire:
                    wire.associate(called="SOMEBODY")
                for panel in panels():
                    # Raises PeerFailed when Prometheus does not understand a query.
                    shown = [
                        series for each in queries(panel) for series in watching.value_of(each)
                    ]
                    if any(series["value"][1] != "NaN" for series in shown):
                        missing.pop(panel["title"], None)
                return not missing

            try:
                eventually(all_show_something)
            finally:
                print("panels without data:", *missing)
            told = watching.get("rules")["groups"][0]["rules"]
            assert {rule["name"] for rule in told} == {rule["alert"] for rule in rules()}
            assert all(rule.get("lastError") is None for rule in told)
