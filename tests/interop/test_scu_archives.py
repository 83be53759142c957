"""Our SCU with archives that others wrote, and with our own node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from dicomnode import open_association
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import receiving
from dicomnode.scu.files import into
from dicomnode.scu.objects import FileKind, file_kind, file_kinds
from dicomnode.scu.proposals import proposals
from tests import peers
from tests.interop.pynet_archive import pynet_archive
from tests.interop.samples import data_set_bytes

pytestmark = pytest.mark.interop("storescp", "dcmqrscp", "Orthanc")

NAMES = ("CT_small.dcm", "MR_small.dcm")
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
Destinations = dict[str, peers.Address]


def sample(name: str) -> Path:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path)


@contextlib.contextmanager
def dcmqrscp(directory: Path, destinations: Destinations) -> Iterator[str]:
    with peers.dcmqrscp(directory, destinations=destinations) as peer:
        yield "{}@{}:{}".format(peer.ae_title, *peer.dicom_address)


@contextlib.contextmanager
def orthanc(directory: Path, destinations: Destinations) -> Iterator[str]:
    modalities = {title: [title, *address] for title, address in destinations.items()}
    with peers.orthanc(directory, DicomModalities=modalities) as peer:
        yield "{}@{}:{}".format(peer.ae_title, *peer.dicom_address)


@contextlib.contextmanager
def node(directory: Path, destinations: Destinations) -> Iterator[str]:
    entities = [
        {"title": title, "host": host, "port": port} for title, (host, port) in destinations.items()
    ]
    with peers.node_process(directory, entities=entities) as process:
        yield "DICOMNODE@{}:{}".format(*process.dicom_address)


@contextlib.contextmanager
def pynetdicom(directory: Path, destinations: Destinations) -> Iterator[str]:
    with pynet_archive(destinations) as (_, address):
        yield "PYNETDICOM@{}:{}".format(*address)


Start = Callable[[Path, Destinations], AbstractContextManager[str]]


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Peer]:
    with peers.storescp(tmp_path_factory.mktemp("destination")) as peer:
        yield peer


@pytest.fixture(scope="module", params=[dcmqrscp, orthanc, node, pynetdicom])
def archive(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    destination: peers.Peer,
) -> Iterator[str]:
    """Return how an archive is written that holds the samples by our own C-STORE."""
    start: Start = request.param
    directory = tmp_path_factory.mktemp(start.__name__)
    with start(directory, {"STORESCP": destination.dicom_address}) as written:
        yield written


@pytest.fixture
async def kinds() -> list[FileKind]:
    return await file_kinds(map(sample, NAMES))


@pytest.fixture
async def held(archive: str, kinds: list[FileKind]) -> list[FileKind]:
    """Store the samples; an archive that has them takes them again."""
    ((_, contexts),) = proposals(dict.fromkeys(each.kind for each in kinds))
    async with open_association(archive, contexts=contexts) as association:
        for each in kinds:
            (await association.store(each.path)).raise_for_status()
    return kinds


@contextlib.asynccontextmanager
async def retrieving(archive: str, held: Sequence[FileKind]) -> AsyncIterator[Association]:
    kinds: list[Any] = [(each.sop_class_uid, [each.transfer_syntax_uid]) for each in held]
    contexts, roles = receiving(kinds)
    services = ["echo", "find", "move", "get"]
    async with open_association(archive, contexts=[*services, *contexts], roles=roles) as made:
        yield made


def study_uid(kind: FileKind) -> str:
    return str(pydicom.dcmread(kind.path, stop_before_pixels=True).StudyInstanceUID)


async def test_echo(archive: str) -> None:
    async with open_association(archive) as association:
        assert (await association.echo()).ok


async def test_what_was_stored_is_found(archive: str, held: list[FileKind]) -> None:
    async with retrieving(archive, held) as association:
        matches = association.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
        found = {str(match.StudyInstanceUID) async for match in matches}
        assert found == {study_uid(each) for each in held}
        assert matches.answer is not None and matches.answer.status == 0


async def test_what_was_stored_comes_back_by_get(
    archive: str, held: list[FileKind], tmp_path: Path
) -> None:
    async with retrieving(archive, held) as association:
        for each in held:
            wanted = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study_uid(each)}
            answer = await association.get(wanted, into(tmp_path)).finished()
            assert answer.raise_for_status().ok
    for each in held:
        path = tmp_path / f"{each.sop_instance_uid}.dcm"
        assert file_kind(path).kind == each.kind
        came, went = pydicom.dcmread(path), pydicom.dcmread(each.path)
        assert (came.PatientName, came.PixelData) == (went.PatientName, went.PixelData)
        if archive.startswith("DICOMNODE"):
            assert data_set_bytes(path) == data_set_bytes(each.path)


async def test_what_was_stored_is_moved(
    archive: str, held: list[FileKind], destination: peers.Peer
) -> None:
    for path in destination.directory.iterdir():
        path.unlink()
    async with retrieving(archive, held) as association:
        wanted = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study_uid(held[0])}
        retrieval = association.move(wanted, "STORESCP")
        answer = (await retrieval.finished()).raise_for_status()
        assert answer.response.service == "C-MOVE"
        answer = await association.move(wanted, "NOBODY").finished()
        assert not answer.ok
    assert len(list(destination.directory.iterdir())) == 1


async def test_a_query_that_is_left_early_leaves_the_association_usable(
    archive: str, held: list[FileKind]
) -> None:
    async with retrieving(archive, held) as association:
        matches = association.find({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""})
        await anext(matches)
        await matches.aclose()
        assert (await association.echo()).ok
