"""Our SCU with our own node: the window that it grants, and C-CANCEL of its services."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from dicomnode import open_association
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import receiving
from dicomnode.scu.files import into
from dicomnode.scu.objects import Instance
from tests import peers, wire
from tests.conftest import StartNode

CT, EXPLICIT = wire.CT_IMAGE_STORAGE, wire.EXPLICIT_LE
STUDIES = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ""}
COUNT = 200


def instance(number: int, pixels: int = 0) -> Instance:
    uid = f"1.2.3.{number}"
    data = wire.data_set(
        CT, uid, study_uid=f"1.2.{number}", series_uid=f"{uid}.1", pixels=bytes(pixels)
    )
    return Instance(
        sop_class_uid=CT,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT,
        data_set=data,
        size=len(data),
    )


async def store(association: Association, numbers: range, pixels: int = 0) -> None:
    answers = await asyncio.gather(
        *(association.store(instance(number, pixels)) for number in numbers)
    )
    assert {answer.status for answer in answers} == {0}


def written(node: object) -> str:
    return "DICOMNODE@{}:{}".format(*node.dicom_address)  # type: ignore[attr-defined]


async def test_many_operations_are_under_way_on_one_association(start_node: StartNode) -> None:
    node = await asyncio.to_thread(start_node, storage={"durability": "relaxed"})
    async with open_association(
        written(node), contexts=["echo", "find", (CT, [EXPLICIT])], max_operations=8
    ) as association:
        assert association.negotiated.max_operations_invoked == 8
        await asyncio.gather(
            store(association, range(COUNT)), *(association.echo() for _ in range(50))
        )
        queries = [association.find(STUDIES) for _ in range(4)]

        async def count(number: int) -> int:
            return len([match async for match in queries[number]])

        assert await asyncio.gather(*map(count, range(4))) == [COUNT] * 4
        assert all(query.answer is not None and query.answer.ok for query in queries)


async def test_a_query_that_is_left_ends_and_others_go_on(start_node: StartNode) -> None:
    node = await asyncio.to_thread(start_node, storage={"durability": "relaxed"})
    contexts = ["echo", "find", (CT, [EXPLICIT])]
    async with open_association(written(node), contexts=contexts) as association:
        await store(association, range(COUNT))
        for _ in range(3):
            async with aclosing(association.find(STUDIES)) as matches:
                assert (await anext(matches)).StudyInstanceUID
        assert (await association.echo()).ok
        assert len([match async for match in association.find(STUDIES)]) == COUNT


async def test_a_retrieval_that_is_left_ends_before_all_objects(
    start_node: StartNode, tmp_path: Path
) -> None:
    node = await asyncio.to_thread(start_node, storage={"durability": "relaxed"})
    contexts, roles = receiving([(CT, [EXPLICIT])])
    async with open_association(written(node), contexts=[(CT, [EXPLICIT])]) as association:
        await store(association, range(COUNT), pixels=100_000)
    async with open_association(
        written(node), contexts=["get", "echo", *contexts], roles=roles
    ) as association:
        wanted = {
            "QueryRetrieveLevel": "STUDY",
            "StudyInstanceUID": [f"1.2.{number}" for number in range(COUNT)],
        }
        async with aclosing(association.get(wanted, into(tmp_path))) as retrieval:
            progress = await anext(retrieval)
            assert progress.remaining and progress.remaining > COUNT // 2
        assert (await association.echo()).ok
        assert len(list(tmp_path.glob("*.dcm"))) < COUNT
        answer = await association.get(wanted, into(tmp_path)).finished()
        assert answer.raise_for_status().ok
        assert len(list(tmp_path.glob("*.dcm"))) == COUNT


@pytest.mark.interop("storescp")
async def test_moves_at_once_are_told_apart(start_node: StartNode, storescp: peers.Peer) -> None:
    host, port = storescp.dicom_address
    entities = [{"title": "STORESCP", "host": host, "port": port}]
    node = await asyncio.to_thread(start_node, entities=entities, storage={"durability": "relaxed"})
    contexts = ["move", (CT, [EXPLICIT])]
    async with open_association(written(node), contexts=contexts, max_operations=4) as association:
        await store(association, range(12))
        moves = [
            association.move(
                {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": f"1.2.{number}"}, "STORESCP"
            )
            for number in range(12)
        ]
        answers = await asyncio.gather(*(move.finished() for move in moves))
        assert all(answer.ok for answer in answers)
    assert len(list(storescp.directory.iterdir())) == 12
