"""Objects that DCMTK stored are deleted by command and by rule, and are found no more."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests import peers
from tests.cli.commands import make_study, run
from tests.conftest import RunningNode, StartNode
from tests.peers import free_port, run_tool

pytestmark = pytest.mark.interop("storescu", "findscu", "getscu")
DAY = 24 * 3600.0
STUDY_DELETED = "EventIdentification/EventID[@csd-code='110105']"
OLD, NEW = "1.2.826.0.1.3680043.10.1666.51", "1.2.826.0.1.3680043.10.1666.52"


def send(node: RunningNode, *paths: Path) -> None:
    sent = run_tool("storescu", "-aec", "DICOMNODE", *node.dicom_address, *paths)
    assert sent.returncode == 0, sent.output


def found(node: RunningNode, directory: Path, *keys: str) -> int:
    """Return how many matches findscu gets."""
    directory.mkdir(exist_ok=True)
    for path in directory.iterdir():
        path.unlink()
    options = [part for key in keys for part in ("-k", key)]
    asked = run_tool(
        *("findscu", "-S", "-X", "-od", directory, "-aec", "DICOMNODE", *node.dicom_address),
        *options,
    )
    assert asked.returncode == 0, asked.output
    return len(list(directory.iterdir()))


def got(node: RunningNode, directory: Path, study: str) -> int:
    """Return how many objects of a study getscu gets."""
    directory.mkdir(exist_ok=True)
    run_tool(
        *("getscu", "-S", "-od", directory, "-aec", "DICOMNODE", *node.dicom_address),
        *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"),
    )
    return len(list(directory.iterdir()))


def deletions(node: RunningNode, study: str) -> list[dict[str, str]]:
    """Return what the custody log says of the deletion of a study's objects."""
    with closing(sqlite3.connect(node.store_directory / "index.sqlite")) as index:
        rows = index.execute(
            "SELECT details FROM custody WHERE event = 'deleted' AND study_instance_uid = ?",
            (study,),
        )
        return [json.loads(row[0]) for row in rows]


def test_what_is_deleted_is_found_no_more_and_is_recorded(
    start_node: StartNode, tmp_path: Path
) -> None:
    audit = tmp_path / "audit.xml"
    node = start_node(audit={"enabled": True, "file": str(audit)})
    going = make_study(tmp_path / "going", 6, study=OLD)
    send(node, *going, *make_study(tmp_path / "staying", 3, study=NEW))
    study = ("QueryRetrieveLevel=STUDY", f"StudyInstanceUID={OLD}")
    assert found(node, tmp_path / "f", *study) == 1
    order = ("delete", "--config", node.config, "--study", OLD)
    shown = run(*order, "--dry-run")
    assert shown.code == 0 and "1 study, 1 series, 6 objects" in shown.out
    assert run(*order, "--reason", "sent twice").code == 1, "there is nobody to ask"
    assert node.metric("dicomnode_objects") == 9
    done = run(*order, "--reason", "sent twice", "--yes")
    assert done.code == 0 and "deleted 6 objects" in done.out
    assert found(node, tmp_path / "f", *study) == 0
    assert got(node, tmp_path / "g", OLD) == 0
    assert got(node, tmp_path / "g", NEW) == 3
    assert len(node.files()) == 3
    assert node.metric("dicomnode_objects") == 3
    assert node.metric("dicomnode_deleted_objects_total", why="command") == 6
    assert [details["reason"] for details in deletions(node, OLD)] == ["sent twice"] * 6
    assert run(*order, "--reason", "again", "--yes").code == 2
    send(node, *going)
    assert found(node, tmp_path / "f", *study) == 1
    node.stop()
    told = [ElementTree.fromstring(line) for line in audit.read_text().splitlines()]
    (deleted,) = [each for each in told if each.find(STUDY_DELETED) is not None]
    people = {each.get("UserID"): each for each in deleted.findall("ActiveParticipant")}
    assert [each.get("UserIsRequestor") for each in people.values()] == ["false", "true"]
    assert deleted.find(".//SOPClass[@NumberOfInstances='6']") is not None


