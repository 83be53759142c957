"""Settings, registry and users as one configuration: read together, and taken anew while running.

A reload is all or nothing: a mistake anywhere leaves everything as it was. What only a restart
can change is named, and stays as it was too.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from dicomnode import configuration
from dicomnode.configuration import find_settings_file, registry_path
from dicomnode.credentials import read_credentials
from dicomnode.errors import ConfigurationError
from dicomnode.registry import Registry, load_registry
from dicomnode.services.identities import Credentials
from dicomnode.settings import Settings, load_settings

if TYPE_CHECKING:
    # Commands that reload nothing start without the log.
    from dicomnode.observe.logs import Logger

RELOADABLE: Final = frozenset({"deletion", "forward", "jwt", "log.level", "retention"})
"""The settings that are taken while running; registry and users are, as a whole."""

# Keys whose values are not for the log: secrets, and what may say who a patient is.
_NOT_SHOWN: Final = re.compile("token|pass|secret|attributes|keys")
_PASSWORD: Final = re.compile(r"(://[^:/@]*):[^@/]*@")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a node goes by; ``file`` is where the settings were read."""

    settings: Settings
    registry: Registry
    file: Path
    credentials: Credentials = field(default_factory=Credentials)


def read_configuration(file: Path | None = None, *, strict: bool | None = None) -> Configuration:
    """Read the settings file, and registry and users beside it.

    ``strict`` takes the place of node.strict_ae_titles. Raises ConfigurationError with the
    mistakes of all.
    """
    file = find_settings_file(file)
    problems: list[str] = []
    settings, registry, credentials = None, None, Credentials()
    try:
        settings = load_settings(file)
    except ConfigurationError as error:
        problems += error.problems
    if strict is None:
        strict = settings is not None and settings.node.strict_ae_titles
    try:
        registry = load_registry(registry_path(file), strict)
    except ConfigurationError as error:
        problems += error.problems
    if settings is not None:
        problems += _tls_mistakes(settings, file)
        try:
            credentials = read_credentials(settings, file)
        except ConfigurationError as error:
            problems += error.problems
    if settings is not None and registry is not None:
        problems += _rule_mistakes(settings, registry, file, strict=bool(strict))
    if problems or settings is None or registry is None:
        raise ConfigurationError(problems)
    return Configuration(settings, registry, file, credentials)


def _rule_mistakes(
    settings: Settings, registry: Registry, file: Path, *, strict: bool
) -> list[str]:
    problems: list[str] = []
    # Here, since most commands are quicker without outbox and fetching.
    if settings.forward:
        from dicomnode.outbox import rules as forward

        document = configuration.read_toml(file)
        problems += forward.mistakes(settings.forward, registry, document, strict=strict)
    if settings.fetch:
        from dicomnode.sync import rules as fetch

        document = configuration.read_toml(file)
        problems += fetch.mistakes(settings.fetch, registry, document, strict=strict)
    if settings.retention:
        from dicomnode.retention import rules as retention

        document = configuration.read_toml(file)
        problems += retention.mistakes(settings.retention, registry, document, strict=strict)
    return problems


def _tls_mistakes(settings: Settings, file: Path) -> list[str]:
    tls = settings.tls
    if tls.certificate is None and tls.ca is None:
        return []
    # Here, since most commands are quicker without it.
    from dicomnode.tls.files import mistakes, of

    document = configuration.read_toml(file)
    return [
        f"{document.where(tuple(line.partition(':')[0].split('.')))}: {line}"
        for line in mistakes(of(tls))
    ]


# -- what has changed ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """One difference of two configurations; ``where`` is a key, or what a table is about."""

    where: str
    words: str
    needs_restart: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.words}"


def changes(old: Configuration, new: Configuration) -> list[Change]:
    """Return what has been added, removed and changed, secrets and patients left out."""
    both = old, new
    before, after = (_by("title", each.registry.entries) for each in both)
    users, users_after = (_by("name", list(each.credentials.users)) for each in both)
    return [
        *_changes_of_settings(old.settings, new.settings),
        *(Change(f"[[ae]] {name}", words) for name, words in _changes_of_tables(before, after)),
        *(
            Change(f"[[user]] {name}", words)
            for name, words in _changes_of_tables(users, users_after)
        ),
    ]


