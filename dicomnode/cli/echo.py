"""``echo``: is the peer there, and does it know us."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated

import typer

from dicomnode.cli.associating import associated, fail_with, perform, refused, words
from dicomnode.cli.common import EXIT_FAILED, explained, fail, interruptible
from dicomnode.cli.event_loop import run
from dicomnode.cli.peers import Called, Options, PeerArgument, called, every_called, with_options
from dicomnode.errors import AssociationError, ContextNotAccepted
from dicomnode.observe.words import duration, escape
from dicomnode.scu.answers import Answer

# Of all that are called at once.
_MOST_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class _Result:
    """How one peer did; ``seconds`` are those of the C-ECHO alone."""

    called: Called
    seconds: float = 0.0
    implementation: str = ""
    answer: Answer | None = None
    trouble: str = ""


@with_options()
def echo(
    peer: Annotated[str | None, PeerArgument.__metadata__[0]] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Ask every AE of ae.toml that has a host.")
    ] = False,
    repeat: Annotated[
        int, typer.Option("--repeat", metavar="N", min=1, help="Ask so often, on one association.")
    ] = 1,
    *,
    options: Options,
) -> None:
    """Verify that a peer answers (C-ECHO).

    Exit code 1 when one does not.
    """
    if every == (peer is not None):
        fail("name one PEER, or give --all")
    with explained():
        if peer is None:
            _all(every_called(options), options)
        else:
            _one(called(peer, options), options, repeat)


def _one(target: Called, options: Options, repeat: int) -> None:
    result = perform(_echo(target, options, repeat), target)
    assert result.answer is not None
    if not result.answer.ok:
        fail_with(result.answer, target)
    by = f" ({escape(result.implementation)})" if result.implementation else ""
    typer.echo(f"{target.peer.title} at {target.where} answers in {duration(result.seconds)}{by}")


async def _echo(target: Called, options: Options, repeat: int = 1) -> _Result:
    async with associated(target, options, ["echo"]) as association:
        best = float("inf")
        for _ in range(repeat):
            start = time.perf_counter()
            answer = await association.echo(response_seconds=options.response_seconds)
            best = min(best, time.perf_counter() - start)
            if not answer.ok:
                break
        implementation = association.negotiated.peer_implementation_version_name
    return _Result(target, best, implementation, answer)


def _all(targets: list[Called], options: Options) -> None:
    if not targets:
        fail("no AE of ae.toml has a host, so there is nobody to ask")
    with interruptible():
        results = run(_echo_all(targets, options))
    # Late: one C-ECHO is answered before tables are loaded.
    from rich.table import Table

    from dicomnode.cli.terminal import console, plain

    table = Table("AE title", "address", "answers in", "implementation", box=None, padding=(0, 2))
    failed = [result for result in results if result.trouble]
    for result in results:
        table.add_row(
            plain(result.called.peer.title),
            plain(result.called.where),
            plain("no answer") if result.trouble else plain(duration(result.seconds)),
            plain(result.implementation),
            style="red" if result.trouble else "",
        )
    console().print(table)
    for result in failed:
        typer.echo(result.trouble)
    if failed:
        raise typer.Exit(EXIT_FAILED)


async def _echo_all(targets: list[Called], options: Options) -> list[_Result]:
    turn = asyncio.Semaphore(_MOST_AT_ONCE)

    async def ask(target: Called) -> _Result:
        async with turn:
            try:
                result = await _echo(target, options)
            except (AssociationError, ContextNotAccepted) as error:
                return _Result(target, trouble=words(error, target))
            assert result.answer is not None
            if result.answer.ok:
                return result
            return _Result(target, trouble=refused(result.answer, target))

    return await asyncio.gather(*map(ask, targets))
