"""C-STORE: what goes out for a file, a Dataset and bytes, and on which context."""

from __future__ import annotations

import asyncio
import tempfile
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from dicomnode import open_association
from dicomnode.dimse.command import Priority
from dicomnode.errors import AssociationAborted, ContextNotAccepted, ConversionFailed, Unreadable
from dicomnode.scu.association import Association
from dicomnode.scu.objects import Instance, file_kinds
from dicomnode.scu.proposals import proposals
from dicomnode.storage.part10 import file_meta
from tests import wire
from tests.interop.samples import data_set_bytes
from tests.scu.scripted import Conversation, Message, scripted

CT, IMPLICIT, EXPLICIT = wire.CT_IMAGE_STORAGE, wire.IMPLICIT_LE, wire.EXPLICIT_LE
MR = "1.2.840.10008.5.1.4.1.1.4"
RLE = "1.2.840.10008.1.2.5"


@dataclass
class Taken:
    """What a peer was sent."""

    messages: list[Message] = field(default_factory=list)

    def text(self, tag: int) -> str:
        return self.messages[-1].command[tag].decode().rstrip("\0 ")


@asynccontextmanager
async def storing(contexts: Sequence[Any]) -> AsyncIterator[tuple[Association, Taken]]:
    taken = Taken()

    async def script(peer: Conversation) -> None:
        await peer.accept()
        while True:
            message = await peer.hear()
            taken.messages.append(message)
            peer.answer(message)

    async with (
        scripted(script) as peer,
        open_association(peer.written, contexts=contexts) as association,
    ):
        yield association, taken


def sample(name: str) -> Path:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path)


async def test_a_file_is_sent_as_it_lies() -> None:
    path = sample("CT_small.dcm")
    async with storing([(CT, [EXPLICIT])]) as (association, taken):
        assert (await association.store(path, priority=Priority.HIGH)).ok
        assert taken.messages[0].data == data_set_bytes(path)
        assert taken.text(0x1000) == pydicom.dcmread(path).SOPInstanceUID
        assert taken.messages[0][0x0700] == Priority.HIGH


async def test_the_move_originator_is_named(tmp_path: Path) -> None:
    async with storing([(CT, [EXPLICIT])]) as (association, taken):
        await association.store(
            sample("CT_small.dcm"), move_originator_ae_title="MOVER", move_originator_message_id=7
        )
        assert taken.text(0x1030) == "MOVER" and taken.messages[0][0x1031] == 7


async def test_a_long_file_is_sent_in_pieces(tmp_path: Path) -> None:
    data = wire.data_set(CT, "1.2.3", study_uid="1.2", series_uid="1.2", pixels=bytes(5_000_000))
    path = tmp_path / "long.dcm"
    path.write_bytes(file_meta(CT, "1.2.3", EXPLICIT) + data)
    async with storing([(CT, [EXPLICIT])]) as (association, taken):
        assert (await association.store(path)).ok
        assert taken.messages[0].data == data


async def test_where_the_file_meta_says_otherwise_the_data_set_is_right(tmp_path: Path) -> None:
    data = wire.data_set(CT, "1.2.3", study_uid="1.2", series_uid="1.2")
    path = tmp_path / "wrong.dcm"
    path.write_bytes(file_meta(MR, "9.9.9", EXPLICIT) + data)
    async with storing([(CT, [EXPLICIT])]) as (association, taken):
        assert (await association.store(path)).ok
        assert (taken.text(0x0002), taken.text(0x1000)) == (CT, "1.2.3")


async def test_a_dataset_is_sent_in_its_own_transfer_syntax() -> None:
    read = pydicom.dcmread(sample("CT_small.dcm"))
    async with storing([(CT, [IMPLICIT]), (CT, [EXPLICIT])]) as (association, taken):
        assert (await association.store(read)).ok
        assert taken.messages[0].context_id == 3
        assert taken.messages[0].data == data_set_bytes(sample("CT_small.dcm"))


async def test_a_new_dataset_is_written_in_a_transfer_syntax_that_was_accepted() -> None:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.PatientName = CT, "1.2.3", "Doe^Jane"
    async with storing([(CT, [IMPLICIT])]) as (association, taken):
        assert (await association.store(made)).ok
        assert taken.messages[0].data is not None and b"Doe^Jane" in taken.messages[0].data
        with pytest.raises(ValueError, match="SOP Instance UID"):
            await association.store(Dataset())


