"""Associations of the commands: made as the options say, shown when asked to, failures in words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn, TypeVar

from dicomnode.cli.calling_tls import tls_for
from dicomnode.cli.common import EXIT_FAILED, explained, fail, interruptible
from dicomnode.cli.event_loop import run
from dicomnode.cli.peers import Called, Options
from dicomnode.client import open_association
from dicomnode.errors import AssociationError, ContextNotAccepted, TLSFailed
from dicomnode.observe.words import escape
from dicomnode.scu.advice import on_failure
from dicomnode.scu.answers import Answer
from dicomnode.scu.association import Association
from dicomnode.scu.contexts import Wanted, contexts_of
from dicomnode.sync import source
from dicomnode.tls.faults import Cause
from dicomnode.ul.items import RoleSelection

# The library names the node's settings; here these options stand for them.
_OPTION_OF: Final = {
    "timeouts.connect_seconds": "-to",
    "timeouts.response_seconds": "-ta, -td",
    "tls.certificate": "--tls-cert",
    "tls.key": "--tls-key",
    "tls.ca": "--tls-ca",
}

T = TypeVar("T")


@asynccontextmanager
async def associated(
    called: Called,
    options: Options,
    contexts: Iterable[Wanted],
    *,
    roles: Iterable[RoleSelection] = (),
    max_operations: int = 1,
) -> AsyncIterator[Association]:
    """Make an association; with -v or -d it is shown on standard error. Raises as the library."""
    proposed, roles = contexts_of(contexts), tuple(roles)
    if options.verbose or options.debug:
        # Late: names take longer to load than a C-ECHO.
        from dicomnode.cli.negotiation_view import show_accepted, show_proposed

        show_proposed(called, options, proposed, roles, max_operations)
    async with open_association(
        called.peer,
        calling_ae_title=called.calling_ae_title,
        contexts=proposed,
        roles=roles,
        max_operations=max_operations,
        maximum_pdu_bytes=options.maximum_pdu_bytes,
        connect_seconds=options.connect_seconds,
        response_seconds=options.acse_seconds,
        tls=tls_for(called, options),
    ) as association:
        if options.verbose or options.debug:
            show_accepted(association.channel, options)
        yield association


def words(error: AssociationError | ContextNotAccepted, called: Called) -> str:
    """Say in one line whom it is about, what it said, and what to try."""
    said = escape(str(error))
    for setting, option in _OPTION_OF.items():
        said = said.replace(setting, option)
    if isinstance(error, ContextNotAccepted):
        return f"{said}. See with -v what {called.peer.title} accepts."
    if called.peer.title not in said:
        said = f"{called.peer.title} at {called.where}: {said}"
    correct = "ae.toml" if called.is_registered else "PEER"
    if isinstance(error, TLSFailed):
        return f"{said}. {_tls_advice(error, called)}"
    advice = on_failure(
        error,
        title=called.peer.title,
        ours=called.calling_ae_title,
        where=called.where,
        correct=f"correct title, host or port in {correct}",
    )
    return f"{said}. {advice}"


def _tls_advice(error: TLSFailed, called: Called) -> str:
    if called.is_registered:
        return error.advice
    if error.cause == Cause.WRONG_NAME:
        return "If it is the right peer, give a name in its certificate with --tls-name."
    advice = error.advice
    for setting, option in _OPTION_OF.items():
        advice = advice.replace(setting, option)
    return advice


def perform(course: Coroutine[Any, Any, T], called: Called) -> T:
    """Run a command's operation to its end; a failure and Ctrl-C end the command with words."""
    with explained(), _failing(called):
        return run(course)


def perform_fast(course: Coroutine[Any, Any, T], called: Called) -> T:
    """The same for what moves many objects: on the faster event loop, if that is there."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return perform(course, called)
    with (
        explained(),
        _failing(called),
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        return runner.run(course)


@contextlib.contextmanager
def _failing(called: Called) -> Iterator[None]:
    try:
        with interruptible():
            yield
    except (AssociationError, ContextNotAccepted) as error:
        fail(words(error, called))


def refused(answer: Answer, called: Called) -> str:
    """Say what a peer answered that did not do what it was asked for."""
    return source.refused(answer, called.peer.title)


def fail_with(answer: Answer, called: Called) -> NoReturn:
    """End the command over an answer that is no success."""
    fail(refused(answer, called), EXIT_FAILED)
