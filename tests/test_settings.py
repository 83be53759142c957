"""Settings: where they come from, and how each mistake is told."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from dicomnode import configuration as module
from dicomnode.configuration import find_settings_file, key_lines, registry_path
from dicomnode.errors import ConfigurationError
from dicomnode.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("DICOMNODE__"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dicomnode.toml"


def mistakes(file: Path, text: str) -> list[str]:
    """Load ``text`` as settings and return its mistakes, the directory cut off."""
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_settings(file)
    return [line.replace(f"{file.parent}/", "") for line in raised.value.problems]


def test_what_is_left_out_has_the_packaged_default(file: Path) -> None:
    file.write_text("")
    settings = load_settings(file)
    assert (settings.node.ae_title, settings.node.port) == ("DICOMNODE", 11112)
    assert settings.access.unknown_ae == "refuse"
    assert settings.storage.durability == "full"
    assert settings.index_url == "sqlite:////var/lib/dicomnode/index.sqlite"
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8104)


def test_the_try_out_settings_load_and_stay_on_loopback() -> None:
    settings = load_settings(ROOT / "config/dicomnode.toml")
    assert (settings.node.host, settings.http.host) == ("127.0.0.1", "127.0.0.1")
    assert settings.access.unknown_ae == "allow"
    assert settings.storage.directory == Path("var/storage")


def test_the_try_out_settings_show_every_key_and_its_default() -> None:
    text = (ROOT / "config/dicomnode.toml").read_text()
    shown = tomllib.loads(re.sub(r"(?m)^# (\w+ = )", r"\1", text))
    default = Settings().model_dump(mode="json")
    assert default.pop("forward") == []
    assert default.pop("fetch") == []
    assert default.pop("retention") == []
    assert {section: set(keys) for section, keys in shown.items()} == {
        section: set(keys) for section, keys in default.items()
    }
    for section in ("limits", "timeouts", "http", "log", "forwarding", "deletion"):
        assert Settings(**shown).model_dump(mode="json")[section] == default[section]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("[storage]\ndurability = 'fast'", "must be 'full' or 'relaxed', not 'fast'"),
        ("[node]\nport = 70000", "must be 65535 or less, not 70000"),
        ("[node]\nport = 'x'", "must be a whole number such as 100, not 'x'"),
        ("[node]\nport = true", "must be a number such as 30, not true"),
        ("[node]\nhost = 'here:104'", "must be a host name"),
        ("[node]\nhost = 'a b'", "must be a host name"),
        ("[node]\nae_title = 'SEVENTEEN_LETTERS'", "must be an AE title of 1 to 16 characters"),
        ("[node]\nae_title = ' '", "must be an AE title of 1 to 16 characters"),
        ("[node]\nae_title = 'A\\B'", "without a backslash"),
        ("[node]\nae_title = 'KÖLN'", "plain ASCII characters"),
        ("[node]\nae_title = 5", 'must be text in double quotes, as in key = "text", not 5'),
        ("[node]\nae_title_aliases = 5", "must be a list"),
        ("[node]\nstrict_ae_titles = 'maybe'", "must be true or false, not 'maybe'"),
        ("[storage]\nmin_free_bytes = '5 parsecs'", 'such as 1048576, "256MB" or "64 MiB"'),
        ("[storage]\nmin_free_bytes = -1", "must be 0 or more, not -1"),
        ("[index]\nurl = 'index.sqlite'", "must be a database URL"),
        ("[limits]\nmax_associations = 0", "must be 1 or more, not 0"),
        ("[timeouts]\nartim_seconds = 0", "must be more than 0"),
        ("[timeouts]\nartim_seconds = nan", "must be"),
        ("[storage]\ndurabilty = 'full'", "unknown key; did you mean durability?"),
        ("[node]\ndurability = 'full'", "unknown key; it belongs under [storage]"),
        ("[node]\nxyzzy = 1", "unknown key; [node] has ae_title, ae_title_aliases, host"),
        ("[stroage]\nx = 1", "unknown section; did you mean [storage]?"),
        ("# first\nport = 5", "this key belongs under [node]"),
        ("# first\nnode = 5", "must be a table of keys under a [heading], not 5"),
        ("# first\nto = ['A']", "this key belongs under [[forward]]"),
        ("# first\n[forward]\nname = 'x'", "must be written [[forward]], in double brackets"),
        ("# first\nxyzzy = 5", "there is no such section; there are [node], [storage]"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_to_write_instead(
    file: Path, row: str, problem: str
) -> None:
    (line,) = mistakes(file, row)
    number = 1 if "section; did" in problem else 2
    assert line.startswith(f"dicomnode.toml:{number}: ")
    assert problem in line


def test_the_line_of_a_mistake_reads_file_line_key_words(file: Path) -> None:
    assert mistakes(file, '\n\n[storage]\ndurability = "fast"  # quick\n') == [
        "dicomnode.toml:4: storage.durability: must be 'full' or 'relaxed', not 'fast'"
    ]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(file: Path) -> None:
    text = "[http]\nport = -1\n[node]\nport = -1\nae_title_aliases = ['A',\n '\\']\n"
    found = [line.split(": ")[:2] for line in mistakes(file, text)]
    assert found == [
        ["dicomnode.toml:2", "http.port"],
        ["dicomnode.toml:4", "node.port"],
        ["dicomnode.toml:5", "node.ae_title_aliases[1]"],
    ]


@pytest.mark.parametrize(
    ("text", "start", "hint"),
    [
        ("[node]\nae_title = CT_1\n", "dicomnode.toml:2: not TOML: ", "in double quotes"),
        ("[node]\nport 5\n", "dicomnode.toml:2: not TOML: ", 'write key = "text"'),
        ("[node]\nport = 1\nport = 2\n", "dicomnode.toml:3: not TOML: ", "keep one of the two"),
        ("[node]\n[http]\n[node]\n", "dicomnode.toml:3: not TOML: ", "keep one of the two"),
        ('[node]\nae_title = "CT', "dicomnode.toml:2: not TOML: ", 'in `ae_title = "CT`'),
        ("[node\n", "dicomnode.toml:1: not TOML: ", "in `[node`"),
    ],
)
def test_what_is_not_toml_is_told_with_its_line(
    file: Path, text: str, start: str, hint: str
) -> None:
    (line,) = mistakes(file, text)
    assert line.startswith(start)
    assert hint in line


def test_a_file_in_another_encoding_is_told_with_its_line(file: Path) -> None:
    file.write_bytes(b"[node]\nae_title = 'K\xd6LN'\n")
    with pytest.raises(ConfigurationError, match=r":2: is not UTF-8 text"):
        load_settings(file)


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[node]\nport = 4\n")
    assert load_settings(file).node.port == 4


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("[tls]\nonly = true", ["2: tls.only: needs tls.enabled = true"]),
        ("[tls]\nkey = 'k'", ["2: tls.key: is given without tls.certificate"]),
        (
            "[tls]\nenabled = true",
            ["2: tls.certificate: is missing", "1: tls.ca: is missing; with tls.client_cert"],
        ),
        (
            "[tls]\nenabled = true\ncertificate = 'c'\nca = 'a'\nport = 11112",
            ["5: tls.port: must differ from node.port, which is 11112 too"],
        ),
        ("[tls]\nclient_certificates = 'maybe'", ["2: tls.client_certificates: must be 'none'"]),
    ],
)
def test_what_tls_lacks_is_told(file: Path, text: str, problems: list[str]) -> None:
    found = mistakes(file, text)
    assert len(found) == len(problems)
    for line, problem in zip(found, problems, strict=True):
        assert line.startswith(f"dicomnode.toml:{problem}")


def test_tls_may_have_the_port_of_a_listener_that_it_closes(file: Path) -> None:
    rest = "certificate = 'c'\nclient_certificates = 'none'\nport = 11112\nonly = true"
    file.write_text(f"[tls]\nenabled = true\n{rest}")
    assert load_settings(file).tls.only


def test_values_that_contradict_each_other_are_told(file: Path) -> None:
    assert mistakes(file, "[http]\nport = 11112\n[limits]\nreceive_buffer_bytes = 200000\n") == [
        "dicomnode.toml:2: http.port: must differ from node.port, which is 11112 too",
        "dicomnode.toml:4: limits.receive_buffer_bytes: must be 262144 (twice"
        " limits.maximum_pdu_bytes) or more, not 200000",
    ]


@pytest.mark.parametrize(
    ("text", "count"),
    [("4096", 4096), ("'256MB'", 256_000_000), ("'64 MiB'", 64 << 20), ("'2gib'", 2 << 30)],
)
def test_sizes_are_numbers_or_text_with_a_unit(file: Path, text: str, count: int) -> None:
    file.write_text(f"[storage]\nmin_free_bytes = {text}\n")
    assert load_settings(file).storage.min_free_bytes == count


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[node]\nport = 1\nae_title = 'A'\n")
    monkeypatch.setenv("DICOMNODE__NODE__PORT", "104")
    monkeypatch.setenv("DICOMNODE__NODE__AE_TITLE_ALIASES", "B, C")
    monkeypatch.setenv("DICOMNODE__STORAGE__DIRECTORY", "/data")
    settings = load_settings(file)
    assert (settings.node.ae_title, settings.node.port) == ("A", 104)
    assert settings.node.ae_title_aliases == ("B", "C")
    assert settings.storage.directory == Path("/data")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("DICOMNODE__NODE__PORT", "x", "node.port: must be a whole number such as 100, not 'x'"),
        ("DICOMNODE__NODE__PROT", "1", "node.prot: unknown key; did you mean port?"),
        ("DICOMNODE__NOD__PORT", "1", "unknown section; did you mean [node]?"),
        ("DICOMNODE__NODE", "1", "must name a key, as in DICOMNODE__NODE__KEY"),
        ("DICOMNODE__PORT", "1", "this key belongs under [node]"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, problem: str
) -> None:
    monkeypatch.setenv(name, value)
    assert mistakes(file, "[node]\nport = 5\n") == [f"environment variable {name}: {problem}"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: there is no such file"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_settings(tmp_path)


def test_without_a_name_the_first_known_place_that_has_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = (tmp_path / "a.toml", tmp_path / "b.toml")
    monkeypatch.setattr(module, "SETTINGS_FILES", places)
    with pytest.raises(ConfigurationError, match=r"there is no .*a\.toml or .*b\.toml; name one"):
        find_settings_file()
    places[1].touch()
    assert find_settings_file() == places[1]
    places[0].touch()
    assert find_settings_file() == places[0]
    assert find_settings_file(tmp_path) == tmp_path


def test_the_registry_stands_beside_the_settings() -> None:
    assert registry_path(Path("config/dicomnode.toml")) == Path("config/ae.toml")


def test_text_of_several_lines_hides_what_looks_like_keys() -> None:
    text = 'a = """\n[b]\nc = 1\n"""\nd = 1\n"e f" = 2\ng.h = 3\n'
    lines = key_lines(text)
    assert lines == {("a",): 1, ("d",): 5, ("e f",): 6, ("g", "h"): 7}
