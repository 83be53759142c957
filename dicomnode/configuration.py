"""What settings and registry files share: TOML with line numbers, titles, worded mistakes."""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicomnode.errors import ConfigurationError
from dicomnode.ul.titles import ae_title as ae_title

if TYPE_CHECKING:
    # The commands that need no more than a title and a path do without.
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

SETTINGS_FILES = (Path("config/dicomnode.toml"), Path("/etc/dicomnode/dicomnode.toml"))
"""Where settings are looked for when no file is named, in this order."""

Place = tuple[str | int, ...]
"""The way to a value: ``("storage", "durability")`` or ``("ae", 2, "port")``."""


@dataclass(frozen=True, slots=True)
class Document:
    """A TOML file that has been read: its tables and the line of each key."""

    path: Path
    data: Mapping[str, Any]
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """Return the line of ``place``, or of the nearest table around it, or 0."""
        within = (place[:length] for length in range(len(place), 0, -1))
        return next((self.lines[part] for part in within if part in self.lines), 0)

    def where(self, place: Place) -> str:
        """Return ``FILE:LINE`` of ``place``."""
        line = self.line(place)
        return f"{self.path}:{line}" if line else str(self.path)


def find_settings_file(path: Path | None = None) -> Path:
    """Return ``path``, or the first of ``SETTINGS_FILES`` that is there.

    Raises ConfigurationError when no file is named and none is found.
    """
    if path is not None:
        return path
    for candidate in SETTINGS_FILES:
        if candidate.is_file():
            return candidate
    looked = " or ".join(str(candidate) for candidate in SETTINGS_FILES)
    raise ConfigurationError([f"no settings file: there is no {looked}; name one with --config"])


def registry_path(settings_file: Path) -> Path:
    """Return where the registry stands: ``ae.toml`` beside the settings file."""
    return settings_file.with_name("ae.toml")


def read_toml(path: Path) -> Document:
    """Read the TOML file at ``path``; raises ConfigurationError naming file and line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError([f"{path}: there is no such file"]) from None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = f"{path}:{line}: is not UTF-8 text; save the file with UTF-8 encoding"
        raise ConfigurationError([problem]) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([_syntax_problem(path, text, str(error))]) from None
    return Document(path, data, key_lines(text))


_POSITION = re.compile(r" \(at line (\d+), column (\d+)\)$")


def _syntax_problem(path: Path, text: str, message: str) -> str:
    """Say where ``text`` stops being TOML, what stands there and what is probably meant."""
    rows = text.splitlines() or [""]
    if found := _POSITION.search(message):
        number = min(int(found[1]), len(rows))
        message = message[: found.start()]
    else:
        number = len(rows)
        message = message.removesuffix(" (at end of document)")
    row = rows[number - 1].strip()
    hint = ""
    if message.startswith(("Cannot overwrite", "Cannot declare")):
        hint = "; it is already given further up: keep one of the two"
    elif message == "Invalid value":
        hint = '; text stands in double quotes (key = "text"), true and false in small letters'
    elif message.startswith("Expected '='"):
        hint = '; write key = "text", key = 104 or key = true'
    return f"{path}:{number}: not TOML: {message}, in `{row}`{hint}"


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_.-]|"[^"]*"|'[^']*')+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=""")
_QUOTES = re.compile(r"\"\"\"|'''")


def key_lines(text: str) -> dict[Place, int]:
    """Map each table and key of the TOML ``text`` to its line number.

    The text has been accepted by tomllib; this only looks for where things stand, and a value
    that it overlooks (inside an inline table) is reported at the line of what encloses it.
    """
    lines: dict[Place, int] = {}
    entries: dict[Place, int] = {}
    table: Place = ()
    inside_text = False
    for number, row in enumerate(text.splitlines(), start=1):
        if not inside_text:
            if header := _HEADER.match(row):
                table = _parts(header[2])
                lines.setdefault(table, number)
                if header[1] == "[[":
                    entries[table] = entries.get(table, -1) + 1
                    table = (*table, entries[table])
                    lines[table] = number
            elif key := _KEY.match(row):
                lines.setdefault((*table, *_parts(key[1])), number)
        if len(_QUOTES.findall(row)) % 2:
            inside_text = not inside_text
    return lines


