"""Character sets: what the file says in bytes, the index says in Unicode."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import decode_bytes, python_encoding

from dicomnode.storage import text
from dicomnode.storage.text import decode_text, encode_text, encodings_of, is_known_character_set

# PS3.5 Annexes H, I, J and K: the standard's own examples.
EXAMPLES = [
    (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
    (b"ISO_IR 144", b"\xbb\xee\xda\x63\x65\xdc\xd1", "Люкceмб"),  # noqa: RUF001
    (
        b"\\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    (
        b"ISO 2022 IR 13\\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
    ),
    (
        b"\\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
        "Hong^Gildong=洪^吉洞",
    ),
    (
        b"ISO_IR 192",
        "Wang^XiaoDong=王^小東".encode(),
        "Wang^XiaoDong=王^小東",
    ),
    (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
]


@pytest.mark.parametrize(("terms", "raw", "text"), EXAMPLES, ids=lambda v: str(v)[:20])
def test_the_standards_examples_become_unicode(terms: bytes, raw: bytes, text: str) -> None:
    assert decode_text(raw, encodings_of(terms), "PN") == text


@pytest.mark.parametrize(
    "term", ["ISO IR 100", "ISO_IR100", "ISO-IR 100", "iso_ir 100", "ISO_IR_100"]
)
def test_misspelled_terms_are_mended(term: str) -> None:
    assert encodings_of(term.encode()) == ("latin_1",)


def test_a_misspelled_code_extension_is_mended() -> None:
    assert encodings_of(b"\\ISO_2022_IR_87") == ("iso8859", "iso2022_jp")


@pytest.mark.parametrize("term", sorted(term for term in python_encoding if term))
def test_every_term_of_pydicom_is_known(term: str) -> None:
    assert encodings_of(term.encode()) == (python_encoding[term],)


def test_an_unknown_term_is_read_as_latin_1() -> None:
    assert decode_text(b"M\xfcller", encodings_of(b"KLINGON"), "LO") == "Müller"


def test_bytes_that_the_character_set_does_not_know_become_replacements() -> None:
    assert decode_text(b"M\xfcller", encodings_of(b"ISO_IR 192"), "LO") == "M\ufffdller"


def test_vrs_outside_the_extended_repertoire_are_ascii_whatever_the_character_set() -> None:
    assert decode_text(b"C\xe9T", encodings_of(b"ISO_IR 100"), "CS") == "C\ufffdT"


@pytest.mark.parametrize("raw", [b"Doe^Jane ", b"Doe^Jane\x00", b" Doe^Jane\x00 ", b"Doe^Jane"])
def test_padding_goes(raw: bytes) -> None:
    assert decode_text(raw, ("latin_1",), "PN") == "Doe^Jane"


@given(st.binary(max_size=40), st.sampled_from([terms for terms, _, _ in EXAMPLES]))
def test_any_bytes_become_text(raw: bytes, terms: bytes) -> None:
    for vr in ("PN", "LO", "CS", "LT"):
        assert "\x00" not in decode_text(raw, encodings_of(terms), vr)


@given(st.text(alphabet="山田太郎やまだ^= ABCabc", max_size=12))
def test_code_extensions_decode_as_in_pydicom(name: str) -> None:
    encodings = ("iso8859", "iso2022_jp")
    raw = name.encode("iso2022_jp")
    expected = decode_bytes(raw, encodings, {0x5C, 0x5E, 0x3D}).strip(" ")
    assert decode_text(raw, encodings, "PN") == expected


@pytest.mark.parametrize(("terms", "raw", "text"), EXAMPLES, ids=lambda v: str(v)[:20])
def test_the_standards_examples_are_encoded(terms: bytes, raw: bytes, text: str) -> None:
    encodings = encodings_of(terms)
    encoded = encode_text(text, encodings, "PN")
    assert decode_text(encoded, encodings, "PN") == text
    assert decode_bytes(encoded, encodings, {0x5C, 0x5E, 0x3D}) == text


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        (b"", "é"),
        (b"ISO_IR 6", "é"),
        (b"ISO_IR 100", "Ж"),
        (b"ISO_IR 13", "山"),
        (b"ISO 2022 IR 6\\ISO 2022 IR 87", "é"),
        (b"\\ISO 2022 IR 149", "山é"),
        (b"GBK", "\U0001f600"),
    ],
)
def test_what_a_character_set_does_not_have_is_not_encoded(terms: bytes, text: str) -> None:
    encodings = encodings_of(terms) if terms else ("iso8859",)
    with pytest.raises(UnicodeEncodeError):
        encode_text(text, encodings, "LO")


CODE_EXTENSIONS = [
    (b"\\ISO 2022 IR 87", "山田ab^= "),
    (b"ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏ山田ab^="),
    (b"ISO 2022 IR 6\\ISO 2022 IR 87\\ISO 2022 IR 159", "山丂ab^="),
    (b"\\ISO 2022 IR 149", "洪길ab^="),
    (b"\\ISO 2022 IR 58", "王小ab^="),
    (b"ISO 2022 IR 100\\ISO 2022 IR 144\\ISO 2022 IR 126", "éЖΩab^="),
    (b"ISO 2022 IR 100\\ISO 2022 IR 87", "é山ab^="),
    (b"ISO_IR 192", "é山ab^="),
    (b"GB18030", "é王ab^="),
]


@given(st.data())
def test_what_is_encoded_is_decoded(data: st.DataObject) -> None:
    terms, alphabet = data.draw(st.sampled_from(CODE_EXTENSIONS))
    text = data.draw(st.text(alphabet, max_size=10)).strip(" ")
    encodings = encodings_of(terms)
    assert decode_text(encode_text(text, encodings, "PN"), encodings, "PN") == text


def test_known_character_sets_are_told_from_others() -> None:
    assert is_known_character_set(b"")
    assert is_known_character_set(b"ISO_IR 100 ")
    assert is_known_character_set(b"\\ISO 2022 IR 87")
    assert not is_known_character_set(b"KLINGON")
    assert not is_known_character_set(b"\xff")


def test_a_value_of_escapes_alone_is_not_decoded_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def decode_bytes(*arguments: object) -> str:
        raise AssertionError("decoded one by one")

    monkeypatch.setattr(text, "decode_bytes", decode_bytes)
    japanese = encodings_of(b"\\ISO 2022 IR 87")
    assert len(decode_text(b"\x1b" * 100_000, japanese, "PN")) == 100_000


@pytest.mark.parametrize("encoding", ["utf-8", "latin_1"])
def test_text_of_a_data_set_that_names_no_character_set_is_utf_8_where_it_is_that(
    encoding: str,
) -> None:
    assert decode_text("Müller^Jörg".encode(encoding), encodings_of(b""), "PN") == "Müller^Jörg"
