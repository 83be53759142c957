"""What the cells of the matrix need: a node that holds known objects, its peers' ways, checks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.encaps import generate_frames
from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

from dicomnode.users import User, change_users, hash_passcode
from tests import peers, proof
from tests.authority import Authority, Issued, node_tls
from tests.cli.commands import STUDY, make_study, run
from tests.interop import worklists
from tests.interop.holdings import send
from tests.interop.matrix.traffic import Relay, Traffic
from tests.interop.samples import Sample, charset_samples, read_sample, samples
from tests.peers import Address, Finished, NodeProcess

TITLES = ("DCMTK", "GDCMSCU", "ORTHANC", "PYNETDICOM", "DCMJS", "ODIL", "PIXELMED")
"""AE titles of the peers that objects are moved to, and of those that are asked to commit."""
STEP_TITLES = ("PYNETDICOM",)
"""Of the peers that are told of performed procedure steps."""
COMPRESSED = ("JPEG2000.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm")
USER, PASSCODE = "jane", "correct horse"
BIG_SIDE = 12_288 if proof.long else 2_048
"""Rows and columns of the big object, of two bytes each: 302 MB in the long form."""
BIG_WORDS = f"{2 * BIG_SIDE**2 // 1_000_000} MB"


@dataclass(slots=True)
class World:
    """A node with TLS, a worklist, users and ``study``, and the ways to and from it."""

    directory: Path
    node: NodeProcess
    traffic: Traffic
    authority: Authority
    ways: Mapping[str, Relay]
    study: list[Sample]
    compressed: list[Sample]
    names: list[Sample]
    scp: Address = ("", 0)
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _made: int = 0
    _shared: dict[str, peers.Peer] = field(default_factory=dict)
    _shown: dict[str, Issued] = field(default_factory=dict)

    # -- the node and its peers ------------------------------------------------------------------

    @property
    def store(self) -> Path:
        """The node's storage directory."""
        return self.node.config.parent / "store"

    def folder(self) -> Path:
        """Return a new directory."""
        self._made += 1
        made = self.directory / f"cell{self._made}"
        made.mkdir()
        return made

    def through(self, peer: Address) -> Address:
        """Return an address whose connections go to ``peer`` and are recorded."""
        return self.traffic.relay(peer).address

    def certificate(self, name: str) -> Issued:
        """Return a certificate for a peer."""
        if name not in self._shown:
            self._shown[name] = self.authority.issue(name, "localhost", "127.0.0.1")
        return self._shown[name]

    def command(self, *words: object) -> str:
        """Run ``dicomnode``; return its standard output. AssertionError when it fails."""
        done = run(*words)
        assert done.code == 0, f"exit code {done.code}: {done.err or done.out}"
        return done.out

    def commit(self, title: str) -> str:
        """Have the node ask a peer to commit itself to the study; return what it was told."""
        return self.command("commit", title, "--study", STUDY, "--config", self.node.config)

    def at(self, title: str, peer: Address) -> str:
        """Return how the command line writes a peer, through the recorder."""
        host, port = self.through(peer)
        return f"{title}@{host}:{port}"

    def shared(
        self, name: str, start: Callable[[], AbstractContextManager[peers.Peer]]
    ) -> peers.Peer:
        """Return a peer that is started once and runs until the matrix is done."""
        if name not in self._shared:
            self._shared[name] = self.running.enter_context(start())
        return self._shared[name]

    # -- objects ---------------------------------------------------------------------------------

    def fresh(self, base: Sample | None = None, title: str = "", **values: object) -> Sample:
        """Return a copy of an object with UIDs that nobody has; ``title`` is its Patient ID."""
        image = pydicom.dcmread((base or self.study[0]).path)
        image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.PatientID = title or "FRESH"
        for keyword, value in values.items():
            setattr(image, keyword, value)
        path = self.folder() / "fresh.dcm"
        image.save_as(path)
        return described(path)

    def big(self) -> Sample:
        """Return a big object with UIDs that nobody has."""
        pixels = bytes(range(256)) * (2 * BIG_SIDE**2 // 256)
        return self.fresh(None, Rows=BIG_SIDE, Columns=BIG_SIDE, PixelData=pixels)

    def tidy(self) -> None:
        """Remove what the cells so far have written, but for what runs still."""
        for path in self.directory.glob("cell*/fresh.dcm"):
            path.unlink()

    def check_stored(self, *sent: Sample) -> None:
        """Check that the node has objects with the pixels and patients that were sent."""
        for each in sent:
            kept = each.stored_path(self.store)
            assert kept.is_file(), f"the node does not have {each.path.name}"
            check_same(kept, each)

    def check_received(self, files: list[Path], expected: list[Sample]) -> None:
        """Check that a peer has exactly these objects; ``files`` are what it keeps."""
        by_uid = {str(pydicom.dcmread(file, force=True).SOPInstanceUID): file for file in files}
        assert set(by_uid) == {each.sop_instance_uid for each in expected}, sorted(by_uid)
        for each in expected:
            check_same(by_uid[each.sop_instance_uid], each)


def described(path: Path) -> Sample:
    """Return a file as a sample."""
    found = read_sample(path)
    assert found is not None, path
    return found


def check_same(file: Path, original: Sample) -> None:
    """Check that a file has the pixels, patient and transfer syntax class of another."""
    came, went = pydicom.dcmread(file, force=True), pydicom.dcmread(original.path)
    assert came.SOPInstanceUID == went.SOPInstanceUID, "another object"
    assert came.get("PatientName") == went.get("PatientName"), "another patient"
    assert frames(came) == frames(went), "other pixels"


def frames(image: pydicom.Dataset) -> list[bytes]:
    """Return the pixels: those that are compressed without their Basic Offset Table."""
    syntax = getattr(image, "file_meta", {}).get("TransferSyntaxUID", ImplicitVRLittleEndian)
    if not UID(syntax).is_compressed:
        return [image.PixelData]
    return [each.rstrip(b"\0") for each in generate_frames(image.PixelData, number_of_frames=1)]


def succeeded(done: Finished, *words: str) -> str:
    """Return what a tool wrote; AssertionError if it failed or wrote not all of ``words``."""
    last = " ".join(done.output.split()[-40:])
    assert done.returncode == 0, f"exit code {done.returncode}: {last}"
    for each in words:
        assert each in done.output, f"no {each!r} in: {last}"
    return done.output


def _entities(ways: Mapping[str, Relay]) -> list[dict[str, object]]:
    return [
        {"title": title, "host": way.address[0], "port": way.address[1]}
        for title, way in ways.items()
    ]


@contextlib.contextmanager
def new_world(directory: Path) -> Iterator[World]:
    """Run the node until the block ends."""
    traffic = Traffic(directory / "traffic")
    ways = {title: traffic.relay() for title in TITLES}
    authority = Authority(directory / "ca")
    worklists.write_files(directory / "worklist")
    home = directory / "node"
    home.mkdir()
    users = [User(name=USER, passcode=hash_passcode(PASSCODE.encode()))]
    change_users(home / "users.toml", lambda before: users, home)
    config = peers.write_config(
        home,
        entities=[
            *_entities(ways),
            {"title": "IDENTIFIED", "user_identity": "required"},
        ],
        forward=[
            {"name": title.lower(), "what": "mpps", "from": [f"{title}_CT"], "to": [title]}
            for title in STEP_TITLES
        ],
        storage={"durability": "relaxed"},
        access={"credentials_without_tls": True},
        worklist={"directory": str(directory / "worklist")},
        tls=node_tls(authority),
    )
    node = NodeProcess(config)
    try:
        node.wait_until_ready()
        by_name = {each.path.name: each for each in samples()}
        world = World(
            *(directory, node, traffic, authority, ways),
            study=[described(path) for path in make_study(directory / "study", 3)],
            compressed=[by_name[name] for name in COMPRESSED],
            names=list({each.study_uid: each for each in charset_samples()}.values()),
        )
        send(node.dicom_address, [*world.study, *world.compressed, *world.names])
        world.scp = world.through(node.dicom_address)
        with world.running:
            yield world
    finally:
        node.close()
        traffic.close()


__all__ = ["STUDY", "World", "check_same", "described", "new_world", "succeeded"]
