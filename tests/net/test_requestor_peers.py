"""Associations that we ask for, with DCMTK's and pynetdicom's storage SCPs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, evt

from dicomnode.dimse.channel import Channel, Proposal
from dicomnode.dimse.command import CStoreRQ
from dicomnode.errors import AssociationError, AssociationRejected
from dicomnode.net.buffers import BufferPool
from dicomnode.net.requestor import Requestor
from dicomnode.scu.outgoing import associate
from dicomnode.ul.items import PresentationContextRQ
from tests import peers, wire
from tests.net.shell import PATIENT

UIDS = [f"1.2.826.0.1.3680043.10.1666.8.{number}" for number in range(1, 5)]


class Quiet:
    """An observer that remembers the words of each end."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def requested(self, channel: Channel) -> None:
        pass

    def request_failed(self, proposal: Proposal, error: AssociationError) -> None:
        pass

    def request_ended(self, channel: Channel, how: str, why: str) -> None:
        self.ends.append(how)


class Pieces:
    """A data set read in pieces of a size that no PDU has."""

    def __init__(self, data: bytes) -> None:
        self.pieces: Iterator[bytes] = (data[at : at + 9999] for at in range(0, len(data), 9999))

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return next(self.pieces, b"")


def image(uid: str) -> bytes:
    return wire.data_set(
        wire.CT_IMAGE_STORAGE, uid, study_uid="1.2.3", series_uid="1.2.4", pixels=bytes(300_000)
    )


async def store_all(address: tuple[str, int], *, called: str = "STORESCP") -> list[int]:
    """Store every image, every other one streamed; return the statuses."""
    observer = Quiet()
    requestor = Requestor(
        numbers=itertools.count(1),
        maximum_pdu_bytes=16384,
        implementation_class_uid="1.2.3",
        implementation_version_name="TEST",
        pool=BufferPool(asyncio.get_running_loop(), 64 * 1024, 1024 * 1024),
        deadlines=PATIENT,
        observer=observer,
    )
    proposal = Proposal(
        host=address[0],
        port=address[1],
        called_ae_title=called,
        calling_ae_title="DICOMNODE",
        contexts=(PresentationContextRQ(1, wire.CT_IMAGE_STORAGE, (wire.EXPLICIT_LE,)),),
    )
    association = await associate(requestor, proposal)
    statuses = []
    for number, uid in enumerate(UIDS):
        request = CStoreRQ(
            affected_sop_class_uid=wire.CT_IMAGE_STORAGE,
            affected_sop_instance_uid=uid,
            message_id=association.requests.next_message_id(),
            has_data_set=True,
            move_originator_ae_title="MOVER",
            move_originator_message_id=7,
        )
        data_set = Pieces(image(uid)) if number % 2 else image(uid)
        response = await association.requests.perform(1, request, data_set, seconds=30)
        statuses.append(response.status)
    await association.channel.release()
    assert observer.ends == ["released"]
    return statuses


@pytest.mark.interop("storescp")
@pytest.mark.parametrize("nodelay", [True, False])
async def test_storescp_takes_what_is_sent_and_streamed(tmp_path: Path, nodelay: bool) -> None:
    with peers.storescp(tmp_path, nodelay=nodelay) as storescp:
        assert await store_all(storescp.dicom_address) == [0] * len(UIDS)
        received = sorted(storescp.directory.iterdir())
        assert len(received) == len(UIDS)
        for file, uid in zip(received, UIDS, strict=True):
            assert file.read_bytes().endswith(image(uid))


async def test_pynetdicom_takes_what_is_sent_and_streamed() -> None:
    received: list[bytes] = []

    def store(event: evt.Event) -> int:
        received.append(event.request.DataSet.getvalue())
        assert event.request.MoveOriginatorApplicationEntityTitle == "MOVER"
        assert event.request.MoveOriginatorMessageID == 7
        return 0xB000

    ae = AE("STORESCP")
    ae.require_called_aet = True
    ae.add_supported_context(wire.CT_IMAGE_STORAGE, [wire.EXPLICIT_LE])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        address = server.server_address[:2]
        assert await store_all(address) == [0xB000] * len(UIDS)
        assert received == [image(uid) for uid in UIDS]
        with pytest.raises(AssociationRejected, match="Called AE title not recognized"):
            await store_all(address, called="SOMEBODY")
    finally:
        server.shutdown()
