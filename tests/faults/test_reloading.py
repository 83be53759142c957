"""Forward rules and the log level, changed while a node runs."""

from __future__ import annotations

import time

import jwt

from tests import peers
from tests.conftest import RunningNode, StartNode
from tests.destination import Conversation, destination
from tests.faults.scu import Image, store
from tests.faults.test_limits import explained
from tests.peers import eventually
from tests.wire import ASSOCIATE_AC, ASSOCIATE_RJ, Wire


def whole(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take()


def reload(node: RunningNode, **tables: object) -> bool:
    """Change the node's files and have it read them again."""
    store_directory = {"directory": str(node.store_directory)}
    peers.write_config(node.directory, storage=store_directory, **tables)  # type: ignore[arg-type]
    return node.reload()


def waiting(node: RunningNode) -> float:
    return node.metric("dicomnode_outbox_depth")


def test_a_rule_that_is_added_holds_for_what_is_received_then(start_node: StartNode) -> None:
    first, second, third = (Image(number) for number in range(1, 4))
    with destination(whole) as target:
        node = start_node()
        store(node.dicom_address, first)
        entities = [target.entity("D0")]
        assert reload(node, entities=entities, forward=[{"name": "all", "to": ["D0"]}])
        store(node.dicom_address, second)
        eventually(lambda: target.stored == [second.uid], "the second image arrived")
        assert reload(node, entities=entities)
        store(node.dicom_address, third)
        assert waiting(node) == 0
        assert target.stored == [second.uid]


def test_a_rule_may_look_further_into_objects_than_those_before(start_node: StartNode) -> None:
    image = Image(1)
    with destination(whole) as target:
        node = start_node()
        beyond = {"name": "far", "to": ["D0"], "attributes": {"PresentationLUTShape": "*"}}
        everything = {"name": "all", "to": ["D0"], "attributes": {"PatientID": "*"}}
        rules = [beyond, everything]
        assert reload(node, entities=[target.entity("D0")], forward=rules)
        store(node.dicom_address, image)
        eventually(lambda: target.stored == [image.uid], "the image arrived")


def test_a_registry_without_a_destination_of_the_rules_is_not_taken(
    start_node: StartNode,
) -> None:
    image = Image(1)
    with destination(whole) as target:
        rules = [{"name": "all", "to": ["D0"]}]
        node = start_node(entities=[target.entity("D0")], forward=rules)
        assert not reload(node, forward=rules)
        store(node.dicom_address, image)
        eventually(lambda: target.stored == [image.uid], "the image arrived")


def test_the_issuer_of_tokens_is_taken_while_the_node_runs(start_node: StartNode) -> None:
    access = {"unknown_ae": "allow", "user_identity": "optional", "credentials_without_tls": True}
    node = start_node(access=access)
    claims = {"iss": "issuer", "aud": "DICOMNODE", "sub": "joe", "exp": time.time() + 60}
    token = jwt.encode(claims, "s" * 32, algorithm="HS256").encode()

    def answer() -> int:
        with Wire(node.dicom_address) as wire:
            return wire.associate(identity=(5, token, b""))[0]

    def places() -> dict[str, str]:
        (entry,) = explained(node)
        return {place["key"]: place["value"] for place in entry["configuration"]}

    assert answer() == ASSOCIATE_RJ
    assert places()["jwt.key_file"] == "not set"
    key = node.directory / "issuer.key"
    key.write_text("s" * 32)
    issuer = {"key_file": str(key), "algorithm": "HS256", "issuer": "issuer"}
    assert not reload(node, access=access, jwt=issuer)
    assert answer() == ASSOCIATE_RJ
    assert reload(node, access=access, jwt={**issuer, "audience": "DICOMNODE"})
    assert answer() == ASSOCIATE_AC
    assert places()["jwt.key_file"] == f'"{key}"'
