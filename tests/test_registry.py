"""The registry: who is known, from where, and how mistakes in ae.toml are told."""

from pathlib import Path

import pytest

from dicomnode.certificates import Expected, binding
from dicomnode.errors import ConfigurationError
from dicomnode.registry import AE, SERVICES, Registry, load_registry

ROOT = Path(__file__).parents[1]

CT = """
[[ae]]
title = "CT_1"
host = "10.0.0.9"
addresses = ["10.0.0.0/29", "fd00::9"]
services = ["echo", "store"]
max_associations = 4
maximum_pdu_bytes = "64 KiB"
transfer_syntaxes = ["JPEG2000Lossless", "1.2.840.10008.1.2"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ae.toml"


def loaded(file: Path, text: str, strict: bool = False) -> Registry:
    file.write_text(text)
    return load_registry(file, strict)


def mistakes(file: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        loaded(file, text)
    return [line.replace(f"{file.parent}/", "") for line in raised.value.problems]


def test_an_entry_has_what_the_file_says(file: Path) -> None:
    ae = loaded(file, CT).lookup("CT_1")
    assert ae is not None
    assert (ae.host, ae.port, ae.max_associations) == ("10.0.0.9", 104, 4)
    assert ae.maximum_pdu_bytes == 65536
    assert ae.transfer_syntaxes == ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2")
    assert ae.allows("store")
    assert not ae.allows("find")


def test_an_entry_needs_only_a_title_and_then_may_do_everything_from_anywhere(file: Path) -> None:
    ae = loaded(file, "[[ae]]\ntitle = 'MR'").lookup("MR")
    assert ae is not None
    assert ae.services == SERVICES
    assert ae.may_call_from("192.0.2.1")
    assert ae.host is None


def test_a_file_that_is_not_there_is_an_empty_registry(tmp_path: Path) -> None:
    assert load_registry(tmp_path / "ae.toml").titles == ()


def test_the_try_out_registry_loads() -> None:
    assert load_registry(ROOT / "config/ae.toml").titles == ("ECHOSCU", "STORESCU")


def test_the_commented_example_of_the_try_out_registry_loads_too(file: Path) -> None:
    text = (ROOT / "config/ae.toml").read_text()
    example = text[text.index("# [[ae]]\n") :].replace("# ", "")
    assert loaded(file, example).titles == ("CT_1", "ARCHIVE")


def test_titles_are_compared_without_case_and_outer_spaces_unless_strict(file: Path) -> None:
    registry = loaded(file, CT)
    assert registry.lookup(" ct_1 ") is registry.lookup("CT_1")
    assert registry.lookup("ct_1", strict=True) is None
    assert registry.lookup("CT_1 ", strict=True) is not None
    assert "ct_1" in registry
    assert "CT_2" not in registry


def test_a_registered_title_is_recognized_from_its_addresses_only(file: Path) -> None:
    registry = loaded(file, CT)
    assert registry.known("CT_1", "10.0.0.7").recognized
    assert registry.known("CT_1", "fd00::9").recognized
    refused = registry.known("CT_1", "10.0.0.8")
    assert not refused.recognized
    assert refused.ae is not None
    words = "address 10.0.0.8 is not among CT_1's addresses 10.0.0.0/29, fd00::9"
    assert refused.why == words


@pytest.mark.parametrize("address", ["::ffff:10.0.0.7", "fd00::9%eth0"])
def test_addresses_are_understood_as_sockets_give_them(file: Path, address: str) -> None:
    assert loaded(file, CT).known("CT_1", address).recognized


def test_an_address_that_is_none_is_not_recognized(file: Path) -> None:
    assert not loaded(file, CT).known("CT_1", "somewhere").recognized


def test_an_unknown_title_is_not_recognized(file: Path) -> None:
    recognition = loaded(file, CT).known("CT_2", "10.0.0.7")
    assert (recognition.recognized, recognition.ae) == (False, None)
    assert recognition.why == "title unknown"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("port = 0", "ae.port (of CT_1): must be 1 or more, not 0"),
        ("addresses = ['x']", 'must be an IP address or a network such as "10.0.0.9"'),
        ("addresses = ['10.0.0.9/24']", 'must be a network such as "10.0.0.0/24"'),
        ("addresses = [5]", "must be an IP address or a network"),
        ("addresses = '10.0.0.9'", 'must be a list, as in key = ["first", "second"]'),
        ("services = ['stor']", "must be 'echo', 'store', 'find'"),
        ("transfer_syntaxes = ['ExplicitLittleEndian']", 'or "ExplicitVRLittleEndian"'),
        ("transfer_syntaxes = ['1.2.840.10008.1.1']", "must be a transfer syntax"),
        ("maximum_pdu_bytes = 100", "must be 4096 or more, not 100"),
        ("adresses = []", "ae.adresses (of CT_1): unknown key; did you mean addresses?"),
        ("xyzzy = []", "unknown key; [[ae]] has title, host, port"),
    ],
)
def test_a_mistake_is_told_with_its_line_title_and_what_to_write_instead(
    file: Path, row: str, problem: str
) -> None:
    (line,) = mistakes(file, f"[[ae]]\ntitle = 'MR'\n\n[[ae]]\ntitle = 'CT_1'\n{row}\n")
    assert line.startswith("ae.toml:6: ")
    assert problem in line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[ae]]\nport = 4", "ae.toml:1: ae.title: is missing; write title = ... here"),
        ("[[ae]]\ntitle = 'A\\B'", "ae.toml:2: ae.title: must be an AE title"),
        ("title = 'A'", "ae.toml:1: title: this key belongs under an [[ae]] heading"),
        ("[[aes]]\ntitle = 'A'", "ae.toml:1: aes: unknown section; each application entity"),
        ("[ae]\ntitle = 'A'", "ae.toml:1: ae: must be written [[ae]], in double brackets"),
        ("[[ae]]\ntitle = A", "ae.toml:2: not TOML"),
    ],
)
def test_a_mistake_in_the_outline_is_told(file: Path, text: str, problem: str) -> None:
    (line,) = mistakes(file, text)
    assert line.startswith(problem)


def test_a_title_twice_is_a_mistake_that_names_both_lines(file: Path) -> None:
    text = "[[ae]]\ntitle = 'CT_1'\n[[ae]]\ntitle = 'ct_1'\n"
    assert mistakes(file, text) == [
        "ae.toml:4: ae.title: 'ct_1' is already registered at ae.toml:2; remove one of the two"
    ]
    assert loaded(file, text, strict=True).titles == ("CT_1", "ct_1")


def test_a_registry_can_be_made_without_a_file() -> None:
    registry = Registry([AE(title="A"), AE(title="B")])
    assert registry.titles == ("A", "B")
    assert len(registry) == 2


def test_a_certificate_and_a_name_for_tls_are_read(file: Path) -> None:
    text = """
    [[ae]]
    title = "ARCHIVE"
    host = "10.0.0.9"
    tls = true
    tls_name = "archive.example.org"
    [[ae]]
    title = "CT_1"
    host = "10.0.0.8"
    port = 11113
    tls = true
    certificate = ["CN=CT_1", "DNS:CT1.example.org"]
    [[ae]]
    title = "PLAIN"
    host = "10.0.0.7"
    """
    archive, ct, plain = loaded(file, text).entries
    assert (archive.port, ct.port, plain.port) == (2762, 11113, 104)
    assert archive.over_tls == Expected("archive.example.org", ())
    assert ct.over_tls == Expected(None, (binding("CN=CT_1"), binding("DNS:ct1.example.org")))
    assert plain.over_tls is None


def test_a_binding_that_is_none_is_told_with_the_forms_there_are(file: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(file, '[[ae]]\ntitle = "CT_1"\ncertificate = ["CT_1"]\n')
    (problem,) = caught.value.problems
    assert ":3: ae.certificate[0] (of CT_1): must be a certificate such as" in problem


def test_move_destinations_have_to_be_registered(tmp_path: Path) -> None:
    path = tmp_path / "ae.toml"
    path.write_text(
        """[[ae]]
