"""How fast an export is verified, beside ``sha256sum -c`` of the same files in the same run.

``python -m bench.verify [PART…]`` measures the parts named, or all of them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.command import Part, main
from bench.measure import MEBIBYTE
from bench.report import Figure, Section
from dicomnode.integrity.exporting import Original, export
from tests.integrity.exports import small_object

OBJECTS = 516
OBJECT_BYTES = 512 * 1024


@contextmanager
def _exported(name: str) -> Iterator[Path]:
    """Export 516 objects of 512 KB each, of random bytes."""
    with tempfile.TemporaryDirectory(prefix="dicomnode-bench-") as directory:
        folder = Path(directory)
        (folder / "in").mkdir()

        def originals() -> Iterator[Original]:
            for number in range(1, OBJECTS + 1):
                content = small_object(number)
                # Behind all that is read of it.
                pixels = b"\xe0\x7f\x10\x00OW\0\0" + (OBJECT_BYTES).to_bytes(4, "little")
                content += pixels + os.urandom(OBJECT_BYTES)
                path = folder / "in" / f"{number}.dcm"
                path.write_bytes(content)
                digest = hashlib.sha256(content).hexdigest()
                yield Original(path, len(content), digest, f"1.2.3.{number}", ())

        export(originals(), folder / name)
        yield folder / name


def _seconds(command: Sequence[str | Path], directory: Path) -> float:
    start = time.perf_counter()
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _compared(runs: int, container: str) -> Figure:
    sums = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    with _exported("out") as folder, _exported("out.zip") as packed:
        path = packed if container == "ZIP file" else folder
        verify = [sys.executable, "-m", "dicomnode", "verify", path]
        taken: list[tuple[float, float]] = []
        for turn in range(runs + 1):
            both = _seconds(verify, Path.cwd()), _seconds(sums, folder)
            if turn:  # the first fills caches
                taken.append(both)
    ours, theirs = (median(each) for each in zip(*taken, strict=True))
    megabytes = OBJECTS * OBJECT_BYTES / MEBIBYTE
    return Figure(
        f"{OBJECTS} objects of 512 KB in a {container}; sha256sum -c of a directory",
        f"{megabytes / ours:.0f} MB/s",
        f"{megabytes / theirs:.0f} MB/s",
        theirs / ours,
        0.8,
        at_least=True,
    )


def directory(runs: int) -> Figure:
    """A directory of 516 objects of 512 KB, against sha256sum."""
    return _compared(runs, "directory")


def zip_file(runs: int) -> Figure:
    """The same in a ZIP file, of which every byte is hashed twice."""
    return _compared(runs, "ZIP file")


PARTS: dict[str, Part] = {"directory": directory, "zip": zip_file}
SECTION = Section(
    name="verify",
    title="Verifying an export",
    method=(
        "The whole command `dicomnode verify`, its start included, and `sha256sum -c` in turns, on"
        " files that the system has in memory. The figure is the ratio of the rates."
    ),
)

if __name__ == "__main__":
    sys.exit(main(SECTION, PARTS, runs=5))
