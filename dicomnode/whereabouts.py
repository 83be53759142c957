"""Where the configuration stands that an explanation speaks of: file, line, value, what to write.

Sentences of explanations name keys as they are written, ``limits.max_associations``, and the
registry as ``ae.toml``. They are looked up in the files as these are now.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from dicomnode import configuration
from dicomnode.configuration import Document, registry_path
from dicomnode.errors import ConfigurationError
from dicomnode.registry import AE
from dicomnode.settings import Settings, variable_of

_KEY: Final = re.compile(r"\b([a-z]+)\.([a-z_]+)\b")
_QUOTED_TITLE: Final = re.compile(r'title = "([^"\\]{1,16})"')
_WORD: Final = re.compile(r"[A-Za-z_]+")
_REGISTRY: Final = "ae.toml"
# What is set here is nobody's business.
_SECRET: Final = re.compile(r"token|password|passcode|secret")
_MOST_PLACES: Final = 8
_MOST_CHARACTERS: Final = 120

Place = dict[str, Any]


class Whereabouts:
    """Finds what explanations speak of in the files of a node; reading them blocks.

    ``settings`` are those in force, which a reload replaces.
    """

    def __init__(self, settings: Settings, file: Path) -> None:
        self.settings = settings
        self._file = file
        self._registry_file = registry_path(file)

    def on(
        self, listed: Callable[[], Sequence[Mapping[str, Any]]]
    ) -> Callable[[], Awaitable[list[dict[str, Any]]]]:
        """Return what gives the explanations of ``listed`` with their places."""

        async def located() -> list[dict[str, Any]]:
            return await asyncio.to_thread(self.located, listed())

        return located

    def located(self, explanations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return ``explanations`` with the places in the configuration that each speaks of."""
        settings = _document(self._file)
        registry = _document(self._registry_file)
        return [
            {**entry, "configuration": self._places(entry, settings, registry)}
            for entry in explanations
        ]

    def _places(
        self, entry: Mapping[str, Any], settings: Document | None, registry: Document | None
    ) -> list[Place]:
        sentences = [
            *(str(reason.get("words", "")) for reason in entry.get("reasons", ())),
            *(str(sentence) for sentence in entry.get("advice", ())),
        ]
        found: list[Place] = []
        for sentence in sentences:
            for place in (
                *self._settings_in(sentence, settings),
                *self._registry_in(sentence, entry, registry),
            ):
                if place not in found:
                    found.append(place)
        # A place within a table says more than the table itself.
        detailed = {place["title"] for place in found if place.get("title") and "key" in place}
        return [place for place in found if "key" in place or place.get("title") not in detailed][
            :_MOST_PLACES
        ]

    # -- dicomnode.toml ----------------------------------------------------------------------------

    def _settings_in(self, sentence: str, document: Document | None) -> Iterator[Place]:
        for section, key in dict.fromkeys(_KEY.findall(sentence)):
            held = getattr(self.settings, section, None)
            if isinstance(held, BaseModel) and key in type(held).model_fields:
                yield self._setting(section, key, getattr(held, key), document)

    def _setting(self, section: str, key: str, value: Any, document: Document | None) -> Place:
        shown = "set" if _SECRET.search(key) and value else _written(value)
        place: Place = {"key": f"{section}.{key}", "value": shown}
        if variable := variable_of((section, key)):
            return place | {"where": f"environment variable {variable}", "is_set": True}
        if document is None:
            return place | {"where": "dicomnode.toml", "is_set": False, "write": f"[{section}]"}
        if (section, key) in document.lines:
            return place | {"where": document.where((section, key)), "is_set": True}
        if (section,) in document.lines:
            return place | {
                "where": document.where((section,)),
                "is_set": False,
                "write": f"{key} = ... under [{section}]",
            }
        return place | {
            "where": str(document.path),
            "is_set": False,
            "write": f"[{section}] and below it {key} = ...",
        }

    # -- ae.toml -----------------------------------------------------------------------------------

    def _registry_in(
        self, sentence: str, entry: Mapping[str, Any], document: Document | None
    ) -> Iterator[Place]:
        if _REGISTRY not in sentence and "max_associations of" not in sentence:
            return
        tables = document.data.get("ae", []) if document is not None else []
        titles = {
            str(table["title"]): number
            for number, table in enumerate(tables)
            if isinstance(table, dict) and "title" in table
        }
        rest = ", host = ..., port = ..." if "host and port" in sentence else ""
        for title in _titles_in(sentence, str(entry.get("calling_ae_title", "")), titles):
            known = next((each for each in titles if each.casefold() == title.casefold()), None)
            if known is None or document is None:
                if title in _QUOTED_TITLE.findall(sentence):
                    yield {
                        "title": title,
                        "where": str(self._registry_file),
                        "is_set": False,
                        "write": f"[[ae]] and below it title = {json.dumps(title)}{rest}",
                    }
                continue
            yield from _of_ae(sentence, known, titles[known], tables[titles[known]], document)


def _of_ae(
    sentence: str, title: str, number: int, table: Mapping[str, Any], document: Document
) -> Iterator[Place]:
    """Return the places of one AE that a sentence speaks of: its keys, or else its table."""
    words = set(_WORD.findall(sentence)) - {"title", "description"}
    named = [key for key in AE.model_fields if key in words]
    keys = [key for key in named if f"{key} of " not in sentence or f"{key} of {title}" in sentence]
    for key in keys:
        place: Place = {"title": title, "key": f"ae.{key}", "where": document.where(("ae", number))}
        if key in table:
            where = document.where(("ae", number, key))
            yield place | {"value": _written(table[key]), "is_set": True, "where": where}
        else:
            yield place | {"value": None, "is_set": False, "write": f"{key} = ..."}
    if not named:
        yield {"title": title, "where": document.where(("ae", number)), "is_set": True}


def _bare(word: str) -> str:
    """Return a word without the marks around it, and without the genitive."""
    return word.strip("\"'.,;:()").removesuffix("'s")


def _titles_in(sentence: str, calling: str, known: Collection[str]) -> list[str]:
    """Return the AEs that a sentence is about: the one that it wants to be written, the first one
    (or who called) if it says "its", or else all that it names.
    """
    if wanted := _QUOTED_TITLE.findall(sentence):
        return list(dict.fromkeys(wanted))
    # A registry may have thousands: looked up word by word, and only those of several words by
    # what the sentence holds.
    named = [word for word in map(_bare, sentence.split()) if word in known]
    named += [title for title in known if " " in title and title in sentence]
    named = sorted(dict.fromkeys(named), key=sentence.find)
    return ([*named, calling][:1]) if " its " in sentence else named


def _document(path: Path) -> Document | None:
    """Return a file as it is now; None where there is none, or what is there cannot be read."""
    try:
        return configuration.read_toml(path)
    except ConfigurationError:
        return None


def _written(value: Any) -> str:
    """Write a value as TOML has it, within bounds."""
    shown = value
    if isinstance(value, tuple | frozenset | set):
        shown = sorted(map(str, value)) if not isinstance(value, tuple) else [*map(str, value)]
    elif value is not None and not isinstance(value, bool | int | float | str | list | dict):
        shown = str(value)
    text = "not set" if shown is None else json.dumps(shown, default=str, ensure_ascii=False)
    # A URL may have a password in it.
    text = re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", text)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
