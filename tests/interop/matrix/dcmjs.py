"""dcmjs-dimse, a DICOM stack in JavaScript; its scripts are those of tests/interop/dcmjs."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pydicom

from tests.interop.matrix import packages
from tests.interop.matrix.asking import check_cancelled, check_find, check_get, check_names
from tests.interop.matrix.cells import Role, new_peer
from tests.interop.matrix.packages import DCMJS as HERE
from tests.interop.matrix.traced import tls_traced
from tests.interop.matrix.world import BIG_WORDS, PASSCODE, STUDY, USER, World, frames, succeeded
from tests.interop.samples import Sample
from tests.peers import Address, Finished, Peer, end, free_port, run_tool, storescp
from tests.programs import find_program

DCMJS = new_peer("dcmjs-dimse", packages.dcmjs_version, packages.has_dcmjs)
LIBRARY = "a library, and nothing was written with it for that"
DCMJS.untried(Role.SCP, "commitment", why=LIBRARY)
DCMJS.untried(Role.SCU, "move", "worklist", "MPPS", "commitment", why=LIBRARY)


def script(
    name: str,
    address: Address,
    *words: object,
    title: str = "DCMJS",
    timeout: float = 60,
    **options: object,
) -> Finished:
    """Run a script that calls the node; ``options`` are those of its association."""
    return run_tool(
        *("env", f"DCMJS_TITLE={title}", f"DCMJS_OPTIONS={json.dumps(options)}"),
        *(find_program("node") or "node", HERE / name, *address, *map(str, words)),
        timeout=timeout,
        directory=HERE,
    )


def lines(done: Finished, *kinds: str) -> list[list[str]]:
    """Return the words of the lines that a script printed, of these kinds."""
    words = [line.split(" ") for line in succeeded(done).splitlines()]
    return [line for line in words if line[0] in kinds]


def _sent(world: World, *samples: Sample) -> None:
    done = script("send.cjs", world.scp, *(each.path for each in samples), timeout=120)
    assert lines(done, "status") == [["status", "0000"]] * (1 + len(samples))
    world.check_stored(*samples)


@DCMJS.cell(Role.SCP, "echo")
def echo(world: World) -> None:
    _sent(world)


@DCMJS.cell(Role.SCP, "store")
def store(world: World) -> None:
    _sent(world, world.fresh())


@DCMJS.cell(Role.SCP, "compressed")
def compressed(world: World) -> None:
    _sent(world, *(world.fresh(each) for each in world.compressed))


@DCMJS.cell(Role.SCP, "big object")
def big(world: World) -> str:
    _sent(world, world.big())
    return BIG_WORDS


@DCMJS.cell(Role.SCP, "find")
def find(world: World) -> None:
    done = script("query.cjs", world.scp, "find", STUDY)
    assert lines(done, "match", "status") == [["match", STUDY], ["status", "0000"]]


@DCMJS.cell(Role.SCP, "character sets")
def names(world: World) -> str:
    for each in world.names:
        done = script("query.cjs", world.scp, "name", each.study_uid)
        ((_, told),) = [
            line.split(" ", 1) for line in done.output.splitlines() if line[:5] == "name "
        ]
        expected = str(pydicom.dcmread(each.path).PatientName).split("=")
        for part in expected:
            assert part in told, f"{each.path.name}: {part} is not in {told}"
    return f"{len(world.names)} names"


@DCMJS.cell(Role.SCP, "get")
def get(world: World) -> None:
    *objects, final = lines(script("query.cjs", world.scp, "get", STUDY), "object", "status")
    assert final == ["status", "0000", "3", "0"], final
    assert {line[1] for line in objects} == {each.sop_instance_uid for each in world.study}


@DCMJS.cell(Role.SCP, "move")
def move(world: World) -> str:
    with storescp(world.folder()) as scp:
        world.ways["DCMJS"].target = scp.dicom_address
        done = script("query.cjs", world.scp, "move", STUDY, "DCMJS")
        assert lines(done, "status") == [["status", "0000", "3", "0"]]
        world.check_received(list(scp.directory.iterdir()), world.study)
    return "to storescp"


@DCMJS.cell(Role.SCP, "cancel")
def cancel(world: World) -> None:
    *_, final = lines(script("query.cjs", world.scp, "cancel", ""), "match", "status")
    assert final in (["status", "fe00"], ["status", "0000"]), final


@DCMJS.cell(Role.SCP, "worklist")
def worklist(world: World) -> None:
    done = script("worklist.cjs", world.scp, "MR", "20261121-20261122")
    found = lines(done, "item", "status")
    assert [line[1] for line in found] == ["BACH^JOHANN", "BACH^ANNA", "0000"], found


@DCMJS.cell(Role.SCP, "MPPS")
def mpps(world: World) -> None:
    uid = world.fresh().sop_instance_uid
    done = script("mpps.cjs", world.scp, uid, "1.2.3", "SPS1")
    told = [" ".join(line) for line in lines(done, "N-CREATE", "N-SET", "N-GET", "step")]
    assert told[:2] == ["N-CREATE 0000", "N-SET 0000"] and told[-1] == "step COMPLETED", told


@DCMJS.cell(Role.SCP, "TLS")
def tls(world: World) -> None:
    sent, shown = world.fresh(), world.certificate("DCMJS")
    security = {
        "key": shown.key.read_text(),
        "cert": shown.certificate.read_text(),
        "ca": world.authority.ca.read_text(),
    }
    address = ("localhost", world.node.tls_address[1])
    with tls_traced(world, "DCMJS"):
        done = script("send.cjs", address, sent.path, securityOptions=security)
    assert lines(done, "status") == [["status", "0000"]] * 2
    world.check_stored(sent)


@DCMJS.cell(Role.SCP, "user identity")
def identity(world: World) -> None:
    for passcode in ("wrong", PASSCODE):
        said = {
            "type": 2,
            "positiveResponseRequested": True,
            "primaryField": USER,
            "secondaryField": passcode,
        }
        done = script("send.cjs", world.scp, title="IDENTIFIED", userIdentity=said)
        assert (done.returncode == 0) is (passcode == PASSCODE), (passcode, done.output)


# -- the node calls ----------------------------------------------------------------------------


@contextlib.contextmanager
def served(world: World, name: str, *words: object) -> Iterator[tuple[Peer, subprocess.Popen[str]]]:
    """Run a script that listens."""
    port = free_port()
    command = [find_program("node") or "node", name, str(port), *map(str, words)]
    process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield Peer("DCMJS", ("127.0.0.1", port), HERE, process.pid), process
    finally:
        end(process)
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def archive_of(world: World, *held: Sample) -> Iterator[str]:
    """Run archive.cjs; yields how the command line writes it."""
    with served(world, "archive.cjs", *(each.path for each in held)) as (peer, _):
        yield world.at("DCMJS", peer.dicom_address)


def _received(world: World, *sent: Sample, tls: tuple[object, ...] = ()) -> None:
    security = {}
    if tls:
        shown = world.certificate("dcmjs")
        security["securityOptions"] = {
            "key": shown.key.read_text(),
            "cert": shown.certificate.read_text(),
            "ca": world.authority.ca.read_text(),
            "requestCert": True,
            "rejectUnauthorized": True,
        }
    with served(world, "receive.cjs", json.dumps(security)) as (peer, process):
        port = peer.dicom_address[1]
        where = f"DCMJS@localhost:{port}" if tls else world.at("DCMJS", peer.dicom_address)
        world.command("send", where, *(each.path for each in sent), *tls)
        assert process.stdout is not None
        told = [process.stdout.readline().split() for _ in sent]
    expected = {("object", each.sop_instance_uid, _digest(each.path)) for each in sent}
    assert set(map(tuple, told)) == expected, told


def _digest(path: Path) -> str:
    return sha256(b"".join(frames(pydicom.dcmread(path)))).hexdigest()


@DCMJS.cell(Role.SCU, "echo")
def asked_echo(world: World) -> None:
    with served(world, "receive.cjs") as (peer, _):
        world.command("echo", world.at("DCMJS", peer.dicom_address))


@DCMJS.cell(Role.SCU, "store")
def asked_store(world: World) -> None:
    _received(world, *world.study)


@DCMJS.cell(Role.SCU, "compressed")
def asked_compressed(world: World) -> None:
    _received(world, *world.compressed)


@DCMJS.cell(Role.SCU, "big object")
def asked_big(world: World) -> str:
    _received(world, world.big())
    return BIG_WORDS


@DCMJS.cell(Role.SCU, "TLS")
def asked_tls(world: World) -> None:
    ours = world.certificate("node")
    tls = ("+tls", ours.key, ours.certificate, "+cf", world.authority.ca)
    _received(world, world.study[0], tls=tls)


@DCMJS.cell(Role.SCU, "find")
def asked_find(world: World) -> None:
    with archive_of(world, world.study[0]) as peer:
        check_find(world, peer)


@DCMJS.cell(Role.SCU, "get")
def asked_get(world: World) -> None:
    with archive_of(world, *world.study) as peer:
        check_get(world, peer, world.study)


@DCMJS.cell(Role.SCU, "cancel")
def asked_cancel(world: World) -> None:
    with archive_of(world, *(world.fresh() for _ in range(20))) as peer:
        check_cancelled(world, peer)


@DCMJS.cell(*(Role.SCU, "character sets"), known="it reads no text of several character sets")
def asked_names(world: World) -> str:
    with archive_of(world, *world.names) as peer:
        return check_names(world, peer)
