"""GDCM: gdcmscu, which has no server but one for its own C-MOVE.

gdcmscu 3.0.21 ends itself with an exception after every A-RELEASE-RP, whoever sent it: its exit
code says nothing.
"""

from __future__ import annotations

from tests.interop.matrix import packages
from tests.interop.matrix.cells import Role, new_peer
from tests.interop.matrix.world import BIG_WORDS, STUDY, World
from tests.interop.recorder import recorded
from tests.interop.samples import Sample
from tests.peers import Finished, free_port, run_tool

GDCM = new_peer("GDCM", lambda: packages.version("libgdcm-tools"), lambda: packages.has("gdcmscu"))
GDCM.lacks(
    *(Role.SCP, "cancel", "MPPS", "commitment", "TLS", "user identity"),
    why="gdcmscu has no option for it",
)
GDCM.lacks(
    *(Role.SCU, "echo", "store", "find", "get", "move", "cancel", "worklist", "MPPS"),
    *("commitment", "TLS", "compressed", "character sets", "big object"),
    why="it has no server",
)
GDCM.untried(Role.SCP, "character sets", why="gdcmscu ends before it prints what it found")
SUCCESS = b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00"
"""Status (0000,0900) is 0000H."""


def gdcmscu(world: World, *words: object, timeout: float = 30) -> tuple[Finished, bytes]:
    """Run gdcmscu; return how it ended and what the node said to it."""
    with recorded(world.scp) as recorder:
        done = run_tool(
            *("gdcmscu", *map(str, words), "--call", "DICOMNODE", "--aetitle", "GDCMSCU"),
            *recorder.address,
            timeout=timeout,
        )
    return done, b"".join(part for direction, part in recorder.passed if direction == "O")


@GDCM.cell(Role.SCP, "echo")
def echo(world: World) -> None:
    done, answer = gdcmscu(world, "--echo")
    assert SUCCESS in answer, done.output


def _stored(world: World, *sent: Sample) -> None:
    for each in sent:
        gdcmscu(world, "--store", "-i", each.path, timeout=120)
    world.check_stored(*sent)


@GDCM.cell(Role.SCP, "store")
def store(world: World) -> None:
    _stored(world, world.fresh())


@GDCM.cell(Role.SCP, "compressed")
def compressed(world: World) -> None:
    _stored(world, *(world.fresh(each) for each in world.compressed))


@GDCM.cell(Role.SCP, "big object")
def big(world: World) -> str:
    _stored(world, world.big())
    return BIG_WORDS


def _studies(study_uid: str) -> tuple[str, ...]:
    return ("--studyroot", "--study", "--key", f"20,d={study_uid}", "--key", "10,10=")


@GDCM.cell(Role.SCP, "find")
def find(world: World) -> None:
    _, answer = gdcmscu(world, "--find", *_studies(STUDY))
    assert SUCCESS in answer and b"Doe^Jane" in answer


@GDCM.cell(Role.SCP, "get", known="gdcmscu 3.0.21 has the option --get, but no C-GET behind it")
def get(world: World) -> None:
    _, answer = gdcmscu(world, "--get", *_studies(STUDY), "-o", world.folder())
    assert b"C-STORE" in answer


@GDCM.cell(Role.SCP, "move", known="gdcmscu's own server cannot read what any node sends it")
def move(world: World) -> None:
    port, folder = free_port(), world.folder()
    world.ways["GDCMSCU"].target = ("127.0.0.1", port)
    gdcmscu(world, "--move", *_studies(STUDY), "-o", folder, "--port-scp", port)
    world.check_received(list(folder.iterdir()), world.study)


@GDCM.cell(
    Role.SCP, "worklist", known="gdcmscu 3.0.21 says that the find failed before it has connected"
)
def worklist(world: World) -> None:
    _, answer = gdcmscu(world, "--find", "--worklist", "--key", "10,10=")
    assert SUCCESS in answer and b"BACH^ANNA" in answer
