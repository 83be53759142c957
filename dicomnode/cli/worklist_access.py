"""The worklist as the commands reach it: through the running node, or else in the index itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import quote, urlencode

from dicomnode.api.token import read_token
from dicomnode.cli.asking import NodeUnavailable, call
from dicomnode.cli.common import fail
from dicomnode.errors import StoreLocked
from dicomnode.settings import Settings

if TYPE_CHECKING:
    from dicomnode.services.worklist_desk import WorklistDesk
    from dicomnode.storage.files import FileStore

_PAGE: Final = 1000
_ORIGIN: Final = "command"
_PATH: Final = "/api/worklist"

Shown = dict[str, Any]


class WorklistAccess(Protocol):
    """What can be done with the worklist; what cannot be done raises a DicomnodeError."""

    def put(self, key: str, value: Any, called_ae_title: str) -> bool: ...

    def show(self, key: str) -> Shown: ...

    def remove(self, key: str) -> None: ...

    def listed(self) -> Iterator[Shown]: ...


class ThroughNode:
    """Asks the running node over HTTP."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def put(self, key: str, value: Any, called_ae_title: str) -> bool:
        """Enter an item; return whether it is new."""
        query = urlencode({"origin": _ORIGIN, "called_ae_title": called_ae_title})
        return bool(call(self._settings, "PUT", f"{_of(key)}?{query}", value)["is_new"])

    def show(self, key: str) -> Shown:
        """Return an item."""
        shown: Shown = call(self._settings, "GET", _of(key))
        return shown

    def remove(self, key: str) -> None:
        """Remove an item."""
        call(self._settings, "DELETE", _of(key))

    def listed(self) -> Iterator[Shown]:
        """Yield all items."""
        after: str | None = ""
        while after is not None:
            query = urlencode({"limit": _PAGE, "after": after})
            page = call(self._settings, "GET", f"{_PATH}?{query}")
            yield from page["items"]
            after = page["next"]


class InIndex:
    """Works on the index of a node that does not run."""

    def __init__(self, desk: WorklistDesk) -> None:
        self._desk = desk

    def put(self, key: str, value: Any, called_ae_title: str) -> bool:
        """Enter an item; return whether it is new."""
        return self._desk.put(key, value, origin=_ORIGIN, called_ae_title=called_ae_title)

    def show(self, key: str) -> Shown:
        """Return an item."""
        return self._desk.show(key)

    def remove(self, key: str) -> None:
        """Remove an item."""
        self._desk.remove(key)

    def listed(self) -> Iterator[Shown]:
        """Yield all items."""
        after: str | None = ""
        while after is not None:
            page = self._desk.listed(_PAGE, after)
            yield from page["items"]
            after = page["next"]


@contextlib.contextmanager
def worklist_of(settings: Settings) -> Iterator[WorklistAccess]:
    """Lend the worklist of the node of ``settings``, whether it runs or not."""
    unavailable = why_no_node(settings)
    if unavailable is None:
        yield ThroughNode(settings)
    else:
        with _opened(settings, unavailable) as desk:
            yield InIndex(desk)


def why_no_node(settings: Settings) -> NodeUnavailable | None:
    """Return why no running node can be asked, None when one can."""
    directory = settings.storage.directory
    try:
        local = read_token(directory)
    except PermissionError:
        local = None
    else:
        if local is None:
            return NodeUnavailable(f"no node that serves HTTP runs on {directory}")
    try:
        call(settings, "GET", f"{_PATH}?limit=1")
    except NodeUnavailable as error:
        # What a node that was killed left.
        return error
    return None


@contextlib.contextmanager
def _opened(settings: Settings, unavailable: NodeUnavailable) -> Iterator[WorklistDesk]:
    """Open the index of a node that does not run."""
    # Here, since the commands are quicker without SQLAlchemy.
    from dicomnode.index.catalog import Catalog
    from dicomnode.index.steps import Steps
    from dicomnode.index.worklist import WorklistItems
    from dicomnode.services.worklist_desk import WorklistDesk
    from dicomnode.services.worklist_intake import WorklistIntake

    with store_alone(settings, unavailable):
        durability = settings.storage.durability
        synchronous: Literal["FULL", "OFF"] = "FULL" if durability == "full" else "OFF"
        with Catalog(settings.index_url, synchronous=synchronous) as catalog:
            items = WorklistItems(catalog)
            steps = Steps(catalog, items)
            yield WorklistDesk(WorklistIntake(items, steps), steps)


@contextlib.contextmanager
def store_alone(settings: Settings, unavailable: NodeUnavailable) -> Iterator[FileStore]:
    """Lend the files of a node that does not run, and keep it from running meanwhile."""
    from dicomnode.storage.files import FileStore

    storage = settings.storage
    if not storage.directory.is_dir():
        fail(f"there is no directory {storage.directory} (storage.directory): start the node once")
    if (owner := storage.directory.stat().st_uid) != os.geteuid():
        fail(
            f"{unavailable}; {storage.directory} belongs to user {owner}: run this as that user,"
            " or start the node"
        )
    files = FileStore(storage.directory, durability=storage.durability)
    try:
        files.open()
    except StoreLocked as error:
        fail(f"{error}, but {unavailable}; see http.enabled and http.port, or stop the node")
    with contextlib.closing(files):
        yield files


def _of(key: str) -> str:
    return f"{_PATH}/{quote(key)}"