@pytest.mark.parametrize("uid", ["", "no uid", "1." + "2" * 64])
async def test_a_dataset_whose_uid_is_none_is_not_sent(uid: str) -> None:
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of the same
        dataset.SOPInstanceUID = uid
    async with storing([(CT, [EXPLICIT])]) as (association, _):
        with pytest.raises(ValueError, match=r"SOP [iI]nstance"):
            await association.store(dataset)
        assert (await association.store(sample("CT_small.dcm"))).ok


async def test_bytes_are_sent_as_they_are() -> None:
    data = wire.data_set(CT, "1.2.3", study_uid="1.2", series_uid="1.2")
    instance = Instance(
        sop_class_uid=CT,
        sop_instance_uid="1.2.3",
        transfer_syntax_uid=EXPLICIT,
        data_set=data,
        size=len(data),
    )
    async with storing([(CT, [EXPLICIT])]) as (association, taken):
        assert (await association.store(instance)).ok
        assert taken.messages[0].data == data


@pytest.mark.parametrize("in_memory", [False, True])
async def test_what_is_not_accepted_as_it_lies_is_converted(in_memory: bool) -> None:
    path = sample("MR_small_RLE.dcm")
    what: Any = pydicom.dcmread(path) if in_memory else path
    async with storing([(MR, [EXPLICIT, IMPLICIT])]) as (association, taken):
        assert (await association.store(what)).ok
        assert taken.messages[0].data is not None
        pixels = data_set_bytes(sample("MR_small.dcm"))[-64 * 64 * 2 :]
        assert pixels in taken.messages[0].data


async def test_what_is_still_to_be_converted_at_the_end_of_the_block_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = pydicom.dcmread(sample("MR_small_RLE.dcm"))
    async with storing([(MR, [EXPLICIT])]) as (association, _):
        stores = [asyncio.create_task(association.store(dataset)) for _ in range(2)]
        while not list(tmp_path.iterdir()):
            await asyncio.sleep(0.001)
    for outcome in await asyncio.gather(*stores, return_exceptions=True):
        assert isinstance(outcome, ConversionFailed | AssociationAborted), outcome
    assert list(tmp_path.iterdir()) == []


async def test_what_cannot_be_sent_says_why_and_stops_nothing(tmp_path: Path) -> None:
    path = sample("CT_small.dcm")
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(sample("MR_small_RLE.dcm").read_bytes()[:-3000])
    (tmp_path / "text.dcm").write_text("hello")
    async with storing([(MR, [EXPLICIT])]) as (association, taken):
        with pytest.raises(ContextNotAccepted, match="CT Image Storage: no presentation context"):
            await association.store(path)
        with pytest.raises(Unreadable, match="No such file"):
            await association.store(tmp_path / "missing.dcm")
        with pytest.raises(Unreadable, match="not a DICOM file"):
            await association.store(tmp_path / "text.dcm")
        with pytest.raises(ConversionFailed):
            await association.store(broken)
        assert (await association.store(sample("MR_small.dcm"))).ok
        assert len(taken.messages) == 1


async def test_a_file_that_shrinks_while_it_is_sent_ends_the_association(tmp_path: Path) -> None:
    data = wire.data_set(CT, "1.2.3", study_uid="1.2", series_uid="1.2", pixels=bytes(5_000_000))
    path = tmp_path / "long.dcm"
    path.write_bytes(file_meta(CT, "1.2.3", EXPLICIT) + data)
    async with storing([(CT, [EXPLICIT])]) as (association, _):
        from dicomnode.scu.objects import file_instance

        instance = file_instance(path)
        with path.open("r+b") as file:
            file.truncate(2_000_000)
        with pytest.raises(AssociationAborted, match="the file is shorter than it was"):
            await association.store(instance)


async def test_files_say_what_contexts_they_need() -> None:
    kinds = await file_kinds([sample("CT_small.dcm"), sample("MR_small_RLE.dcm")])
    ((served, contexts),) = proposals(dict.fromkeys(kind.kind for kind in kinds))
    assert served == {(CT, EXPLICIT), (MR, RLE)}
    async with storing(contexts) as (association, taken):
        for kind in kinds:
            assert (await association.store(kind.path)).ok
        assert [message.context_id for message in taken.messages] == [1, 5]
