"""The examples of docs/library.md, run as they stand against a node."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from tests import peers
from tests.conftest import StartNode

PAGE = Path(__file__).parents[2] / "docs" / "library.md"
WRITTEN = "ARCHIVE@127.0.0.1:11112"


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def sample(name: str) -> str:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return path


async def run(example: str, names: dict[str, Any]) -> None:
    code = compile(example, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        await result


def test_every_example_of_the_page_runs(
    start_node: StartNode,
    storescp: peers.Peer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host, port = storescp.dicom_address
    node = start_node(entities=[{"title": "WORKSTATION", "host": host, "port": port}])
    address = "DICOMNODE@{}:{}".format(*node.dicom_address)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("CT_small.dcm", "MR_small_RLE.dcm"):
        shutil.copy(sample(name), tmp_path / "images")

    whole, *parts = (example.replace(WRITTEN, address) for example in examples())
    exec(compile(whole, str(PAGE), "exec"), {"__name__": "__main__"})
    names: dict[str, Any] = {"asyncio": asyncio}
    exec("import dicomnode", names)

    async def run_parts() -> None:
        for part in parts:
            await run(part, names)

    asyncio.run(run_parts())
    said = capsys.readouterr().out
    assert said.startswith("0000H Success\n")
    assert "CT_small.dcm Success" in said and "MR_small_RLE.dcm Success" in said
    assert "one is enough" in said and said.endswith("at once: 8\nTrue\n")
    (received,) = (tmp_path / "incoming").iterdir()
    assert received.suffix == ".dcm" and len(list(storescp.directory.iterdir())) == 1
