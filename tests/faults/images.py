"""Images, and a node that holds them and gives up peers quickly, for the tests of retrieval."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conftest import RunningNode, StartNode
from tests.faults.scu import Image, store
from tests.query_wire import QUERY_RETRIEVE_LEVEL, STUDY_INSTANCE_UID, Answers

OBJECTS = 6
CANCEL, FAILED, SOME_FAILED = 0xFE00, 0xA702, 0xB000
UNKNOWN_DESTINATION = 0xA801
IMAGES = [Image(number, size_bytes=40_000) for number in range(1, OBJECTS + 1)]
STUDY = {QUERY_RETRIEVE_LEVEL: "STUDY", STUDY_INSTANCE_UID: IMAGES[0].study_uid}
QUICK = {"connect_seconds": 0.5, "response_seconds": 0.5}


def retrieving_node(start_node: StartNode, entities: Sequence[dict[str, object]]) -> RunningNode:
    """Return a node that holds the images and gives up peers quickly."""
    node = start_node(entities=entities, timeouts=QUICK, storage={"durability": "relaxed"})
    assert store(node.dicom_address, *IMAGES) == [0] * OBJECTS
    return node


def failed_uids(answers: Answers) -> set[str]:
    """Return the Failed SOP Instance UID List of the final response's identifier."""
    assert answers.final_identifier is not None
    # Implicit VR: tag, length, value; it is the only element.
    assert answers.final_identifier[:4] == b"\x08\x00\x58\x00"
    return set(answers.final_identifier[8:].rstrip(b"\0").decode().split("\\"))
