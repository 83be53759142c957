"""Which peers are installed, and in which version."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from tests.peers import run_tool
from tests.programs import find_program

DCMJS = Path(__file__).parent.parent / "dcmjs"
_DCMJS_PACKAGE = DCMJS / "node_modules" / "dcmjs-dimse" / "package.json"
SYSTEM_PYTHON = "/usr/bin/python3"
PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")


def has(*programs: str) -> bool:
    """Tell whether programs are installed."""
    return all(find_program(program) for program in programs)


def version(package: str) -> str:
    """Return the version of a Debian package; that of a machine without Debian is not known."""
    if not has("dpkg-query"):
        return "of unknown version"
    done = run_tool("dpkg-query", "-W", "-f", "${Version}", package)
    return done.output.partition("+")[0].partition("~")[0] if not done.returncode else "none"


def python_version(name: str) -> str:
    """Return the version of a package of this environment."""
    return metadata.version(name)


def has_dcmjs() -> bool:
    """Tell whether dcmjs-dimse is installed."""
    return has("node") and _DCMJS_PACKAGE.is_file()


def dcmjs_version() -> str:
    """Return the version of dcmjs-dimse."""
    return str(json.loads(_DCMJS_PACKAGE.read_text())["version"])


def has_odil() -> bool:
    """Tell whether the system's Python has odil."""
    return has(SYSTEM_PYTHON) and not run_tool(SYSTEM_PYTHON, "-c", "import odil").returncode


def has_pixelmed() -> bool:
    """Tell whether PixelMed's toolkit and a compiler for Java are installed."""
    return PIXELMED_JAR.is_file() and has("javac")
