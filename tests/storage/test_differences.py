"""Data sets that DCMTK has encoded anew, or changed, compared with what they were."""

import os
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from dicomnode.storage.differences import Contents, contents, differences
from dicomnode.storage.elements import Source, encoding_of
from dicomnode.storage.part10 import read_file_meta
from tests import peers

NAMES = (
    *("CT_small.dcm", "MR_small_bigendian.dcm", "SC_rgb_small_odd.dcm", "test-SR.dcm"),
    *("rtplan.dcm", "priv_SQ.dcm", "UN_sequence.dcm", "liver_expb_1frame.dcm"),
)


def read(path: Path) -> Contents:
    with path.open("rb") as file:
        meta = read_file_meta(file.fileno())
        size = os.fstat(file.fileno()).st_size - meta.data_set_offset
        source = Source(file.fileno(), meta.data_set_offset, size)
        return contents(source, encoding_of(source, meta.transfer_syntax_uid))


@pytest.mark.interop("dcmconv")
@pytest.mark.parametrize("name", NAMES)
def test_what_is_encoded_in_another_way_says_the_same(name: str, tmp_path: Path) -> None:
    path, other = Path(str(get_testdata_file(name))), tmp_path / "other.dcm"
    ours = read(path)
    assert ours.elements
    for options in (("+ti", "-e"), ("+te", "+e"), ("+tb", "-e")):
        converted = peers.run_tool("dcmconv", *options, path, other)
        assert converted.returncode == 0, converted.output
        theirs = read(other)
        assert differences(ours, theirs) == [], options
        assert ours.pixels == theirs.pixels


@pytest.mark.interop("dcmodify")
@pytest.mark.parametrize(
    ("change", "path"),
    [
        (("-m", "(300A,0002)=other"), (0x300A_0002,)),
        (("-e", "(300A,0002)"), (0x300A_0002,)),
        (
            ("-m", "(300A,00B0)[0].(300A,0111)[1].(300A,0112)=7"),
            (0x300A_00B0, 1, 0x300A_0111, 2, 0x300A_0112),
        ),
        (("-i", "(0008,1140)[0].(0008,1150)=1.2"), (0x0008_1140,)),
    ],
)
def test_the_element_that_was_changed_is_named(
    change: tuple[str, str], path: tuple[int, ...], tmp_path: Path
) -> None:
    original, other = Path(str(get_testdata_file("rtplan.dcm"))), tmp_path / "other.dcm"
    other.write_bytes(original.read_bytes())
    modified = peers.run_tool("dcmodify", "-nb", *change, other)
    assert modified.returncode == 0, modified.output
    assert path in [each.path for each in differences(read(original), read(other))]
    assert len(differences(read(original), read(other))) <= 2
