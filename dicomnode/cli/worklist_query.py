"""``worklist query``: what a worklist SCP has scheduled (PS3.4 Annex K)."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from dicomnode.cli.common import explained
from dicomnode.cli.find import SHOWN_OF_WORKLIST, CsvOption, JsonOption, LimitOption, ask
from dicomnode.cli.peers import Options, PeerArgument, called, with_options
from dicomnode.cli.queries import KeysOption, add_keys
from dicomnode.scu.keys import Keys

_STEP: Final = "ScheduledProcedureStepSequence[0]."


def _option(name: str, help: str, metavar: str = "TEXT") -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, metavar=metavar, help=help)
    return option


@with_options()
def query(
    peer: PeerArgument,
    keys: KeysOption = None,
    station: Annotated[str, _option("--station", "Scheduled station's AE title.")] = "",
    date: Annotated[
        str, _option("--date", 'Start: 2026-11-21, 20261121-20261123, or "today".', "DATE")
    ] = "",
    modality: Annotated[str, _option("--modality", "Such as CT.")] = "",
    patient: Annotated[str, _option("--patient", "Patient's name, such as DOE*.")] = "",
    patient_id: Annotated[str, _option("--patient-id", "Patient ID.")] = "",
    limit: LimitOption = 0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    *,
    options: Options,
) -> None:
    """Ask a peer for its worklist (C-FIND)."""
    day = time.strftime("%Y%m%d") if date == "today" else _day(date)
    wanted = Keys()
    for key, value in (
        (f"{_STEP}ScheduledStationAETitle", station),
        (f"{_STEP}ScheduledProcedureStepStartDate", day),
        (f"{_STEP}Modality", modality),
        ("PatientName", patient),
        ("PatientID", patient_id),
    ):
        if value:
            wanted.set(key, value)
    add_keys(wanted, keys)
    with explained():
        target = called(peer, options)
        wanted.add_shown(SHOWN_OF_WORKLIST)
        ask([wanted], "worklist", target, options, limit, as_json=as_json, as_csv=as_csv)


def _day(date: str) -> str:
    """Return a day written with or without hyphens as DICOM has it; ranges stand as they are."""
    return date.replace("-", "") if date.count("-") == 2 else date
