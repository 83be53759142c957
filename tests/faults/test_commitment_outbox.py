"""Storage commitment reports that wait, beside what else waits for an AE: seen, sent, dropped."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from dicomnode.cli import app
from tests import peers
from tests.commitment_wire import Reports, requesting
from tests.conftest import RunningNode, StartNode
from tests.faults.test_commitment_reports import (
    ALL_KEPT,
    EAGER,
    TRANSACTION,
    WANTED,
    api,
    archive,
    ask,
    attempts,
    known,
    number,
)
from tests.peers import eventually, free_port

PATIENT = {"retry_seconds": 3600, "max_retry_seconds": 3600}
IMPATIENT = {**EAGER, "give_up_seconds": 0.3}


def outbox(node: RunningNode, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["outbox", *arguments, "--config", str(node.config)])
    assert done.exit_code == 0, done.output
    return done.output


def listed(node: RunningNode, *options: str) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(outbox(node, "list", "--json", *options))
    return shown


def test_a_report_that_waits_is_shown_and_sent_on_demand(start_node: StartNode) -> None:
    port = free_port()
    node = archive(
        start_node, {"title": "SCU", "host": "127.0.0.1", "port": port}, commitment=PATIENT
    )
    ask(node.dicom_address)
    eventually(lambda: [row["down_since"] for row in listed(node)] not in ([], [None]))
    (row,) = listed(node)
    assert (row["destination"], row["reports"]) == ("SCU", {"waiting": 1, "dead": 0})
    assert "connection refused" in row["last_error"]
    assert row["next_attempt"] > row["down_since"] + 1000
    assert node.metric("dicomnode_outbox_depth", destination="SCU", state="paused") == 1
    (told,) = api(node, "/api/explain")["explanations"]
    assert (told["kind"], told["calling_ae_title"]) == ("forwarding", "SCU")
    assert "connection refused" in told["reasons"][0]["words"]
    assert outbox(node, "retry", "--destination", "SCU") == "SCU: 1 sent again now\n"
    eventually(lambda: attempts(node, "put off") == 2)


def test_a_report_that_was_given_up_is_listed_and_can_be_sent_all_the_same(
    start_node: StartNode,
) -> None:
    reports = Reports()
    node = archive(start_node, commitment=IMPATIENT)
    ask(node.dicom_address)
    eventually(lambda: number(node, "given up") == 1)
    (dead,) = listed(node, "--dead")
    assert (dead["what"], dead["transaction_uid"]) == ("report", TRANSACTION)
    assert TRANSACTION in outbox(node, "list", "--dead")
    # Who is in no registry stands among the others.
    assert node.metric("dicomnode_outbox_depth", destination="other", state="dead") == 1
    with known(reports) as (_, entity):
        peers.write_registry(node.directory, [entity])
        assert node.reload()
        assert outbox(node, "retry") == "SCU: 1 sent again now\n"
        assert reports.take().outcome == (1, TRANSACTION, ALL_KEPT, {})
        eventually(lambda: number(node, "delivered") == 1)
    assert number(node, "given up") == 0
    assert listed(node, "--dead") == []


def test_a_report_that_was_given_up_can_be_dropped(start_node: StartNode) -> None:
    node = archive(start_node, commitment=IMPATIENT)
    ask(node.dicom_address)
    eventually(lambda: number(node, "given up") == 1)
    assert outbox(node, "drop", "--yes") == "SCU: 1 dropped\n"
    assert listed(node) == []
    # It is forgotten, its Transaction UID too.
    with requesting(node.dicom_address) as wire:
        assert wire.commit(1, TRANSACTION, WANTED) == 0x0000
        wire.abort()
