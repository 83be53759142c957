"""``move``: a peer sends objects to a third node, or to this one (C-MOVE)."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Final

import typer

from dicomnode import configuration
from dicomnode.cli.associating import associated, fail_with, perform, refused
from dicomnode.cli.common import EXIT_FAILED, SeriesOption, StudyOption, explained, fail
from dicomnode.cli.peers import Called, Options, PeerArgument, called, with_options
from dicomnode.cli.progress import bar
from dicomnode.cli.queries import (
    KeysOption,
    LevelOption,
    PatientRootOption,
    StudyRootOption,
    add_keys,
    at_level,
    keys_of,
    level_of,
)
from dicomnode.dimse.command import SubOperationsResponse
from dicomnode.dimse.status import Status
from dicomnode.errors import UnreadableAttributes
from dicomnode.observe.words import escape
from dicomnode.scu.answers import Answer
from dicomnode.scu.keys import UNIQUE_KEYS, Keys, texts_at
from dicomnode.scu.names import MOVE
from dicomnode.storage.json_model import decode_attributes

_FAILED_UIDS: Final = (0x0008_0058,)
_MOST_TOLD: Final = 20
# Some peers tell nothing before all has been sent.
_PATIENCE_SECONDS: Final = 3600.0


@with_options(dimse_seconds=_PATIENCE_SECONDS)
def move(
    peer: PeerArgument,
    keys: KeysOption = None,
    study: StudyOption = None,
    series: SeriesOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            "-aem",
            metavar="TITLE",
            help="Who is to receive; PEER has to know its address. Without it this node.",
        ),
    ] = None,
    level: LevelOption = None,
    study_root: StudyRootOption = False,
    patient_root: PatientRootOption = False,
    *,
    options: Options,
) -> None:
    """Have a peer send objects to another node (C-MOVE).

    Exit code 1 when any was not sent. Ctrl-C cancels the retrieval.
    """
    if study_root and patient_root:
        fail("-S and -P exclude each other")
    query = keys_of(study, series)
    add_keys(query, keys)
    if not any(map(query.text, UNIQUE_KEYS.values())):
        fail(f"say what to move: --study UID, or -k with {', '.join(UNIQUE_KEYS.values())}")
    at_level(query, level or level_of(query))
    with explained():
        target = called(peer, options)
        destination = _destination(to, target)
        model = "patient" if patient_root else "study"
        answer = perform(_move(query, model, destination, target, options), target)
    _tell(answer, destination, target)


def _destination(to: str | None, target: Called) -> str:
    try:
        return configuration.ae_title(to or target.calling_ae_title)
    except ValueError as error:
        fail(f"--to: {error}")


async def _move(
    query: Keys, model: str, destination: str, target: Called, options: Options
) -> Answer:
    uid = MOVE[model]
    with bar(f"{target.peer.title} to {destination}") as shown:
        async with associated(target, options, [uid]) as association:
            moving = association.move(
                query.encoded(association.syntax_for(uid)),
                destination,
                model=model,
                response_seconds=options.response_seconds,
            )
            async with aclosing(moving):
                async for progress in moving:
                    shown.update(progress.done, progress.total)
            assert moving.answer is not None
            return moving.answer


def _tell(answer: Answer, destination: str, target: Called) -> None:
    response = answer.response
    assert isinstance(response, SubOperationsResponse)
    completed = response.number_of_completed_suboperations
    warned = response.number_of_warning_suboperations or 0
    failed = response.number_of_failed_suboperations or 0
    for uid in (uids := _failed_uids(answer))[:_MOST_TOLD]:
        typer.echo(f"failed {escape(uid)}", err=True)
    if (more := len(uids) - _MOST_TOLD) > 0:
        typer.echo(f"and {more} more", err=True)
    if completed is not None or failed or warned:
        warnings = f", {warned} with warnings" if warned else ""
        typer.echo(
            f"{target.peer.title} sent {(completed or 0) + warned} to {destination}{warnings},"
            f" {failed} failed"
        )
    if answer.status == Status.MOVE_DESTINATION_UNKNOWN:
        fail(
            f"{refused(answer, target)}. Give {target.peer.title} the address of {destination},"
            " or name another one with --to"
        )
    if not answer.ok:
        fail_with(answer, target)
    if completed is None:
        typer.echo(f"{target.peer.title} answered {answer.status:04X}H {answer.words}")
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _failed_uids(answer: Answer) -> list[str]:
    if answer.encoded is None:
        return []
    try:
        attributes = decode_attributes(answer.encoded.data, answer.encoded.transfer_syntax_uid)
    except UnreadableAttributes:
        return []  # the counters have told how many
    listed = next(texts_at(attributes, _FAILED_UIDS), "")
    return listed.split("\\") if listed else []
