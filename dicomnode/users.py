"""The users that may prove who they are: ``users.toml``, with salted hashes of their passcodes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from dicomnode import configuration
from dicomnode.configuration import Document, Place
from dicomnode.errors import ConfigurationError

# 16 MiB of memory and a fifth of a second for each guess (RFC 7914 §2: N, r, p).
_COST, _BLOCK_SIZE, _PARALLEL = 2**14, 8, 5
# What a file may ask for: more would let one line of it take the machine.
_MOST_COST, _MOST_BLOCK_SIZE, _MOST_PARALLEL = 2**17, 16, 16
_MOST_MEMORY_BYTES = 512 * 1024 * 1024
_SALT_BYTES, _HASH_BYTES = 16, 32
_MOST_CHARACTERS = 128
_METHOD = "scrypt"
_OTHERS_MAY = stat.S_IRWXG | stat.S_IRWXO
_HEAD = "# Written by `dicomnode user`; passcodes are kept as salted hashes.\n"


def _name(value: str) -> str:
    if not 1 <= len(value) <= _MOST_CHARACTERS or not value.isprintable():
        raise ValueError(f"must be 1 to {_MOST_CHARACTERS} printable characters")
    return value


def _passcode(value: str) -> str:
    _parts(value)
    return value


class User(BaseModel):
    """One user; without ``passcode`` (a salted hash) the name alone is believed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_name)]
    passcode: Annotated[str, AfterValidator(_passcode)] | None = None
    description: str = ""


class Users:
    """The users by name. Immutable; names are compared exactly."""

    __slots__ = ("_by_name",)

    def __init__(self, users: Iterable[User] = ()) -> None:
        self._by_name = {user.name: user for user in users}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[User]:
        return iter(self._by_name.values())

    def lookup(self, name: str) -> User | None:
        """Return the user called ``name``, or None."""
        return self._by_name.get(name)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    user: tuple[User, ...] = ()


def users_path(registry_path: Path) -> Path:
    """Return where users stand: ``users.toml`` beside the registry."""
    return registry_path.with_name("users.toml")


def load_users(path: Path) -> Users:
    """Read the users at ``path``; none where there is no such file.

    Raises ConfigurationError with one line for each mistake: file, line, key, what to write.
    """
    if not path.exists():
        return Users()
    document = configuration.read_toml(path)
    try:
        users = _File(**document.data).user
    except ValidationError as error:
        found = configuration.problems(error, document, shown=_shown, unknown=_unknown)
        raise ConfigurationError([_without_hashes(line) for line in found]) from None
    if mistakes := list(_repeated(document, users)):
        raise ConfigurationError(mistakes)
    return Users(users)


def open_to_others(path: Path) -> bool:
    """Tell whether others than its owner may read or change the file at ``path``."""
    with contextlib.suppress(OSError):
        return bool(path.stat().st_mode & _OTHERS_MAY)
    return False


def change_users(path: Path, change: Callable[[Users], Iterable[User]], owner: Path) -> None:
    """Replace the users at ``path`` by what ``change`` makes of them, as a whole or not at all.

    The file has mode 0600 and keeps its owner; a new one belongs to the owner of ``owner``,
    where we may say so. Whoever changes it at the same time waits. Raises ConfigurationError,
    OSError.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        text = _HEAD + "".join(map(_table, change(load_users(path))))
        _replace(path, text, path if path.exists() else owner)
        os.fsync(folder)
    finally:
        os.close(folder)


def _replace(path: Path, text: str, owner: Path) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if os.geteuid() == 0 and owner.exists():
                whose = owner.stat()
                os.fchown(file.fileno(), whose.st_uid, whose.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _table(user: User) -> str:
    keys = user.model_dump(exclude_none=True, exclude_defaults=True)
    # Characters beyond the first plane are surrogates in JSON's escapes, which TOML has not.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    return "\n".join(["", "[[user]]", *lines, ""])


# -- passcodes -------------------------------------------------------------------------------------


def hash_passcode(passcode: bytes) -> str:
    """Return the salted hash of a passcode as users.toml keeps it; takes a fifth of a second."""
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _scrypt(passcode, salt, _COST, _BLOCK_SIZE, _PARALLEL)
    numbers = f"{_COST}${_BLOCK_SIZE}${_PARALLEL}"
    return f"{_METHOD}${numbers}${_encoded(salt)}${_encoded(digest)}"


def is_passcode(passcode: bytes, hashed: str | None) -> bool:
    """Tell whether ``passcode`` is the one of ``hashed``; takes as long where there is none."""
    if hashed is None:
        _scrypt(passcode, bytes(_SALT_BYTES), _COST, _BLOCK_SIZE, _PARALLEL)
        return False
    cost, block_size, parallel, salt, digest = _parts(hashed)
    return hmac.compare_digest(_scrypt(passcode, salt, cost, block_size, parallel), digest)


def _scrypt(passcode: bytes, salt: bytes, cost: int, block_size: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        passcode,
        salt=salt,
        n=cost,
        r=block_size,
        p=parallel,
        maxmem=_MOST_MEMORY_BYTES,
        dklen=_HASH_BYTES,
    )


def _parts(hashed: str) -> tuple[int, int, int, bytes, bytes]:
    """Read a hash; raises ValueError for what is none, or takes too much to compare."""
    wrong = ValueError("must be a hash that `dicomnode user add` has written")
    try:
        method, *numbers, salt, digest = hashed.split("$")
        cost, block_size, parallel = map(int, numbers)
        decoded = base64.b64decode(salt, validate=True), base64.b64decode(digest, validate=True)
    except (ValueError, binascii.Error):
        raise wrong from None
    is_power = cost > 1 and cost & (cost - 1) == 0 and cost <= _MOST_COST
    bounded = 0 < block_size <= _MOST_BLOCK_SIZE and 0 < parallel <= _MOST_PARALLEL
    if method != _METHOD or not is_power or not bounded or len(decoded[1]) != _HASH_BYTES:
        raise wrong
    return cost, block_size, parallel, *decoded


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# -- mistakes --------------------------------------------------------------------------------------


def _repeated(document: Document, users: Iterable[User]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for number, user in enumerate(users):
        first = seen.setdefault(user.name, number)
        if first != number:
            where, other = (document.where(("user", each, "name")) for each in (number, first))
            yield f"{where}: user.name: '{user.name}' stands at {other} already; remove one"


def _shown(place: Place) -> str:
    return ".".join(str(part) for part in place if isinstance(part, str))


def _unknown(place: Place) -> str:
    keys = list(User.model_fields)
    if len(place) == 1:
        return "unknown section; each user is a table under a [[user]] heading"
    if meant := configuration.closest(str(place[-1]), keys):
        return f"unknown key; did you mean {meant}?"
    return f"unknown key; [[user]] has {', '.join(keys)}"


def _without_hashes(line: str) -> str:
    """Leave out of a mistake what was written for a passcode: it may be the passcode itself."""
    where, found, _ = line.partition("user.passcode: ")
    return f"{where}{found}must be a hash that `dicomnode user add` has written" if found else line
