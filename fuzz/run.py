"""Fuzzes one target, guided by coverage: ``python -m fuzz.run TARGET [options of libFuzzer]``.

The inputs that reach something new are kept in ``.fuzz/TARGET/`` and are where the next run
begins; an input that fails is kept in ``.fuzz/`` too. ``-max_total_time=60`` ends after a minute.
Needs atheris: ``pip install -e '.[dev,fuzz]'``.
"""

from __future__ import annotations

import importlib
import sys
from hashlib import sha256
from pathlib import Path

import atheris

from fuzz import TARGETS

KEPT = Path(".fuzz")


def main() -> None:
    """Fuzz until libFuzzer ends."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"usage: python -m fuzz.run {{{','.join(TARGETS)}}} [libFuzzer options]")
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["dicomnode"]):
        target = importlib.import_module(f"fuzz.{name}")
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / sha256(seed).hexdigest()[:40]).write_bytes(seed)
    prefix = f"-artifact_prefix={KEPT}/{name}-"
    atheris.Setup([sys.argv[0], prefix, *options, str(corpus)], target.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
