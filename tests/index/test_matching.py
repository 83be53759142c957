"""What keys match: the standard's rules and examples (PS3.4 §C.2.2.2)."""

from __future__ import annotations

import json

import pytest

from dicomnode.index.matching import BadKey, Items, accepts_combined, combined, read_key


def accepts(vr: str, key: str, stored: str | int | None, *, multiple: bool = False) -> bool:
    match = read_key(vr, key.split("\\"), multiple=multiple)
    return match is None or match.accepts(stored)


@pytest.mark.parametrize(
    ("vr", "key", "stored"),
    [
        ("LO", "Chest", "Chest"),
        ("LO", "", "anything"),
        ("LO", "*", ""),
        ("LO", "**", "anything"),
        ("LO", "Ch*", "Chest"),
        ("LO", "*est", "Chest"),
        ("LO", "*h*s*", "Chest"),
        ("LO", "?hest", "Chest"),
        ("LO", "?????", "Chest"),
        ("LO", "C*t", "Ct"),
        ("LO", "100%", "100%"),
        ("LO", "a_%*", "a_%b"),
        ("CS", "CT\\MR", "MR"),
        ("SH", "A1\\B*", "B7"),
        ("LT", "a\\b", "a\\b"),
        ("UI", "1.2\\1.3", "1.3"),
        ("IS", "7", 7),
        ("IS", "007\\8", 7),
        ("DS", "70.50", "70.5"),
        ("DA", "20240131", "20240131"),
        ("DA", "2024.01.31", "20240131"),
        ("DA", "20240101-20240131", "20240131"),
        ("DA", "20240131-", "20240131"),
        ("DA", "-20240131", "19700101"),
        ("DA", "20230101\\20240131", "20240131"),
        ("TM", "1030", "103059.5"),
        ("TM", "10", "1030"),
        ("TM", "10:30", "103000"),
        ("TM", "1000-1030", "103045"),
        ("TM", "-1030", "0000"),
        ("TM", "103000-", "1030"),
        ("DT", "2024", "20240131103000"),
        ("DT", "20240131-20240201", "20240201235959"),
        ("DT", "202401311030+0100", "202401310930+0000"),
        ("DT", "20240131-0500", "202401310600+0000"),
        ("LO", '""', ""),
        ("IS", '""', None),
        ("PN", '""', ""),
    ],
)
def test_a_key_matches(vr: str, key: str, stored: str | int) -> None:
    assert accepts(vr, key, stored)


@pytest.mark.parametrize(
    ("vr", "key", "stored"),
    [
        ("LO", "Chest", "chest"),
        ("LO", "Chest", "Chest 2"),
        ("LO", "Ch*", "chest"),
        ("LO", "????", "Chest"),
        ("LO", "?*", ""),
        ("LO", "C*t*t", "Ct"),
        ("LO", "100%", "1000"),
        ("LO", "a_", "ab"),
        ("UI", "1.2", "1.2.3"),
        ("CS", "CT\\MR", "CR"),
        ("IS", "7", None),
        ("DA", "20240101-20240131", ""),
        ("DA", "-20240131", ""),
        ("DA", "20240201-20240131", "20240131"),
        ("TM", "1030", "1031"),
        ("TM", "103000", "103001"),
        ("TM", "1000-1030", "1031"),
        ("TM", "10", "odd"),
        ("LO", '""', "x"),
    ],
)
def test_a_key_does_not_match(vr: str, key: str, stored: str | int | None) -> None:
    assert not accepts(vr, key, stored)


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        ("DOE^JOHN", "Doe^John"),
        ("doe^john^^", "Doe^John"),
        ("doe*", "Doe^John"),
        ("doe^*", "Doe"),
        ("doe^j*", "Doe^John^M"),
        ("*john*", "Doe^John^M"),
        ("muller", "Müller"),
        ("Müller", "MULLER"),
        ("山田^太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("やまだ*", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("=山田*", "Yamada^Tarou=山田^太郎"),
        ("yamada*=山田*", "Yamada^Tarou=山田^太郎"),
        ("yamada*=", "Yamada^Tarou=山田^太郎"),
        ("a\\doe", "Doe"),
        ("^^", "anyone"),
    ],
)
def test_a_persons_name_matches(key: str, stored: str) -> None:
    assert accepts("PN", key, stored)


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        ("doe", "Doe^John"),
        ("^john", "John"),
        ("doe*太郎", "Doe^John=山田^太郎"),
        ("yamada*=鈴木*", "Yamada^Tarou=山田^太郎"),
        ("=yamada*", "Yamada^Tarou=山田^太郎"),
        ("doe, john", "Doe^John"),
    ],
)
def test_a_persons_name_does_not_match(key: str, stored: str) -> None:
    assert not accepts("PN", key, stored)


