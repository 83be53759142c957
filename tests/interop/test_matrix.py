"""The interop matrix is whole: its page has every cell, and cells fail where they should."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.matrix import packages
from tests.interop.matrix.__main__ import PAGE
from tests.interop.matrix.cells import COLUMNS, Cell, Outcome, Peer, Role, Verdict
from tests.interop.matrix.page import write_page
from tests.interop.matrix.rows import ROWS
from tests.interop.matrix.running import Result, run_cell
from tests.interop.matrix.traffic import Dissected
from tests.interop.matrix.world import World, new_world
from tests.wire import Wire

TABLE_ROW = re.compile(r"^\| (\S[^|]*) \|((?: [^|]* \|)+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("matrix")) as world:
        yield world


def signs(page: str, role: Role) -> dict[tuple[str, str], str]:
    """Return what stands in each cell of a table of the page."""
    part = page.partition(f"## The node as {role}")[2].partition("\n## ")[0]
    return {
        (name, column): sign.strip()
        for name, cells in TABLE_ROW.findall(part)
        for column, sign in zip(COLUMNS, cells.split("|")[:-1], strict=False)
    }


@pytest.mark.parametrize("role", Role)
def test_the_page_has_every_cell(role: Role) -> None:
    written = signs(PAGE.read_text(), role)
    for row in ROWS:
        for of, column in ((key[1], key[2]) for key in [*row.cells, *row.without]):
            if of is role:
                tried = (row.name, role, column) in row.cells
                sign = written[row.name, column]
                assert sign in (("pass", "**fail**") if tried else ("no", "")), (row.name, column)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_column_of_a_peer_is_tried_or_said_not_to_be(row: Peer) -> None:
    wanted = {(row.name, role, column) for role in Role for column in COLUMNS}
    # The node's own commands send no user identity.
    wanted.discard((row.name, Role.SCU, "user identity"))
    assert {*row.cells, *row.without} == wanted


def test_a_failure_is_told_with_its_reason_and_what_the_peer_does_not_have_too() -> None:
    result = Result(dissected=Dissected(packets=12_345, pdus=678))
    row = ROWS[0]
    result.outcomes[row.name, Role.SCP, "echo"] = Outcome(Verdict.FAIL, "it hangs", foreseen=False)
    result.outcomes[row.name, Role.SCP, "get"] = Outcome(Verdict.NO, "no tool for it")
    page = write_page(result, [row], "4", "1 MB")
    assert signs(page, Role.SCP)[row.name, "echo"] == "**fail**"
    assert signs(page, Role.SCP)[row.name, "get"] == "no"
    assert f"- {row.name}, echo: fail; it hangs" in page
    assert "12,345" in page and "678" in page
    assert result.unforeseen == [(row.name, Role.SCP, "echo")]


def rejected(world: World) -> str | None:
    with Wire(world.scp) as wire:
        wire.associate(called="SOMEBODY")
    raise AssertionError("the called title is not that of the node")


def malformed(world: World) -> str | None:
    """Say what no DICOM application says, and hear of it."""
    with Wire(world.scp) as wire:
        wire.associate()
        wire.send(b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x01\x03")
        wire.receive_until_closed()
    return None


@pytest.mark.interop("tshark")
def test_a_cell_that_raises_fails_and_faults_of_the_peer_are_not_the_nodes(world: World) -> None:
    dissected = Dissected()
    outcome = run_cell(world, Cell("RAW", Role.SCP, "echo", rejected), dissected)
    assert (outcome.verdict, outcome.foreseen) == (Verdict.FAIL, False)
    assert outcome.words == "AssertionError: the called title is not that of the node"
    outcome = run_cell(world, Cell("RAW", Role.SCP, "find", malformed), dissected)
    assert outcome.verdict is Verdict.PASS
    assert len(dissected.of_peers) == 1 and not dissected.faults
    outcome = run_cell(world, Cell("RAW", Role.SCU, "find", malformed), dissected)
    assert outcome.verdict is Verdict.FAIL and "dissection" in outcome.words
    assert dissected.packets > 10 and dissected.pdus >= 7


# Of the peers that no other test has: what takes a second or two.
CHEAP = [
    ("odil", Role.SCP, "get"),
    ("odil", Role.SCU, "store"),
    ("CTN", Role.SCP, "store"),
    ("CTN", Role.SCU, "store"),
]


@pytest.mark.interop("tshark")
@pytest.mark.parametrize("key", CHEAP, ids=" ".join)
def test_a_cell_of_a_peer_that_no_other_test_has_passes(
    world: World, key: tuple[str, Role, str]
) -> None:
    row = next(row for row in ROWS if row.name == key[0])
    if not row.is_installed():
        pytest.skip(f"{row.name} is not installed")
    dissected = Dissected()
    assert run_cell(world, row.cells[key], dissected).verdict is Verdict.PASS
    assert dissected.pdus and not dissected.faults


def test_versions_are_those_of_the_packages() -> None:
    assert re.fullmatch(r"[\d.]+", packages.python_version("pynetdicom"))
    assert packages.version("no-such-package-of-debian") in ("none", "of unknown version")
    assert Path(PAGE).name == "interop.md"
