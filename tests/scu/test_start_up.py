"""What a C-ECHO loads: start-up is most of the time that it takes from the shell."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import RunningNode

ECHO = """
import asyncio, sys
import dicomnode
assert len([name for name in sys.modules if name.startswith("dicomnode")]) == 1

async def main():
    async with dicomnode.open_association(sys.argv[1]) as association:
        assert (await association.echo()).ok

asyncio.run(main())
print(*sorted({"pydicom", "pynetdicom", "numpy", "pydantic", "sqlalchemy"} & sys.modules.keys()))
"""


def test_an_echo_loads_no_large_library(node: RunningNode) -> None:
    peer = "DICOMNODE@{}:{}".format(*node.dicom_address)
    finished = subprocess.run(
        [sys.executable, "-c", ECHO, peer], capture_output=True, text=True, timeout=30
    )
    assert (finished.stdout, finished.stderr) == ("\n", "")
