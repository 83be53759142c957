"""Our SCU with pynetdicom as SCP: the N- operations, the window, and C-CANCEL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind, Verification

from dicomnode import open_association
from dicomnode.scu.names import MODALITY_PERFORMED_PROCEDURE_STEP as MPPS
from dicomnode.scu.names import STORAGE_COMMITMENT_PUSH_MODEL as COMMITMENT
from dicomnode.ul.items import RoleSelection
from tests.interop.pynet_archive import Archive, pynet_archive

STEP = "1.2.826.0.1.3680043.9.1"
PRINT = "BasicGrayscalePrintManagementMeta"
FILM_SESSION = "BasicFilmSession"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"


@pytest.fixture
def archive() -> Iterator[tuple[Archive, str]]:
    with pynet_archive({}) as (archive, address):
        yield archive, "PYNETDICOM@{}:{}".format(*address)


async def test_a_performed_procedure_step_is_made_changed_read_and_removed(
    archive: tuple[Archive, str],
) -> None:
    peer = archive[1]
    async with open_association(peer, contexts=["mpps"]) as association:
        begun = {"PerformedProcedureStepStatus": "IN PROGRESS", "Modality": "CT"}
        answer = await association.n_create(MPPS, STEP, begun)
        made = answer.raise_for_status().data_set()
        assert made is not None and made.Modality == "CT"
        answer = await association.n_create(MPPS, STEP, begun)
        assert (answer.ok, answer.status) == (False, 0x0111)

        done = Dataset()
        done.PerformedProcedureStepStatus = "COMPLETED"
        assert (await association.n_set(MPPS, STEP, done)).ok
        assert (await association.n_set(MPPS, "1.2.3", done)).status == 0x0112

        answer = await association.n_get(MPPS, STEP, [0x00400252, 0x00080060])
        read = answer.raise_for_status().data_set()
        assert read is not None
        assert (read.PerformedProcedureStepStatus, read.Modality) == ("COMPLETED", "CT")


async def test_a_film_session_is_made_and_deleted_on_the_context_of_its_meta_sop_class(
    archive: tuple[Archive, str],
) -> None:
    async with open_association(archive[1], contexts=[PRINT]) as association:
        answer = await association.n_create(
            FILM_SESSION, STEP, {"NumberOfCopies": 2}, context=PRINT
        )
        made = answer.raise_for_status().data_set()
        assert made is not None and made.NumberOfCopies == 2
        assert (await association.n_delete(FILM_SESSION, STEP, context=PRINT)).ok
        answer = await association.n_delete(FILM_SESSION, STEP, context=PRINT)
        assert answer.status == 0x0112


async def test_storage_commitment_is_asked_for_and_reported(archive: tuple[Archive, str]) -> None:
    keeper, peer = archive
    information = {"TransactionUID": "1.2.3.4", "ReferencedSOPSequence": []}
    roles = [RoleSelection(COMMITMENT, scu=True, scp=True)]
    async with open_association(peer, contexts=["commitment"], roles=roles) as association:
        answer = await association.n_action(COMMITMENT, WELL_KNOWN, 1, information)
        assert answer.raise_for_status().response.service == "N-ACTION"
        answer = await association.n_event_report(COMMITMENT, WELL_KNOWN, 2, information)
        assert answer.raise_for_status().response.service == "N-EVENT-REPORT"
    (what, kind, asked), (reported, event, _) = keeper.asked
    assert (what, kind, reported, event) == ("action", 1, "report", 2)
    assert asked is not None and asked.TransactionUID == "1.2.3.4"


async def test_the_window_that_a_peer_does_not_grant_is_one() -> None:
    proposed: list[tuple[int, int]] = []

    def window(event: evt.Event) -> tuple[int, int]:
        proposed.append((event.nr_invoked, event.nr_performed))
        return 1, 1

    entity = AE("PYNETDICOM")
    entity.add_supported_context(Verification)
    handlers: list[Any] = [(evt.EVT_ASYNC_OPS, window)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        peer = "PYNETDICOM@{}:{}".format(*server.server_address)
        async with open_association(peer, max_operations=8) as association:
            assert association.negotiated.max_operations_invoked == 1
            answers = await asyncio.gather(*(association.echo() for _ in range(20)))
            assert all(answer.ok for answer in answers)
    finally:
        server.shutdown()
    assert proposed == [(8, 1)]
    assert AsynchronousOperationsWindowNegotiation().maximum_number_operations_invoked == 1


async def test_a_query_that_is_left_is_cancelled() -> None:
    cancelled: list[bool] = []

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        match = Dataset()
        match.QueryRetrieveLevel, match.StudyInstanceUID = "STUDY", "1.2.3"
        for _ in range(1_000_000):
            if event.is_cancelled:
                cancelled.append(True)
                yield 0xFE00, None
                return
            yield 0xFF00, match

    entity = AE("PYNETDICOM")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)]
    )
    assert server is not None
    try:
        peer = "PYNETDICOM@{}:{}".format(*server.server_address)
        wanted = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
        async with open_association(peer, contexts=["find"], cancel_seconds=30) as association:
            for _ in range(2):
                matches = association.find(wanted)
                for _ in range(100):
                    assert (await anext(matches)).StudyInstanceUID == "1.2.3"
                await matches.aclose()
    finally:
        server.shutdown()
    assert cancelled == [True, True]
