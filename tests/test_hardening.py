"""What the process of a node denies itself."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

from tests.peers import NodeProcess


def test_a_node_writes_no_core_and_its_files_are_its_owners_alone(
    node_process: NodeProcess,
) -> None:
    proc = Path(f"/proc/{node_process.process.pid}")
    assert re.search(r"Max core file size +0 +0 ", (proc / "limits").read_text())
    assert "Umask:\t0077" in (proc / "status").read_text()
    store = node_process.config.parent / "store"
    for path in (store, *store.rglob("*")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_hardened_process_is_not_dumpable() -> None:
    program = (
        "import ctypes; from dicomnode.hardening import harden; harden();"
        "exit(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
