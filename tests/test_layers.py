"""The arrows of the architecture, read from the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dicomnode"

# What each layer may import of dicomnode, besides itself and the version in dicomnode/__init__.
ALLOWED = {
    "errors": set(),
    "ul": {"errors"},
    "dimse": {"certificates", "ul", "errors"},
    "storage": {"hardening", "errors"},
    "integrity": {"storage", "errors"},
    "retention_settings": {"fetch_settings", "forward_settings", "configuration", "value_types"},
    "retention": {"services", "index", "registry", "observe", "retention_settings"}
    | {"fetch_settings", "configuration", "errors"},
    "removal": {"retention", "services", "storage", "index", "observe", "settings"},
    "offline": {"archive", "assembly", "parameters", "removal", "reload"}
    | {"outbox", "services", "storage", "index", "observe"},
    "index": {"integrity", "storage", "errors"},
    "deidentification": {"storage", "errors"},
    "configuration": {"ul", "errors"},
    "value_types": set(),
    "audit_settings": {"configuration", "value_types"},
    "custody_settings": set(),
    "audit": {"observe", "errors"},
    "certificates": set(),
    "tls": {"certificates", "errors"},
    "retries": {"value_types"},
    "forward_settings": {"configuration", "retries", "value_types"},
    "scrub_settings": {"value_types"},
    "settings": {"audit_settings", "fetch_settings", "forward_settings", "retries", "tls"}
    | {
        "custody_settings",
        "scrub_settings",
        "retention_settings",
        "configuration",
        "value_types",
        "errors",
    },
    "registry": {"certificates", "configuration", "value_types", "errors"},
    "users": {"configuration", "errors"},
    "credentials": {"services", "users", "settings", "configuration", "errors"},
    "observe": {"settings", "errors"},
    "net": {"certificates", "tls", "dimse", "ul", "errors"},
    "scu": {"certificates", "dimse", "ul", "storage", "configuration", "errors"},
    # The one place, besides the node, where associations are made out of sockets.
    "client": {"certificates", "tls", "scu", "net", "dimse", "ul", "errors"},
    "services": {"scu", "dimse", "ul", "storage", "index", "registry", "users", "observe"}
    | {"integrity", "audit", "certificates", "tls", "retries", "errors"},
    "outbox": {"scu", "services", "dimse", "ul", "storage", "index", "registry", "observe"}
    | {"integrity", "forward_settings", "configuration", "errors"},
    "fetch_settings": {"forward_settings", "configuration", "value_types"},
    "sync": {"scu", "services", "dimse", "ul", "storage", "index", "registry", "observe"}
    | {"fetch_settings", "forward_settings", "configuration", "errors"},
    "api": {"integrity", "outbox", "services", "storage", "index", "registry", "observe", "errors"}
    | {"retention"},
    "conformance": {"settings", "registry", "services", "scu", "observe"},
    "whereabouts": {"settings", "registry", "configuration", "errors"},
    "interface": {"removal", "api", "outbox", "services", "index", "observe"},
    "parameters": {"descriptors", "net", "outbox", "sync", "services", "index", "registry"}
    | {"audit", "audit_settings", "observe", "settings"},
    "hardening": set(),
    "shared_files": set(),
    "descriptors": set(),
    "supervision": {"observe"},
    "reload": {
        "retention",
        "outbox",
        "sync",
        "tls",
        "registry",
        "settings",
        "configuration",
        "observe",
        "credentials",
        "services",
        "errors",
    },
    "archive": {"parameters", "outbox", "services", "storage", "index", "registry", "observe"}
    | {"settings"},
    "assembly": {
        "removal",
        "archive",
        "parameters",
        "net",
        "outbox",
        "sync",
        "services",
        "storage",
        "index",
        "registry",
    }
    | {"audit", "observe", "settings"},
    "security": {"net", "tls", "registry", "observe", "settings", "errors"},
    "node": {
        "removal",
        "archive",
        "assembly",
        "parameters",
        "interface",
        "whereabouts",
        "reload",
        "api",
        "net",
        "outbox",
        "sync",
        "services",
        "dimse",
        "storage",
        "index",
        "registry",
        "observe",
    }
    | {"security", "settings", "errors"},
    "daemon": {"node", "reload", "supervision", "hardening", "errors"},
    "cli": {
        "offline",
        "removal",
        "daemon",
        "archive",
        "audit",
        "conformance",
        "deidentification",
        "reload",
        "shared_files",
        "client",
        "integrity",
        "sync",
        "outbox",
        "node",
        "api",
        "scu",
        "services",
        "dimse",
        "ul",
        "storage",
        "index",
        "registry",
        "users",
        "parameters",
    }
    # The words and values of the protocol, for what is asked and shown.
    | {"dimse", "ul"}
    | {"certificates", "tls", "security"}
    | {"observe", "settings", "configuration", "errors"},
}
# No clock, no sockets, no files, no threads: bytes in, events and bytes out.
NOT_SANS_IO = {"asyncio", "socket", "ssl", "time", "os", "pathlib", "threading", "selectors"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            yield room, path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield module
                yield from (f"{module}.{name.name}" for name in names)


def rooms_imported(path: Path) -> set[str]:
    found = {name.split(".")[1] for name in imports(path) if name.startswith("dicomnode.")}
    return {room for room in found if not room.startswith("_") and room.upper() != room}


@pytest.mark.parametrize(("room", "path"), list(modules()), ids=lambda value: str(value)[-40:])
def test_imports_follow_the_arrows(room: str, path: Path) -> None:
    assert rooms_imported(path) - {room} <= ALLOWED[room]


@pytest.mark.parametrize("path", [path for room, path in modules() if room in ("ul", "dimse")])
def test_the_protocol_layers_do_no_input_or_output(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & NOT_SANS_IO