def test_of_several_stored_values_one_must_match() -> None:
    assert accepts("LO", "B*", "A1\\B2", multiple=True)
    assert accepts("PN", "doe^*", "Roe\\Doe^J", multiple=True)
    assert not accepts("LO", "A*2", "A1\\B2", multiple=True)


@pytest.mark.parametrize(
    ("vr", "key"),
    [
        ("DA", "2024-01-31"),
        ("DA", "2024*"),
        ("DA", "-"),
        ("TM", "25"),
        ("TM", "１０"),  # noqa: RUF001
        ("DT", "20241331+0100"),
        ("IS", "7_0"),
        ("IS", "9" * 400),
        ("DS", "sNaN"),
        ("LO", "a" * 1025),
        ("LO", "*?" * 600),
        ("LO", "\\".join(f"{number}*" for number in range(17))),
    ],
)
def test_a_value_without_meaning_is_refused(vr: str, key: str) -> None:
    with pytest.raises(BadKey) as raised:
        read_key(vr, key.split("\\"))
    assert len(f"AdmittingDiagnosesDescription {raised.value}") <= 80


def test_a_list_may_have_many_values_but_few_patterns() -> None:
    many = "\\".join(f"name {number}" for number in range(20_000))
    assert accepts("PN", many, "Name 19999")
    assert accepts("LO", many, "x\\name 7", multiple=True)
    for vr, value in (("PN", "a=b{}"), ("TM", "-1{}"), ("SH", "*{}")):
        with pytest.raises(BadKey):
            read_key(vr, [value.format(number % 10) for number in range(17)])


def test_a_pattern_of_many_stars_is_as_one_of_few() -> None:
    assert accepts("LO", "*" * 5000 + "a", "bca")


def test_a_hostile_pattern_is_decided_without_going_back() -> None:
    assert not accepts("LO", "*a" * 511 + "b", "a" * 1024)
    assert not accepts("LO", "*a?a" * 200 + "c", "ab" * 512)


def test_an_item_must_satisfy_all_keys_of_the_item() -> None:
    stored = json.dumps([{"CodeValue": "1", "CodingSchemeDesignator": "A"}, {"CodeValue": "2"}])
    one, two, a = (read_key("SH", [value]) for value in ("1", "2", "A"))
    assert one and two and a
    assert Items((("CodeValue", one), ("CodingSchemeDesignator", a))).accepts(stored)
    assert not Items((("CodeValue", two), ("CodingSchemeDesignator", a))).accepts(stored)
    assert not Items((("CodeValue", one),)).accepts("")


def test_combined_date_and_time_are_one_range() -> None:
    """PS3.4 §C.2.2.2.5.4: 5 July 10:00 to 7 July 18:00."""
    interval = combined(read_key("DA", ["20060705-20060707"]), read_key("TM", ["1000-1800"]))
    assert interval is not None
    assert accepts_combined(interval, "20060705", "1000")
    assert accepts_combined(interval, "20060706", "0300")
    assert accepts_combined(interval, "20060706", "")
    assert accepts_combined(interval, "20060707", "1800")
    assert not accepts_combined(interval, "20060705", "0959")
    assert not accepts_combined(interval, "20060707", "1801")
    assert not accepts_combined(interval, "", "1200")


def test_a_single_date_is_not_combined() -> None:
    assert combined(read_key("DA", ["20060705"]), read_key("TM", ["1000-1800"])) is None
    assert combined(read_key("DA", ["20060705-20060707"]), None) is None
