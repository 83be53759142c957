"""``verify``: is an export, a file, or what a peer holds still what was received?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from dicomnode.cli.common import (
    EXIT_FAILED,
    SeriesOption,
    StudyOption,
    explained,
    fail,
    interruptible,
)
from dicomnode.cli.peers import Options, with_options
from dicomnode.cli.progress import bar
from dicomnode.integrity.findings import Finding, Kind, Report
from dicomnode.integrity.manifest import MANIFEST, SIDECAR_SUFFIX
from dicomnode.integrity.signature import Trust, load_certificates, load_public_key
from dicomnode.integrity.verifying import verify_file, verify_path
from dicomnode.observe.words import counted, escape, size

_MOST_TOLD: Final = 50
_ZIP_PREFIXES: Final = (b"PK\x03\x04", b"PK\x05\x06")
VERIFIED: Final = "Integrity verified"
FAILED: Final = "Integrity check FAILED"


_PublicKey = Annotated[
    Path | None,
    typer.Option(
        "--public-key",
        metavar="KEY",
        help="It must be signed with this key: a public key or certificate in PEM form.",
    ),
]
_Authorities = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="CERTS", help="It must be signed by whom these CAs (PEM) vouch for."
    ),
]


@with_options()
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE|DIR|ZIP]", help="An exported file, or a whole export."),
    ] = None,
    sidecar: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SIDECAR]", help="The sidecar of FILE, if it is not NAME.dcm.sig beside it."
        ),
    ] = None,
    public_key: _PublicKey = None,
    ca: _Authorities = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="PEER", help="Compare what this peer holds with the archive."
        ),
    ] = None,
    study: StudyOption = None,
    series: SeriesOption = None,
    values: Annotated[
        bool,
        typer.Option("--values", help="With --against: show values that differ: patient data."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    *,
    options: Options,
) -> None:
    """Check that nothing has changed since it was exported, or that a peer holds the same.

    A change of a single byte is found. Exit code 1 for any difference. Without --against no
    settings are needed.
    """
    if against is not None:
        if file is not None or public_key is not None or ca is not None:
            fail("--against compares with a peer: no file, --public-key or --ca")
        # Late: it takes the index and the network.
        from dicomnode.cli.verify_against import verify_against

        verify_against(against, study, series, options, values=values, as_json=as_json)
        return
    if file is None:
        fail("say what to verify: FILE, DIR, ZIP, or --against PEER --study UID")
    if study or series or values:
        fail("--study, --series and --values go with --against")
    with explained(), interruptible():
        trust = Trust(
            load_public_key(public_key) if public_key is not None else None,
            load_certificates(ca) if ca is not None else (),
        )
        report = _verified(file, sidecar, trust)
    _tell(report, file, as_json=as_json)


def _verified(file: Path, beside: Path | None, trust: Trust) -> Report:
    if file.is_dir() or _is_zip(file):
        if beside is not None:
            fail("a sidecar is of a file, not of a whole export")
        with bar("verifying") as shown:
            return verify_path(file, trust, lambda done, total: shown.update(done, total))
    if file.name.endswith(SIDECAR_SUFFIX) and beside is None:
        fail(f"{file} is a sidecar: name the file that it is of")
    if trust.is_asked_for:
        fail("a file and its sidecar are not signed: verify the whole export with its manifest")
    beside = beside or _sidecar_of(file)
    missing = [
        Finding(Kind.MISSING, str(path), f"there is no {what}")
        for path, what in ((file, "file"), (beside, "sidecar: without it nothing can be proven"))
        if not path.exists()
    ]
    return Report(missing) if missing else verify_file(file, beside)


def _sidecar_of(file: Path) -> Path:
    """Return where the sidecar of a file is, or should be, also for a copy named NAME.dcm."""
    return file.with_name(file.name.removesuffix(".dcm") + SIDECAR_SUFFIX)


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in _ZIP_PREFIXES or path.suffix.lower() == ".zip"
    except FileNotFoundError:
        return False


def _tell(report: Report, path: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.to_json()))
    else:
        typer.echo(headline(verified=report.verified))
        for each in report.findings[:_MOST_TOLD]:
            where = f"{escape(each.name)}: " if each.name else ""
            typer.echo(f"  {each.kind.value:<10} {where}{escape(each.words)}")
        if (more := len(report.findings) - _MOST_TOLD) > 0:
            typer.echo(f"  and {more} more")
        if report.files:
            _tell_facts(report)
    if not report.verified:
        raise typer.Exit(EXIT_FAILED)


def headline(*, verified: bool) -> str:
    """Return the first line of a report, in colour on a terminal."""
    words = VERIFIED if verified else FAILED
    if not sys.stdout.isatty():
        return words
    return typer.style(words, fg="green" if verified else "red", bold=True)


def _tell_facts(report: Report) -> None:
    objects = counted(report.objects, "object", "objects")
    files = counted(report.files, "file", "files")
    records = counted(report.records, "custody record", "custody records")
    typer.echo(f"looked at {objects}, {files} ({size(report.bytes)}), {records}")
    if not report.manifest_sha256:
        typer.echo("against a sidecar, which is not signed: this finds damage, not forgery")
        return
    typer.echo(f"SHA-256 of {MANIFEST}: {report.manifest_sha256}")
    if (signed := report.signed) is None:
        typer.echo("no signature was verified: this finds damage, not forgery")
        return
    who = f" of {escape(signed.subject)}" if signed.subject else ""
    at = f" at {signed.at}, by the signer's clock" if signed.at else ""
    typer.echo(f"signed{at} with the key{who} whose SHA-256 is {signed.fingerprint}")
    if signed.vouched:
        typer.echo(f"vouched for by {escape(signed.vouched)}")
    else:
        typer.echo(
            "nobody vouches for that key: it came with the export. Compare its SHA-256 with what"
            " the signer tells you, or give --public-key or --ca"
        )
