"""Harm done to stored files."""

from __future__ import annotations

from pathlib import Path


def flip_bit(path: Path | str, at: int) -> None:
    """Change one bit of a file, in place."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