def _parts(dotted: str) -> Place:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def closest(name: str, known: list[str]) -> str | None:
    """Return the one of ``known`` that ``name`` is probably meant to be."""
    spelled = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.6)
    return spelled[found[0]] if found else None


def table_mistakes(
    document: Document, section: str, tables: Iterable[tuple[str, Iterable[tuple[str, str]]]]
) -> list[str]:
    """Return a line for each mistake of the ``[[section]]`` tables of ``document``.

    ``tables`` has the name of each, which no other may have, and its mistakes: key and words.
    """
    found: list[str] = []
    names: set[str] = set()
    for number, (name, mistakes) in enumerate(tables):
        told = list(mistakes)
        if name in names:
            told.append(("name", "another rule has this name; each needs its own"))
        names.add(name)
        for key, words in told:
            where = document.where((section, number, key))
            found.append(f"{where}: {section}.{key} (of {name}): {words}")
    return found


def problems(
    error: ValidationError,
    document: Document,
    *,
    shown: Callable[[Place], str],
    unknown: Callable[[Place], str],
    variable: Callable[[Place], str | None] = lambda place: None,
) -> list[str]:
    """Turn each mistake that pydantic found into ``FILE:LINE: KEY: what to write instead``.

    ``shown`` spells the key, ``unknown`` words an unknown one, ``variable`` names the environment
    variable that a value came from. The lines come in the order of the file.
    """
    found: dict[str, int] = {}
    for detail in error.errors():
        place = detail["loc"]
        words = unknown(place) if detail["type"] == "extra_forbidden" else _words(detail)
        name = variable(place)
        where = f"environment variable {name}" if name else document.where(place)
        # A dictionary, since a value of two possible types is reported once for each of them.
        found[f"{where}: {shown(place)}: {words}"] = 0 if name else document.line(place)
    return sorted(found, key=found.__getitem__)


def _words(detail: ErrorDetails) -> str:
    """Say in words what ``detail`` wants and what it got."""
    context = detail.get("ctx", {})
    got = f"not {_spelled(detail['input'])}"
    match detail["type"]:
        case "missing":
            return f"is missing; write {detail['loc'][-1]} = ... here"
        case "literal_error":
            return f"must be {context['expected']}, {got}"
        # What a switch needs says nothing of its value, which is true.
        case "value_error" if str(context["error"]).startswith("needs "):
            return str(context["error"])
        case "value_error":
            return f"{context['error']}, {got}"
        case "int_parsing" | "int_type" | "int_from_float":
            return f"must be a whole number such as 100, {got}"
        case "float_parsing" | "float_type" | "finite_number":
            return f"must be a number such as 30, {got}"
        case "bool_parsing" | "bool_type":
            return f"must be true or false, {got}"
        case "string_type" | "path_type":
            return f'must be text in double quotes, as in key = "text", {got}'
        case "tuple_type" if isinstance(detail["input"], Mapping):
            return f"must be written [[{detail['loc'][-1]}]], in double brackets, for each entry"
        case "tuple_type" | "list_type" | "set_type" | "frozen_set_type":
            return f'must be a list, as in key = ["first", "second"], {got}'
        case "greater_than_equal":
            return f"must be {context['ge']} or more, {got}"
        case "greater_than":
            return f"must be more than {context['gt']}, {got}"
        case "less_than_equal":
            return f"must be {context['le']} or less, {got}"
        case "string_too_short" | "too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must have {context['max_length']} characters at most, {got}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"must be a table of keys under a [heading], {got}"
        case _:
            return f"{detail['msg']}, {got}"


def _spelled(value: object) -> str:
    """Write ``value`` as the file has it, shortened."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def host(value: str) -> str:
    """Return ``value``; raises ValueError if it cannot be a host name or an IP address."""
    if not (re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", value) or _is_ipv6(value)):
        raise ValueError('must be a host name or an IP address such as "10.0.0.5", without a port')
    return value


def _is_ipv6(value: str) -> bool:
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return True
