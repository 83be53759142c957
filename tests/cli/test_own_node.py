"""Objects on their way from a peer into the running node."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dicomnode.cli.own_node import OwnNode, own_node
from dicomnode.cli.peers import Options
from dicomnode.errors import AssociationAborted, StatusError
from dicomnode.settings import load_settings
from dicomnode.sync.tree import Held
from tests import wire
from tests.conftest import RunningNode
from tests.scu.test_files import arriving

CT, EXPLICIT = wire.CT_IMAGE_STORAGE, wire.EXPLICIT_LE
DATA = wire.data_set(CT, "1.2.3", study_uid="1.2", series_uid="1.2")


def held(sha256: str = "") -> Held:
    return Held("1.2", "1.2", "1.2.3", CT, EXPLICIT, sha256)


@pytest.fixture
async def own(node: RunningNode) -> AsyncIterator[OwnNode]:
    settings = load_settings(node.config)
    options = Options(node.config, None, None, 10.0, 30.0, 60.0, 131072, False, False)
    place = OwnNode(settings, own_node(settings, "TEST"), options)
    await place.begin([(CT, EXPLICIT)])
    yield place
    await place.close()


async def test_what_comes_with_other_bytes_is_refused_with_that_reason(
    own: OwnNode, node: RunningNode
) -> None:
    with pytest.raises(StatusError, match="not those that are held") as raised:
        await own.receive(held("0" * 64), arriving(DATA))
    assert raised.value.status == 0xC000
    assert node.files() == []
    assert (await own.receive(held(), arriving(DATA))).size == len(DATA)
    assert len(node.files()) == 1


async def test_a_peer_that_is_lost_is_not_blamed_on_the_node(
    own: OwnNode, node: RunningNode
) -> None:
    with pytest.raises(AssociationAborted, match="A-ABORT received"):
        await own.receive(held(), arriving(DATA[:20], why_lost="A-ABORT received"))
    assert node.files() == []
