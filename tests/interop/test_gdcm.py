"""GDCM's gdcmscu against the node."""

from __future__ import annotations

import pytest

from tests.interop.samples import samples
from tests.peers import Finished, NodeProcess, run_tool


def gdcmscu(archive: NodeProcess, *arguments: object) -> Finished:
    host, port = archive.dicom_address
    return run_tool(
        *("gdcmscu", "--hostname", host, "--port", port, "--call", "DICOMNODE"),
        *("--aetitle", "GDCMSCU", *map(str, arguments)),
    )


@pytest.mark.interop("gdcmscu")
def test_gdcmscu_echo_is_answered(archive: NodeProcess) -> None:
    done = gdcmscu(archive, "--echo")
    assert done.returncode == 0, done.output


@pytest.mark.interop("gdcmscu")
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm"])
def test_gdcmscu_stores(archive: NodeProcess, name: str) -> None:
    sample = next(each for each in samples() if each.path.name == name)
    done = gdcmscu(archive, "--store", "--input", sample.path)
    assert done.returncode == 0, done.output
    kept = sample.stored_path(archive.config.parent / "store")
    assert kept.is_file(), done.output
