"""odil: its command line, and scripts of the system's Python where that has no command."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.interop.matrix import packages
from tests.interop.matrix.cells import Role, new_peer
from tests.interop.matrix.packages import SYSTEM_PYTHON
from tests.interop.matrix.world import BIG_WORDS, PASSCODE, STUDY, USER, World, succeeded
from tests.interop.samples import Sample
from tests.peers import Peer, end, eventually, free_port, run_tool, storescp

ODIL = new_peer("odil", lambda: packages.version("odil"), packages.has_odil)
SCRIPT = Path(__file__).parent.parent / "odil" / "peer.py"
LIBRARY = "a library, and nothing was written with it for that"
ODIL.lacks(Role.SCP, "TLS", "commitment")
ODIL.lacks(Role.SCU, "TLS", "commitment")
ODIL.untried(Role.SCP, "cancel", "MPPS", "compressed", "character sets", why=LIBRARY)
ODIL.untried(
    *(Role.SCU, "find", "get", "move", "cancel", "worklist", "MPPS", "compressed"),
    "character sets",
    why=LIBRARY,
)
CALL = ("ODIL", "DICOMNODE")


def script(world: World, *words: str, title: str = "ODIL") -> str:
    """Have a script call the node."""
    return succeeded(run_tool(SYSTEM_PYTHON, SCRIPT, *world.scp, title, *words))


@ODIL.cell(Role.SCP, "echo")
def echo(world: World) -> None:
    succeeded(run_tool("odil", "echo", *world.scp, *CALL))


def _sent(world: World, *samples: Sample) -> None:
    paths = [each.path for each in samples]
    succeeded(run_tool("odil", "store", *world.scp, *CALL, *paths, timeout=120))
    world.check_stored(*samples)


@ODIL.cell(Role.SCP, "store")
def store(world: World) -> None:
    _sent(world, world.fresh())


@ODIL.cell(Role.SCP, "big object")
def big(world: World) -> str:
    _sent(world, world.big())
    return BIG_WORDS


@ODIL.cell(Role.SCP, "find")
def find(world: World) -> None:
    keys = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}", "PatientName=")
    succeeded(run_tool("odil", "find", *world.scp, *CALL, "study", *keys), "Doe^Jane")


@ODIL.cell(Role.SCP, "get")
def get(world: World) -> None:
    keys = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={STUDY}")
    folder = world.folder()
    succeeded(run_tool("odil", "get", *world.scp, *CALL, "study", *keys, "-d", folder))
    world.check_received([each for each in folder.rglob("*") if each.is_file()], world.study)


@ODIL.cell(Role.SCP, "move")
def move(world: World) -> str:
    with storescp(world.folder()) as scp:
        world.ways["ODIL"].target = scp.dicom_address
        script(world, "move", STUDY, "ODIL")
        world.check_received(list(scp.directory.iterdir()), world.study)
    return "to storescp"


@ODIL.cell(Role.SCP, "worklist")
def worklist(world: World) -> None:
    found = script(world, "worklist", "MR").split("\n")
    assert sorted(found) == ["", "item BACH^ANNA", "item BACH^JOHANN"], found


@ODIL.cell(Role.SCP, "user identity")
def identity(world: World) -> None:
    script(world, "echo", USER, PASSCODE, title="IDENTIFIED")
    words = (*world.scp, "IDENTIFIED", "echo", USER, "wrong")
    assert run_tool(SYSTEM_PYTHON, SCRIPT, *words).returncode


@contextlib.contextmanager
def serving(world: World) -> Iterator[Peer]:
    """Run the script that takes objects; a port that is tried counts as an association."""
    folder, port = world.folder(), free_port()
    command = [SYSTEM_PYTHON, str(SCRIPT), "-", str(port), "ODIL", "serve", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    listening = f":{port:04X} "
    try:
        eventually(lambda: listening in Path("/proc/net/tcp").read_text(), "odil to listen")
        yield Peer("ODIL", ("127.0.0.1", port), folder, process.pid)
    finally:
        end(process, seconds=2)


@ODIL.cell(Role.SCU, "echo")
def asked_echo(world: World) -> None:
    with serving(world) as peer:
        world.command("echo", world.at("ODIL", peer.dicom_address))


def _received(world: World, *sent: Sample) -> None:
    with serving(world) as peer:
        paths = [each.path for each in sent]
        world.command("send", world.at("ODIL", peer.dicom_address), *paths)
        world.check_received(list(peer.directory.iterdir()), list(sent))


@ODIL.cell(Role.SCU, "store")
def asked_store(world: World) -> None:
    _received(world, *world.study)


@ODIL.cell(Role.SCU, "big object")
def asked_big(world: World) -> str:
    _received(world, world.big())
    return BIG_WORDS
