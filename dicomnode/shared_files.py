"""Files that come with the package and are no code: sample settings, and those of the service."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shared_file(name: str) -> Path:
    """Return where ``name``, such as ``config/ae.toml``, lies.

    A wheel has it in the package; a checkout, as git has it, beside the package.
    """
    installed = _PACKAGE / "share" / name
    return installed if installed.exists() else _PACKAGE.parent / name
