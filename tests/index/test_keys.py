"""The table of keys, against the dictionary."""

from __future__ import annotations

import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag

from dicomnode.index.keys import ITEM_KEYS, KEYS, PATIENT_KEYS, SERIES_KEYS, STUDY_KEYS, Key
from dicomnode.storage.header import HEADER_END


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.keyword)
def test_tag_keyword_and_vr_are_those_of_the_dictionary(key: Key) -> None:
    assert keyword_for_tag(key.tag) == key.keyword
    assert dictionary_VR(key.tag) == key.vr
    assert key.column == key.column.lower()


def test_item_keys_are_those_of_the_dictionary() -> None:
    for keys in ITEM_KEYS.values():
        for tag, keyword, vr in keys:
            assert (keyword_for_tag(tag), dictionary_VR(tag)) == (keyword, vr)


def test_every_key_is_read_before_the_header_reader_stops() -> None:
    assert all(key.tag < HEADER_END for key in KEYS)


def test_each_level_names_its_columns_once() -> None:
    for keys in (PATIENT_KEYS, STUDY_KEYS, SERIES_KEYS):
        columns = [key.column for key in keys]
        assert len(set(columns)) == len(columns)
