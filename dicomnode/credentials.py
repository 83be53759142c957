"""What user identities are checked against: users.toml, and the key of who issues tokens."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from dicomnode import configuration
from dicomnode.configuration import registry_path
from dicomnode.errors import ConfigurationError
from dicomnode.services.identities import Credentials, Tokens
from dicomnode.settings import JwtSettings, Settings
from dicomnode.users import Users, load_users, open_to_others, users_path


def read_credentials(settings: Settings, file: Path) -> Credentials:
    """Read users and key; ``file`` is the settings file.

    Blocks; raises ConfigurationError with the mistakes of both.
    """
    problems: list[str] = []
    users, tokens = Users(), None
    path = users_path(registry_path(file))
    try:
        users = load_users(path)
    except ConfigurationError as error:
        problems += error.problems
    try:
        tokens = _tokens(settings.jwt)
    except ConfigurationError as error:
        where = configuration.read_toml(file).where(("jwt", "key_file"))
        problems += [f"{where}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigurationError(problems)
    return Credentials(users, tokens, "; ".join(_notes(settings, file, path)))


def _notes(settings: Settings, file: Path, users: Path) -> Iterator[str]:
    """Yield which secrets others can read."""
    if open_to_others(users):
        yield f"{users} can be read by others than its owner: chmod 600 {users}"
    key = settings.jwt.key_file
    if key is not None and settings.jwt.algorithm.startswith("HS") and _open_to_all(key):
        yield f"whoever reads {key} can make tokens of any user, and all may: chmod 640 {key}"
    # It may come from the environment instead.
    if _open_to_all(file) and configuration.read_toml(file).data.get("http", {}).get("token"):
        yield f"whoever reads http.token in {file} can use it, and all may: chmod 640 {file}"


def _open_to_all(path: Path) -> bool:
    # A group of its own that may read is what `dicomnode init` makes.
    with contextlib.suppress(OSError):
        return bool(path.stat().st_mode & (stat.S_IRWXO | stat.S_IWGRP))
    return False


def _tokens(settings: JwtSettings) -> Tokens | None:
    if settings.key_file is None:
        return None
    # Late: whoever takes no tokens starts faster.
    from dicomnode.services.tokens import TokenRules
    from dicomnode.services.tokens import Tokens as Checker

    try:
        key = settings.key_file.read_bytes()
    except OSError as error:
        words = f"jwt.key_file: {settings.key_file} cannot be read: {error.strerror}"
        raise ConfigurationError([words]) from None
    rules = TokenRules(
        algorithm=settings.algorithm,
        issuer=settings.issuer,
        audience=settings.audience,
        user_claim=settings.user_claim,
        leeway_seconds=settings.leeway_seconds,
    )
    return Checker(rules, key)
