"""The image and the compose file; no container engine is needed to look at them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from dicomnode.reload import read_configuration

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"


def compose() -> dict[str, Any]:
    """Return the compose file, checked against the Compose Specification."""
    document: dict[str, Any] = PyCompose.from_yaml((DOCKER / "compose.yml").read_text()).to_dict()
    return document


def instructions() -> list[tuple[str, str]]:
    """Return what the Dockerfile says: instruction and arguments."""
    joined = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_compose_file_keeps_to_the_specification() -> None:
    assert set(compose()["services"]) == {"dicomnode", "prometheus", "grafana"}


@pytest.mark.parametrize("service", ["dicomnode", "prometheus", "grafana"])
def test_services_have_no_capabilities_and_come_in_a_fixed_version(service: str) -> None:
    described = compose()["services"][service]
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    if "image" in described:
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", described["image"])


def test_only_dicom_is_published_beyond_this_machine() -> None:
    text = yaml.safe_load((DOCKER / "compose.yml").read_text())
    ports = [port for each in text["services"].values() for port in each["ports"]]
    settings = read_configuration(DOCKER / "dicomnode.toml").settings
    dicom = [settings.node.port, settings.tls.port]
    published = [port for port in ports if not port.startswith("127.0.0.1:")]
    assert published == [f"{port}:{port}" for port in dicom]
    exposed = dict(instructions())["EXPOSE"].split()
    assert exposed == [str(port) for port in (*dicom, settings.http.port)]


def test_everything_that_is_mounted_is_there() -> None:
    text = yaml.safe_load((DOCKER / "compose.yml").read_text())
    sources = [
        volume.split(":")[0] for each in text["services"].values() for volume in each["volumes"]
    ]
    assert all((DOCKER / source).exists() for source in sources if source.startswith("."))
    assert {source for source in sources if not source.startswith(".")} == set(text["volumes"])


def test_the_node_is_waited_for_longer_than_it_drains() -> None:
    text = yaml.safe_load((DOCKER / "compose.yml").read_text())
    grace = int(text["services"]["dicomnode"]["stop_grace_period"].removesuffix("s"))
    settings = read_configuration(DOCKER / "dicomnode.toml").settings
    assert grace > settings.timeouts.drain_seconds
    assert settings.access.unknown_ae == "refuse"


def test_the_image_is_built_in_stages_from_fixed_versions_and_runs_as_nobody_special() -> None:
    said = instructions()
    bases = [arguments for name, arguments in said if name == "FROM"]
    assert len(bases) == 2
    assert all(re.match(r"python:\d+\.\d+\.\d+-slim-bookworm\b", base) for base in bases)
    last = said[max(at for at, (name, _) in enumerate(said) if name == "FROM") :]
    users = [arguments for name, arguments in last if name == "USER"]
    assert len(users) == 1
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", users[0])


def test_the_image_starts_and_checks_the_node_without_a_shell() -> None:
    said = dict(instructions())
    assert json.loads(said["ENTRYPOINT"]) == ["dicomnode"]
    assert json.loads(said["CMD"])[0] == "run"
    check = json.loads(said["HEALTHCHECK"].partition("CMD")[2])
    assert check[:2] == ["dicomnode", "healthcheck"]


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    for name, arguments in instructions():
        if name != "COPY" or "--from" in arguments:
            continue
        *sources, _ = (word for word in arguments.split() if not word.startswith("--"))
        for source in sources:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
