"""``find``: what a peer has (C-FIND)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomnode.cli.associating import associated, fail_with, perform
from dicomnode.cli.common import explained, fail
from dicomnode.cli.matches import AsCsv, AsJson, AsTable, Output
from dicomnode.cli.peers import Called, Options, PeerArgument, called, with_options
from dicomnode.cli.queries import (
    KeysOption,
    LevelOption,
    PatientRootOption,
    StudyRootOption,
    add_keys,
    at_level,
)
from dicomnode.cli.query_files import read_query
from dicomnode.errors import UnreadableAttributes
from dicomnode.scu.answers import Answer
from dicomnode.scu.keys import Keys
from dicomnode.scu.names import FIND
from dicomnode.storage.json_model import decode_attributes

_SHOWN: Final = {
    "PATIENT": (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "NumberOfPatientRelatedStudies",
    ),
    "STUDY": (
        "StudyDate",
        "StudyTime",
        "PatientID",
        "PatientName",
        "AccessionNumber",
        "ModalitiesInStudy",
        "StudyDescription",
        "NumberOfStudyRelatedInstances",
        "StudyInstanceUID",
    ),
    "SERIES": (
        "SeriesNumber",
        "Modality",
        "SeriesDescription",
        "NumberOfSeriesRelatedInstances",
        "StudyInstanceUID",
        "SeriesInstanceUID",
    ),
    "IMAGE": (
        "InstanceNumber",
        "SOPClassUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
    ),
}
_STEP: Final = "ScheduledProcedureStepSequence[0]."
SHOWN_OF_WORKLIST: Final = (
    f"{_STEP}ScheduledProcedureStepStartDate",
    f"{_STEP}ScheduledProcedureStepStartTime",
    f"{_STEP}ScheduledStationAETitle",
    f"{_STEP}Modality",
    "PatientID",
    "PatientName",
    "AccessionNumber",
    f"{_STEP}ScheduledProcedureStepDescription",
    "RequestedProcedureID",
    "StudyInstanceUID",
)

LimitOption = Annotated[
    int, typer.Option("--limit", metavar="N", min=0, help="Cancel after N matches; 0: never.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print DICOM JSON (PS3.18 Annex F).")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")]


@with_options()
def find(
    peer: PeerArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Query files: DICOM data sets with keys."),
    ] = None,
    keys: KeysOption = None,
    level: LevelOption = None,
    study_root: StudyRootOption = False,
    patient_root: PatientRootOption = False,
    worklist: Annotated[
        bool, typer.Option("--worklist", "-W", help="Ask the modality worklist.")
    ] = False,
    limit: LimitOption = 0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    *,
    options: Options,
) -> None:
    """Ask a peer what it has (C-FIND).

    Without a key that asks for something, the usual attributes of the level are shown. Ctrl-C
    cancels the query.
    """
    if study_root + patient_root + worklist > 1:
        fail("-S, -P and -W exclude each other")
    with explained():
        target = called(peer, options)
        queries = [read_query(file) for file in files] if files else [Keys()]
        for query in queries:
            add_keys(query, keys)
            query.add_shown(SHOWN_OF_WORKLIST if worklist else _SHOWN[at_level(query, level)])
        model = "worklist" if worklist else "patient" if patient_root else "study"
        ask(queries, model, target, options, limit, as_json=as_json, as_csv=as_csv)


def ask(
    queries: Iterable[Keys],
    model: str,
    target: Called,
    options: Options,
    limit: int,
    *,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Perform queries and print what they find; ends the command when one fails.

    What has been found by then is printed.
    """
    if as_json and as_csv:
        fail("--json and --csv exclude each other")
    output: Output = AsJson() if as_json else AsCsv() if as_csv else AsTable()
    try:
        for query in queries:
            _ask(query, model, target, options, limit, output)
    finally:
        output.end()


def _ask(
    query: Keys, model: str, target: Called, options: Options, limit: int, output: Output
) -> None:
    output.begin([path for path in query.paths if path[-1] != 0x0008_0052])
    try:
        count, answer = perform(_find(query, model, target, options, limit, output), target)
    finally:
        output.flush()
    if answer is not None and not answer.ok:
        fail_with(answer, target)
    if not count:
        typer.echo(f"{target.peer.title} found nothing", err=True)
    if limit and count == limit and answer is None:
        typer.echo(f"cancelled after {limit} matches (--limit)", err=True)


async def _find(
    query: Keys, model: str, target: Called, options: Options, limit: int, output: Output
) -> tuple[int, Answer | None]:
    uid = FIND[model]
    count = 0
    async with associated(target, options, [uid]) as association:
        identifier = query.encoded(association.syntax_for(uid))
        matches = association.find_encoded(
            identifier, model=model, response_seconds=options.response_seconds
        )
        async with aclosing(matches):
            async for match in matches:
                try:
                    output.add(decode_attributes(match.data, match.transfer_syntax_uid))
                except UnreadableAttributes as error:
                    typer.echo(f"a match that cannot be read: {error}", err=True)
                count += 1
                if count == limit:
                    break
        return count, matches.answer
