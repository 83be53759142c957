"""PixelMed's Java toolkit, through a program of a few lines: tests/interop/pixelmed/Peer.java."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.interop.matrix import packages
from tests.interop.matrix.cells import Role, new_peer
from tests.interop.matrix.world import BIG_WORDS, STUDY, World, succeeded
from tests.interop.samples import Sample
from tests.peers import Peer, end, eventually, free_port, run_tool

PIXELMED = new_peer("PixelMed", lambda: packages.version("libpixelmed-java"), packages.has_pixelmed)
LIBRARY = "a library, and nothing was written with it for that"
PIXELMED.untried(
    *(Role.SCP, "cancel", "worklist", "MPPS", "commitment", "TLS", "character sets"),
    "user identity",
    why=LIBRARY,
)
PIXELMED.untried(
    *(Role.SCU, "find", "get", "move", "cancel", "worklist", "MPPS", "commitment", "TLS"),
    "character sets",
    why=LIBRARY,
)
SOURCE = Path(__file__).parent.parent / "pixelmed" / "Peer.java"
JAVA = ("java", "-Djava.awt.headless=true", "-cp", str(packages.PIXELMED_JAR), str(SOURCE))


def program(world: World, *words: object) -> str:
    """Have the program call the node."""
    return succeeded(run_tool(*JAVA, *world.scp, *map(str, words), timeout=120))


@PIXELMED.cell(Role.SCP, "echo")
def echo(world: World) -> None:
    program(world, "echo")
    world.node.wait_for_line(r"PIXELMED -> DICOMNODE #\d+ C-ECHO \d+ 0000")


def _sent(world: World, *samples: Sample) -> None:
    for each in samples:
        program(world, "store", each.path, each.sop_class_uid, each.sop_instance_uid)
    world.check_stored(*samples)


@PIXELMED.cell(Role.SCP, "store")
def store(world: World) -> None:
    _sent(world, world.fresh())


@PIXELMED.cell(Role.SCP, "compressed")
def compressed(world: World) -> None:
    _sent(world, *(world.fresh(each) for each in world.compressed))


@PIXELMED.cell(Role.SCP, "big object")
def big(world: World) -> str:
    _sent(world, world.big())
    return BIG_WORDS


@PIXELMED.cell(Role.SCP, "find")
def find(world: World) -> None:
    assert "match Doe^Jane" in program(world, "find", STUDY)


@PIXELMED.cell(Role.SCP, "get")
def get(world: World) -> None:
    folder = world.folder()
    program(world, "get", STUDY, folder)
    world.check_received([each for each in folder.rglob("*") if each.is_file()], world.study)


@contextlib.contextmanager
def serving(world: World) -> Iterator[Peer]:
    """Run the program that takes objects."""
    folder, port = world.folder(), free_port()
    command = [*JAVA, "127.0.0.1", str(port), "serve", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    listening = f":{port:04X} "

    def is_ready() -> bool:
        tables = (Path("/proc/net") / name for name in ("tcp", "tcp6"))
        return any(listening in table.read_text() for table in tables)

    try:
        eventually(is_ready, "PixelMed to listen", timeout=30)
        yield Peer("PIXELMED", ("127.0.0.1", port), folder, process.pid)
    finally:
        end(process, seconds=2)


@PIXELMED.cell(Role.SCP, "move")
def move(world: World) -> None:
    with serving(world) as peer:
        world.ways["PIXELMED"].target = peer.dicom_address
        program(world, "move", STUDY, "PIXELMED")
        world.check_received(list(peer.directory.iterdir()), world.study)


@PIXELMED.cell(Role.SCU, "echo")
def asked_echo(world: World) -> None:
    with serving(world) as peer:
        world.command("echo", world.at("PIXELMED", peer.dicom_address))


def _received(world: World, *sent: Sample) -> None:
    with serving(world) as peer:
        paths = [each.path for each in sent]
        world.command("send", world.at("PIXELMED", peer.dicom_address), *paths)
        world.check_received(list(peer.directory.iterdir()), list(sent))


@PIXELMED.cell(Role.SCU, "store")
def asked_store(world: World) -> None:
    _received(world, *world.study)


@PIXELMED.cell(
    *(Role.SCU, "compressed"),
    known="its server accepts no compressed transfer syntax; it is sent what was decoded",
)
def asked_compressed(world: World) -> None:
    _received(world, *world.compressed)


@PIXELMED.cell(Role.SCU, "big object")
def asked_big(world: World) -> str:
    _received(world, world.big())
    return BIG_WORDS