def _changes_of_settings(old: Settings, new: Settings) -> Iterator[Change]:
    for section in Settings.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if not isinstance(before, tuple):
            for key, words in _changes_of_keys(_values(before), _values(after)):
                where = f"{section}.{key}"
                yield Change(where, words, RELOADABLE.isdisjoint((section, where)))
            continue
        restart = section not in RELOADABLE
        tables = _by("name", before), _by("name", after)
        for name, words in _changes_of_tables(*tables):
            yield Change(f"[[{section}]] {name}", words, restart)
        # Rules are tried in the order of the file.
        if list(tables[0]) != list(tables[1]) and set(tables[0]) == set(tables[1]):
            yield Change(f"[[{section}]]", f"in another order: {', '.join(tables[1])}", restart)


_Values = dict[str, Any]


def _by(key: str, tables: Sequence[BaseModel]) -> dict[str, _Values]:
    """Return tables by what tells them apart."""
    return {str(getattr(each, key)): _values(each) for each in tables}


def _values(model: BaseModel) -> _Values:
    """Return what a table says, in JSON's types; sets have no order, and get one."""
    shown = model.model_dump(mode="json", by_alias=True)
    for name, described in type(model).model_fields.items():
        if isinstance(getattr(model, name), frozenset):
            shown[described.alias or name].sort()
    return shown


def _changes_of_tables(
    old: Mapping[str, _Values], new: Mapping[str, _Values]
) -> Iterator[tuple[str, str]]:
    yield from ((name, "removed") for name in old if name not in new)
    for name, table in new.items():
        if name not in old:
            yield name, "added"
        elif pairs := list(_changes_of_keys(old[name], table)):
            yield name, ", ".join(f"{key} {words}" for key, words in pairs)


def _changes_of_keys(old: _Values, new: _Values) -> Iterator[tuple[str, str]]:
    for key, before in old.items():
        if before == new[key]:
            continue
        told = f"{_shown(before)} -> {_shown(new[key])}"
        yield key, "changed" if _NOT_SHOWN.search(key) else told


def _shown(value: object) -> str:
    return "not set" if value is None else _PASSWORD.sub(r"\1:***@", json.dumps(value))


# -- while running ---------------------------------------------------------------------------------


class Reloading:
    """Reads the configuration again and hands it on; one reload at a time, the last one wins.

    ``take`` has the node go by the reloadable parts of what it is given. It must not fail, nor
    await before everything has been taken.
    """

    def __init__(
        self, current: Configuration, take: Callable[[Configuration], None], log: Logger
    ) -> None:
        self._current = current
        self._take = take
        self._log = log
        self._turn = asyncio.Lock()

    async def reload(self) -> bool:
        """Take the files anew as a whole, or keep the old ones and log why; tell which."""
        async with self._turn:
            current = self._current
            strict = current.settings.node.strict_ae_titles
            try:
                found = await asyncio.to_thread(read_configuration, current.file, strict=strict)
            except (ConfigurationError, OSError) as error:
                problems = error.problems if isinstance(error, ConfigurationError) else [str(error)]
                self._log.error(
                    "settings, registry, users and certificates not reloaded, the old ones stay in"
                    " force"
                )
                for problem in problems:
                    self._log.error(problem)
                return False
            differences = changes(current, found)
            # A restart is asked for again at each reload until there has been one.
            self._current = _merged(current, found)
            self._take(self._current)
            self._say(differences)
            return True

    def _say(self, differences: list[Change]) -> None:
        taken = [each for each in differences if not each.needs_restart]
        waiting = [each for each in differences if each.needs_restart]
        noun = "AE" if len(self._current.registry) == 1 else "AEs"
        told = f"{len(taken)} taken" if taken else "nothing has changed"
        told += f", {len(waiting)} need a restart" if waiting else ""
        self._log.info(f"registry reloaded: {len(self._current.registry)} {noun}; changes: {told}")
        if self._current.credentials.note:
            self._log.warning(self._current.credentials.note)
        for each in taken:
            self._log.info(f"reloaded {each}")
        for each in waiting:
            self._log.warning(f"not reloaded, needs a restart: {each}")


def _merged(current: Configuration, found: Configuration) -> Configuration:
    """Return what is in force after a reload: the settings that need a restart are the old ones."""
    level = {"level": found.settings.log.level}
    update = {
        "deletion": found.settings.deletion,
        "forward": found.settings.forward,
        "jwt": found.settings.jwt,
        "log": current.settings.log.model_copy(update=level),
        "retention": found.settings.retention,
    }
    settings = current.settings.model_copy(update=update)
    return Configuration(settings, found.registry, current.file, found.credentials)