def test_nothing_is_deleted_while_it_waits_for_a_destination(
    start_node: StartNode, tmp_path: Path
) -> None:
    node = start_node(
        entities=[{"title": "PACS", "host": "127.0.0.1", "port": free_port()}],
        forward=[{"name": "all", "to": ["PACS"]}],
    )
    send(node, *make_study(tmp_path / "images", 3, study=OLD))
    order = ("delete", "--config", node.config, "--study", OLD, "--reason", "old", "--yes")
    refused = run(*order)
    assert refused.code == 2 and "is still to be sent to PACS" in refused.err
    assert run("delete", "--config", node.config, "--study", OLD, "--dry-run").code == 2
    assert len(node.files()) == 3
    assert run("outbox", "drop", "--all", "--yes", "--config", node.config).code == 0
    assert run(*order).code == 0
    assert node.files() == []


def test_a_node_that_does_not_run_is_deleted_from_likewise(
    start_node: StartNode, tmp_path: Path
) -> None:
    directory = tmp_path / "node"
    node = start_node(directory=directory)
    send(
        node,
        *make_study(tmp_path / "going", 4, study=OLD),
        *make_study(tmp_path / "staying", 2, study=NEW, patient_id="4712"),
    )
    node.stop()
    done = run("delete", "--config", node.config, "--patient", "4711", "--reason", "old", "--yes")
    assert done.code == 0 and "deleted 4 objects" in done.out, done.err
    assert len(node.files()) == 2
    node = start_node(directory=directory)
    assert got(node, tmp_path / "g", NEW) == 2
    assert [details["reason"] for details in deletions(node, OLD)] == ["old"] * 4


def age(node: RunningNode, study: str, days: float) -> None:
    """Have a study been received so long ago; the node does not run."""
    with closing(sqlite3.connect(node.store_directory / "index.sqlite")) as index:
        index.execute(
            "UPDATE instance SET received_at = ? WHERE series IN (SELECT series.id FROM series"
            " JOIN study ON study.id = series.study WHERE study_instance_uid = ?)",
            (time.time() - days * DAY, study),
        )
        index.commit()


def test_a_rule_deletes_what_its_dry_run_shows_and_a_reload_changes_it(
    start_node: StartNode, tmp_path: Path
) -> None:
    directory = tmp_path / "node"
    rule = {"name": "old", "modalities": ["CT"], "keep_days": 90}
    node = start_node(directory=directory, retention=[rule])
    send(
        node,
        *make_study(tmp_path / "going", 4, study=OLD),
        *make_study(tmp_path / "staying", 2, study=NEW),
    )
    node.stop()
    age(node, OLD, 60)
    node = start_node(directory=directory, retention=[rule])
    command = ("retention", "--config", node.config)
    soon = json.loads(run(*command, "--dry-run", "--within", 31, "--json").out)
    assert soon["going"]["objects"] == 0
    assert [(each["objects"], each["goes"]) for each in soon["listed"]] == [(4, False)]
    assert run(*command, "--within", 31).err == "dicomnode: --within goes with --dry-run\n"
    peers.write_config(directory, retention=[rule | {"keep_days": 30}])
    assert node.reload()
    due = json.loads(run(*command, "--dry-run", "--json").out)
    assert due["going"]["objects"] == 4 and due["listed"][0]["study_instance_uid"] == OLD
    assert "due now: 1 study, 4 objects" in run(*command, "--dry-run").out
    ran = run(*command, "--run")
    assert ran.code == 0, ran.err
    assert node.metric("dicomnode_deleted_objects_total", why="retention") == 4
    assert got(node, tmp_path / "g", OLD) == 0
    assert got(node, tmp_path / "g", NEW) == 2
    host, port = node.http_address
    status = run("status", "--once", "--url", f"http://{host}:{port}")
    assert "retention old: 4 deleted" in status.out
    assert deletions(node, OLD)[0] == {
        "asked_by": "dicomnode",
        "reason": "retention rule old",
        "series_instance_uid": f"{OLD}.1",
    }
