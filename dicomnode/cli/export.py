"""``export``: objects of the node's own store as a DICOM file-set that anybody can verify."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from dicomnode.cli.common import (
    ConfigOption,
    SeriesOption,
    StudyOption,
    cleaned_up,
    explained,
    fail,
    interruptible,
    user_here,
)
from dicomnode.cli.deidentifying import Copying, project_of, with_copy_options
from dicomnode.cli.held import OwnObjects, own_objects
from dicomnode.cli.progress import bar
from dicomnode.cli.telling import tell_node
from dicomnode.deidentification.options import Options
from dicomnode.index.entry import InstanceRow
from dicomnode.integrity.exporting import Exported, Original
from dicomnode.integrity.exporting import export as write_export
from dicomnode.integrity.record import CustodyRecord, Event
from dicomnode.integrity.signature import Signer, load_signer
from dicomnode.observe.words import counted, escape, size
from dicomnode.settings import Settings, load_settings

_Instance = Annotated[
    list[str] | None, typer.Option("--instance", metavar="UID", help="SOP Instance UID.")
]
_Patient = Annotated[list[str] | None, typer.Option("--patient", metavar="ID", help="Patient ID.")]
_Sign = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Sign with this private key in PEM form (Ed25519)."),
]
_Certificate = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        metavar="CERT",
        help="Sign as CMS: the certificate of KEY (RSA or EC), those of its CAs behind it.",
    ),
]


@with_copy_options
def export(
    to: Annotated[
        Path,
        typer.Option(
            "--to", metavar="DIR|ZIP", help="A new directory, or a new file that ends in .zip."
        ),
    ],
    study: StudyOption = None,
    series: SeriesOption = None,
    instance: _Instance = None,
    patient: _Patient = None,
    sign: _Sign = None,
    certificate: _Certificate = None,
    config: ConfigOption = None,
    deidentify: Annotated[
        bool, typer.Option("--deidentify", help="Write de-identified copies (PS3.15 Annex E).")
    ] = False,
    project: Annotated[
        Path | None,
        typer.Option("--project", metavar="KEYFILE", help="Of the copies, from deidentify-key."),
    ] = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Leave out what cannot be de-identified.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what was exported as JSON.")
    ] = False,
    *,
    options: Options,
) -> None:
    """Write objects as a DICOM file-set with DICOMDIR, digests and custody records.

    All of it or nothing; what is there is never written over. `dicomnode verify` checks it. With
    --deidentify the copies have nothing of the originals' custody records; --retain-uids to
    --issuer are as with `dicomnode deidentify`.
    """
    asked = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "SOPInstanceUID": instance,
        "PatientID": patient,
    }
    keys = {keyword: values for keyword, values in asked.items() if values}
    if not keys:
        fail("say what to export: --study, --series, --instance or --patient")
    if certificate is not None and sign is None:
        fail("--certificate needs --sign, the key that it is of")
    if not deidentify and (project is not None or skip_refused or options != Options()):
        fail("--project and the options of de-identified copies need --deidentify")
    if deidentify and project is None:
        fail("--deidentify needs --project KEYFILE; dicomnode deidentify-key makes one")
    with explained(), interruptible(), cleaned_up():
        copying = Copying(project_of(project), options, skip_refused) if project else None
        signer = _signer(sign, certificate) if sign is not None else None
        exported = _export(load_settings(config), keys, to, signer, copying)
    if as_json:
        typer.echo(json.dumps(_to_json(exported, to, signer, copying)))
    else:
        _say(exported, to, signer, copying)


def _export(
    settings: Settings,
    keys: Mapping[str, Sequence[str]],
    to: Path,
    signer: Signer | None,
    copying: Copying | None,
) -> Exported:
    with own_objects(settings) as own, bar("exporting") as shown:
        chosen = _Chosen(settings, own, keys, copying)

        def progress(exported: Exported) -> None:
            shown.update(exported.objects, len(chosen.rows), exported.bytes)

        return write_export(
            chosen.originals(),
            to,
            signer=signer,
            change=copying,
            on_progress=progress,
            on_whole=lambda exported: chosen.tell(exported, to, signer),
        )


class _Chosen:
    """The objects that are exported, and what is recorded of them."""

    def __init__(
        self,
        settings: Settings,
        own: OwnObjects,
        keys: Mapping[str, Sequence[str]],
        copying: Copying | None,
    ) -> None:
        self._settings = settings
        self._copying = copying
        self._own = own
        self.rows: list[InstanceRow] = list(own.rows(keys))
        _refuse_absent(own, keys, self.rows)

    def originals(self) -> Iterator[Original]:
        """Yield the objects, study by study."""
        study, records = "", dict[str, list[CustodyRecord]]()
        for row in self.rows:
            if row.study_instance_uid != study:
                study, records = row.study_instance_uid, {}
                for record in self._own.custody.of_study(study):
                    records.setdefault(record.sop_instance_uid, []).append(record)
            yield Original(
                self._settings.storage.directory / row.path,
                row.size_bytes,
                row.file_sha256,
                row.sop_instance_uid,
                tuple(records.get(row.sop_instance_uid, ())),
            )

    def tell(self, exported: Exported, to: Path, signer: Signer | None) -> None:
        """Have the node record what is exported; raises where that cannot be done."""
        details = {
            "asked_by": user_here(),
            "to": to.name,
            "manifest_sha256": exported.manifest_sha256,
        }
        if signer is not None:
            details["signed_with"] = signer.fingerprint
        rows = self.rows
        if self._copying is not None:
            details["deidentified_for"] = self._copying.project.name
            rows = [row for row in rows if Path(row.path).stem in self._copying.copied]
        tell_node(self._settings, Event.EXPORTED, rows, details)


def _refuse_absent(
    own: OwnObjects, keys: Mapping[str, Sequence[str]], rows: Sequence[InstanceRow]
) -> None:
    """End the command unless all that was named is there, and each Patient ID is of one patient."""
    held = {
        uid
        for row in rows
        for uid in (row.study_instance_uid, row.series_instance_uid, row.sop_instance_uid)
    }
    named = keys.get("PatientID", ())
    absent = [
        uid
        for keyword, uids in keys.items()
        if keyword != "PatientID"
        for uid in uids
        if uid not in held
    ]
    absent += [
        one
        for one in named
        if not own.selection.select_instances({**keys, "PatientID": [one]}, None)
    ]
    if absent:
        also = "" if len(keys) == 1 else " that is also of the rest that was given"
        what = escape(", ".join(absent))
        fail(f"the archive holds nothing of {what}{also}; nothing was exported")
    for patient_id in named if len(keys) == 1 else ():
        if (number := own.patients(patient_id)) > 1:
            fail(
                f"{number} patients have the ID {escape(patient_id)}: export their studies, by"
                " --study; nothing was exported"
            )


def _signer(key: Path, certificate: Path | None) -> Signer:
    try:
        return load_signer(key, certificate)
    except TypeError:
        # A key that is encrypted, and no password.
        if not sys.stdin.isatty():
            fail(f"{key} is encrypted, and there is no terminal to ask for its password")
        password = typer.prompt(f"password of {key}", hide_input=True, err=True)
    try:
        return load_signer(key, certificate, password.encode())
    except TypeError as error:
        fail(f"{key}: {error}")


def _to_json(
    exported: Exported, to: Path, signer: Signer | None, copying: Copying | None
) -> dict[str, str | int | None]:
    return {
        "to": str(to.absolute()),
        "objects": exported.objects,
        "bytes": exported.bytes,
        "manifest_sha256": exported.manifest_sha256,
        "signed_with": None if signer is None else signer.fingerprint,
        "stand_ins": exported.invented,
        "deidentified_for": None if copying is None else copying.project.name,
        "left_out": 0 if copying is None else copying.refused,
    }


def _say(exported: Exported, to: Path, signer: Signer | None, copying: Copying | None) -> None:
    objects = counted(exported.objects, "object", "objects")
    what = "" if copying is None else f", de-identified, left out {copying.refused},"
    typer.echo(f"exported {objects} ({size(exported.bytes)}){what} to {to}")
    typer.echo(f"SHA-256 of its manifest: {exported.manifest_sha256}")
    if signer is not None:
        typer.echo(f"signed with the key whose SHA-256 is {signer.fingerprint}")
    else:
        typer.echo("not signed: it can be checked for damage, but not for forgery (--sign)")
    if exported.invented:
        typer.echo(
            f"the DICOMDIR has stand-ins for attributes that {exported.invented} of them lack;"
            " their files have not been changed",
            err=True,
        )
