"""CTN, the Central Test Node of 1993 to 2004: its tools that need no database."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.interop.matrix import packages
from tests.interop.matrix.cells import Role, new_peer
from tests.interop.matrix.world import BIG_WORDS, World, succeeded
from tests.interop.samples import Sample
from tests.peers import Peer, end, eventually, free_port, run_tool
from tests.programs import find_program

CTN = new_peer(
    "CTN", lambda: packages.version("ctn"), lambda: packages.has("dicom_echo", "simple_storage")
)
CTN.lacks(Role.SCP, "get", "cancel", "TLS", "user identity")
CTN.lacks(Role.SCU, "get", "cancel", "TLS")
DATABASE = "its programs for it need a MySQL server"
CTN.untried(Role.SCP, "find", "move", "worklist", "MPPS", "commitment", why=DATABASE)
CTN.untried(Role.SCU, "find", "move", "worklist", "MPPS", "commitment", why=DATABASE)
NOT_FOR_IT = "made for uncompressed objects"
CTN.untried(Role.SCP, "compressed", "character sets", why=NOT_FOR_IT)
CTN.untried(Role.SCU, "compressed", "character sets", why=NOT_FOR_IT)


@CTN.cell(Role.SCP, "echo")
def echo(world: World) -> None:
    succeeded(run_tool("dicom_echo", "-a", "CTN", "-c", "DICOMNODE", *world.scp))
    world.node.wait_for_line(r"CTN -> DICOMNODE #\d+ C-ECHO \d+ 0000")


def _sent(world: World, sample: Sample) -> None:
    call = ("-a", "CTN", "-c", "DICOMNODE", "-q", *world.scp)
    succeeded(run_tool("send_image", *call, sample.path, timeout=120))
    world.check_stored(sample)


@CTN.cell(Role.SCP, "store")
def store(world: World) -> None:
    _sent(world, world.fresh())


@CTN.cell(Role.SCP, "big object")
def big(world: World) -> str:
    _sent(world, world.big())
    return BIG_WORDS


@contextlib.contextmanager
def serving(world: World) -> Iterator[Peer]:
    """Run simple_storage."""
    folder, port = world.folder(), free_port()
    command = [find_program("simple_storage") or "simple_storage", "-i", "-s", "-x", str(folder)]
    process = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, cwd=folder)
    listening = f":{port:04X} "
    try:
        eventually(lambda: listening in Path("/proc/net/tcp").read_text(), "CTN to listen")
        yield Peer("CTN", ("127.0.0.1", port), folder, process.pid)
    finally:
        end(process, seconds=2)


@CTN.cell(Role.SCU, "echo")
def asked_echo(world: World) -> None:
    with serving(world) as peer:
        world.command("echo", world.at("CTN", peer.dicom_address))


def _received(world: World, *sent: Sample) -> None:
    with serving(world) as peer:
        world.command("send", world.at("CTN", peer.dicom_address), *(each.path for each in sent))
        files = [each for each in peer.directory.rglob("*") if each.is_file()]
        world.check_received(files, list(sent))


@CTN.cell(Role.SCU, "store")
def asked_store(world: World) -> None:
    _received(world, *world.study)


@CTN.cell(Role.SCU, "big object")
def asked_big(world: World) -> str:
    _received(world, world.big())
    return BIG_WORDS
