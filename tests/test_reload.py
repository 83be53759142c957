"""Reading settings and registry together, what has changed in them, and taking them anew."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from dicomnode.errors import ConfigurationError
from dicomnode.observe.logs import Log
from dicomnode.reload import Configuration, Reloading, changes, read_configuration
from dicomnode.settings import LogSettings
from dicomnode.users import User, change_users, hash_passcode
from tests import peers

ARCHIVE = {"title": "ARCHIVE", "host": "10.0.0.9"}
RULE: dict[str, Any] = {"name": "all", "to": ["ARCHIVE"]}


def written(
    tmp_path: Path,
    entities: list[dict[str, Any]] | None = None,
    forward: list[dict[str, Any]] | None = None,
    **sections: dict[str, Any],
) -> Configuration:
    file = peers.write_config(tmp_path, entities=entities or [], forward=forward or [], **sections)
    return read_configuration(file)


def told(old: Configuration, new: Configuration) -> list[str]:
    return [str(change) for change in changes(old, new)]


def test_what_has_not_changed_is_not_told(tmp_path: Path) -> None:
    entities = [{"title": "CT_1", "services": ["echo", "store", "find"]}, ARCHIVE]
    first = written(tmp_path, entities, [RULE])
    turned = [ARCHIVE, {"title": "CT_1", "services": ["find", "store", "echo"]}]
    assert told(first, written(tmp_path, turned, [RULE])) == []


def test_tables_that_are_added_removed_and_changed_are_named(tmp_path: Path) -> None:
    old = written(tmp_path, [{"title": "CT_1", "port": 104}, {"title": "CT_2"}])
    new = written(tmp_path, [{"title": "CT_1", "port": 11112, "host": "ct"}, {"title": "CT_3"}])
    assert told(old, new) == [
        "[[ae]] CT_2: removed",
        '[[ae]] CT_1: host not set -> "ct", port 104 -> 11112',
        "[[ae]] CT_3: added",
    ]


def test_forward_rules_are_told_by_name_and_their_order_counts(tmp_path: Path) -> None:
    night = {"name": "night", "to": ["ARCHIVE"], "window": "22:00-06:00"}
    old = written(tmp_path, [ARCHIVE], [RULE, night])
    late = night | {"window": "23:00-06:00", "from": ["CT_*"]}
    assert told(old, written(tmp_path, [ARCHIVE], [late, RULE])) == [
        '[[forward]] night: from [] -> ["CT_*"], window "22:00-06:00" -> "23:00-06:00"',
        "[[forward]]: in another order: night, all",
    ]


def test_what_needs_a_restart_is_marked(tmp_path: Path) -> None:
    old = written(tmp_path)
    new = written(tmp_path, log={"level": "debug", "format": "json"}, limits={"max_matches": 5})
    marked = {str(change): change.needs_restart for change in changes(old, new)}
    assert marked == {
        "limits.max_matches: 10000 -> 5": True,
        'log.format: "text" -> "json"': True,
        'log.level: "info" -> "debug"': False,
    }


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    url = "postgresql://node:{}@db/dicom"
    old = written(tmp_path, http={"token": "a" * 20}, index={"url": url.format("one")})
    new = written(tmp_path, http={"token": "b" * 20}, index={"url": url.format("two")})
    assert told(old, new) == [
        'index.url: "postgresql://node:***@db/dicom" -> "postgresql://node:***@db/dicom"',
        "http.token: changed",
    ]


def test_who_a_patient_is_does_not_get_into_the_log(tmp_path: Path) -> None:
    old = written(tmp_path, [ARCHIVE], [RULE])
    new = written(tmp_path, [ARCHIVE], [RULE | {"attributes": {"PatientID": ["4711"]}}])
    assert told(old, new) == ["[[forward]] all: attributes changed"]


def test_the_mistakes_of_both_files_and_of_rules_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as mistakes:
        written(tmp_path, [{"title": "CT_1"}], [RULE])
    (problem,) = mistakes.value.problems
    assert "'ARCHIVE' is not in ae.toml" in problem


class Taking:
    """A node that takes configurations, and its log."""

    def __init__(self, current: Configuration) -> None:
        self.output = io.StringIO()
        self.log = Log(LogSettings(level="debug"), stream=self.output)
        self.taken: list[Configuration] = []
        self.reloading = Reloading(current, self.taken.append, self.log.logger)

    def lines(self) -> str:
        self.log.start()
        self.log.stop()
        return self.output.getvalue()


async def test_a_mistake_anywhere_leaves_everything_as_it_was(tmp_path: Path) -> None:
    node = Taking(written(tmp_path, [{"title": "CT_1"}]))
    peers.write_registry(tmp_path, [{"title": "CT_2"}])
    (tmp_path / "dicomnode.toml").write_text('[log]\nlevel = "loud"\n')
    assert not await node.reloading.reload()
    assert node.taken == []
    assert "dicomnode.toml:2: log.level: must be" in node.lines()


async def test_what_is_taken_is_logged_and_what_is_not_says_that_it_needs_a_restart(
    tmp_path: Path,
) -> None:
    node = Taking(written(tmp_path, [{"title": "CT_1"}]))
    written(tmp_path, [{"title": "CT_2"}], log={"level": "debug"}, node={"port": 104})
    assert await node.reloading.reload()
    (taken,) = node.taken
    assert taken.registry.titles == ("CT_2",)
    assert (taken.settings.log.level, taken.settings.node.port) == ("debug", 0)
    lines = node.lines()
    for words in (
        "registry reloaded: 1 AE; changes: 3 taken, 1 need a restart",
        "reloaded [[ae]] CT_1: removed",
        "reloaded [[ae]] CT_2: added",
        'reloaded log.level: "info" -> "debug"',
        "not reloaded, needs a restart: node.port: 0 -> 104",
    ):
        assert words in lines


async def test_a_restart_is_asked_for_until_there_has_been_one(tmp_path: Path) -> None:
    node = Taking(written(tmp_path))
    written(tmp_path, node={"port": 104})
    assert await node.reloading.reload()
    assert await node.reloading.reload()
    assert node.lines().count("needs a restart: node.port: 0 -> 104") == 2


async def test_reloads_follow_each_other_and_the_last_one_stays(tmp_path: Path) -> None:
    node = Taking(written(tmp_path, [{"title": "CT_1"}]))
    peers.write_registry(tmp_path, [{"title": "CT_2"}])
    await asyncio.gather(*(node.reloading.reload() for _ in range(5)))
    assert [each.registry.titles for each in node.taken] == [("CT_2",)] * 5


async def test_whether_titles_are_strict_changes_with_a_restart_alone(tmp_path: Path) -> None:
    node = Taking(written(tmp_path))
    file = peers.write_config(tmp_path, node={"strict_ae_titles": True})
    file.with_name("ae.toml").write_text("[[ae]]\ntitle = 'a'\n[[ae]]\ntitle = 'A'\n")
    # The running node would take one for the other.
    assert not await node.reloading.reload()
    assert "'A' is already registered" in node.lines()


# -- users -----------------------------------------------------------------------------------------


def with_users(tmp_path: Path, *users: User, **sections: dict[str, Any]) -> Configuration:
    written(tmp_path, **sections)
    owner = tmp_path / "ae.toml"
    change_users(tmp_path / "users.toml", lambda before: users, owner)
    return read_configuration(tmp_path / "dicomnode.toml")


JANE = User(name="jane", passcode=hash_passcode(b"correct horse"))


def test_users_that_come_go_and_change_are_named_without_their_hashes(tmp_path: Path) -> None:
    old = with_users(tmp_path, JANE, User(name="joe"))
    changed = JANE.model_copy(update={"passcode": hash_passcode(b"battery staple")})
    assert told(old, with_users(tmp_path, changed, User(name="ann"))) == [
        "[[user]] joe: removed",
        "[[user]] jane: passcode changed",
        "[[user]] ann: added",
    ]


async def test_a_mistake_in_the_users_leaves_the_registry_as_it_was(tmp_path: Path) -> None:
    node = Taking(with_users(tmp_path, JANE))
    peers.write_registry(tmp_path, [{"title": "CT_2"}])
    (tmp_path / "users.toml").write_text('[[user]]\nnick = "joe"\n')
    assert not await node.reloading.reload()
    assert node.taken == []
    assert "users.toml:2: user.nick: unknown key" in node.lines()


async def test_a_mistake_in_the_registry_leaves_the_users_as_they_were(tmp_path: Path) -> None:
    node = Taking(with_users(tmp_path, JANE))
    change_users(tmp_path / "users.toml", lambda before: (), tmp_path / "ae.toml")
    (tmp_path / "ae.toml").write_text("nonsense")
    assert not await node.reloading.reload()
    assert node.taken == []


async def test_the_issuer_of_tokens_is_taken_with_its_key_and_users_readable_by_all_are_told(
    tmp_path: Path,
) -> None:
    node = Taking(with_users(tmp_path, JANE))
    key = tmp_path / "issuer.key"
    key.write_text("s" * 32)
    jwt = {"key_file": str(key), "algorithm": "HS256", "issuer": "one", "audience": "two"}
    with_users(tmp_path, JANE, jwt=jwt)
    (tmp_path / "users.toml").chmod(0o644)
    assert await node.reloading.reload()
    (taken,) = node.taken
    assert taken.credentials.tokens is not None and taken.settings.jwt.issuer == "one"
    lines = node.lines()
    assert 'reloaded jwt.issuer: "" -> "one"' in lines and "needs a restart" not in lines
    assert "users.toml can be read by others than its owner" in lines


def test_a_key_of_the_issuer_that_is_none_names_its_line(tmp_path: Path) -> None:
    key = tmp_path / "issuer.pem"
    key.write_text("no key")
    jwt = {"key_file": str(key), "issuer": "one", "audience": "two"}
    with pytest.raises(ConfigurationError) as mistakes:
        written(tmp_path, jwt=jwt)
    (problem,) = mistakes.value.problems
    assert "dicomnode.toml:" in problem and ": jwt.key_file: is not the public key" in problem
