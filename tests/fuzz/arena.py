"""A node that serves everything, with a few objects and worklist items in it.

Associations are recorded of requestors that talk to such a node, and what is made of them is said
to another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.authority import Authority, node_tls
from tests.commitment_wire import Reports
from tests.destination import Conversation, destination
from tests.faults.scu import Image, store
from tests.peers import NodeProcess, node_process
from tests.worklist_data import write_worklist_file

STUDY = 7
IMAGES = tuple(Image(number, study=STUDY, size_bytes=2000) for number in range(1, 5))
#: Where C-MOVE goes to, and who asks for storage commitment.
SINK, REQUESTER = "SINK", "FUZZER"


@dataclass(frozen=True, slots=True)
class Arena:
    """The node, and whom its TLS certificate comes from."""

    node: NodeProcess
    authority: Authority


def _take_all(conversation: Conversation) -> None:
    conversation.accept()
    conversation.take()


@contextlib.contextmanager
def arena(directory: Path) -> Iterator[Arena]:
    """Run the node, where C-MOVE goes to, and where reports of storage commitment go to."""
    authority = Authority(directory / "ca")
    worklist = directory / "worklist"
    for number in range(3):
        values = {"PatientID": f"P{number}", "StudyInstanceUID": f"1.2.3.{number}"}
        write_worklist_file(worklist / f"{number}.wl", **values)
    with contextlib.ExitStack() as running:
        sink = running.enter_context(destination(_take_all))
        reports = running.enter_context(destination(Reports()))
        node = running.enter_context(
            node_process(
                directory / "node",
                entities=[sink.entity(SINK), reports.entity(REQUESTER)],
                tls=node_tls(authority, client_certificates="none"),
                storage={
                    "directory": str(directory / "store"),
                    "durability": "relaxed",
                    "accept_unknown_storage": True,
                },
                worklist={"directory": str(worklist)},
                audit={"enabled": True, "file": str(directory / "audit.xml")},
                limits={"max_connections_per_address": 120},
                # Peers that stall are let go of soon.
                timeouts={"artim_seconds": 2, "pdu_seconds": 2, "idle_seconds": 30}
                | {"write_seconds": 5, "connect_seconds": 2, "response_seconds": 5},
            )
        )
        assert store(node.dicom_address, *IMAGES) == [0] * len(IMAGES)
        yield Arena(node, authority)