title = "WS_1"
move_destinations = ["ws_1", "ARCHIVE"]
[[ae]]
title = "ARCHIV"
"""
    )
    with pytest.raises(ConfigurationError) as caught:
        load_registry(path)
    (problem,) = caught.value.problems
    assert problem.endswith(
        "ae.toml:3: ae.move_destinations: 'ARCHIVE' is not registered; did you mean ARCHIV?"
    )


def test_who_may_have_objects_sent_where() -> None:
    archive, other = AE(title="ARCHIVE"), AE(title="OTHER")
    registry = Registry(
        [
            archive,
            other,
            AE(title="WS_1", move_destinations=("archive",)),
            AE(title="NONE", move_destinations=()),
        ]
    )
    assert registry.may_move("ws_1 ", archive) and not registry.may_move("WS_1", other)
    assert not registry.may_move("NONE", archive)
    assert registry.may_move("OTHER", archive) and registry.may_move("STRANGER", archive)


def test_quotas_are_sizes_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "ae.toml"
    path.write_text('[[ae]]\ntitle = "A"\nmax_stored_bytes = "2 TB"\nmax_objects_per_hour = 5')
    (ae,) = load_registry(path).entries
    assert (ae.max_stored_bytes, ae.max_objects_per_hour, ae.max_bytes_per_hour) == (
        2 * 10**12,
        5,
        0,
    )
    path.write_text('[[ae]]\ntitle = "A"\nuser_identity = "maybe"')
    with pytest.raises(ConfigurationError, match="'ignore', 'optional' or 'required'"):
        load_registry(path)
