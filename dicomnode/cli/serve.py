"""``run``, ``check-config`` and ``version``."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from dicomnode import __version__
from dicomnode.cli.common import ConfigOption, explained
from dicomnode.configuration import registry_path
from dicomnode.registry import Registry
from dicomnode.reload import read_configuration
from dicomnode.services.identities import Credentials
from dicomnode.settings import Settings, receive_block_bytes
from dicomnode.users import users_path


def run(config: ConfigOption = None) -> None:
    """Run the node.

    It ends on SIGTERM or Ctrl-C when the open associations have finished, and at once on the
    second one. SIGHUP makes it read settings, ae.toml and users.toml again.
    """
    with explained():
        found = read_configuration(config)
        # Here, since the other commands are quicker without the whole node.
        from dicomnode import daemon

        code = daemon.run(found)
    raise typer.Exit(code)


def check_config(
    config: ConfigOption = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print every setting in effect, as TOML.")
    ] = False,
) -> None:
    """Check the settings file, ae.toml and users.toml.

    Names file, line and key of each mistake, and what to write instead.
    """
    with explained():
        found = read_configuration(config)
    settings, registry, file = found.settings, found.registry, found.file
    if show:
        typer.echo(_as_toml(settings), nl=False)
        return
    entities = registry_path(file)
    typer.echo(f"{file}: ok")
    if entities.exists():
        noun = "application entity" if len(registry) == 1 else "application entities"
        typer.echo(f"{entities}: ok, {len(registry)} {noun}")
    else:
        typer.echo(f"{entities}: not there, so no application entity is registered")
    users = users_path(entities)
    if users.exists():
        number = len(found.credentials.users)
        typer.echo(f"{users}: ok, {number} {'user' if number == 1 else 'users'}")
    for note in notes(settings, registry, found.credentials):
        typer.echo(f"note: {note}")
    if found.credentials.note:
        typer.echo(f"note: {found.credentials.note}")


def version() -> None:
    """Print the version."""
    typer.echo(f"dicomnode {__version__}")


def notes(settings: Settings, registry: Registry, credentials: Credentials) -> list[str]:
    """Return what is allowed but may not be meant."""
    found: list[str] = []
    node, storage = settings.node, settings.storage
    overridden = sorted(name for name in os.environ if name.upper().startswith("DICOMNODE__"))
    if overridden:
        found.append(f"set by the environment: {', '.join(overridden)}")
    if storage.durability == "relaxed":
        found.append(
            "storage.durability is relaxed: a power loss can lose objects answered with Success"
        )
    if settings.access.unknown_ae == "allow" and not _is_loopback(node.host):
        found.append(
            f"access.unknown_ae is allow and node.host is {node.host}: anyone who reaches port"
            f" {node.port} may use every service"
        )
    if settings.access.unknown_ae == "refuse" and not len(registry):
        found.append(
            "access.unknown_ae is refuse and no application entity is registered: every"
            " association will be rejected"
        )
    found += _tls_notes(settings, registry)
    found += _limit_notes(settings)
    found += _identity_notes(settings, registry, credentials)
    if settings.audit.enabled:
        found += _audit_notes(settings)
    worklist = settings.worklist.directory
    if worklist is not None and not worklist.is_dir():
        found.append(f"worklist.directory is {worklist}, and there is no such directory")
    home = _nearest_existing(storage.directory)
    if not os.access(home, os.W_OK | os.X_OK):
        found.append(
            f"storage.directory is {storage.directory}, and {home} cannot be written by"
            " the user who runs this check"
        )
    return found


def _limit_notes(settings: Settings) -> list[str]:
    found: list[str] = []
    if settings.access.credentials_without_tls and not _is_loopback(settings.node.host):
        found.append(
            "access.credentials_without_tls is true: whoever can listen on the network reads"
            " passcodes and tokens"
        )
    http = settings.http
    if settings.log.patient_data and http.enabled and not _is_loopback(http.host):
        found.append(
            f"log.patient_data is true and http.host is {http.host}: /api/explain and /api/status"
            f" name patients to whoever reaches port {http.port}, without a token"
        )
    limits = settings.limits
    taken = limits.max_associations * receive_block_bytes(limits.maximum_pdu_bytes)
    if taken > limits.receive_buffer_bytes:
        found.append(
            f"limits.receive_buffer_bytes is {limits.receive_buffer_bytes}: peers that stop in the"
            f" middle of a PDU can hold up others; {taken} is a block for each of"
            f" limits.max_associations ({limits.max_associations})"
        )
    return found


def _tls_notes(settings: Settings, registry: Registry) -> list[str]:
    from dicomnode.tls.files import of, openness, revocation, validities, warnings

    tls = settings.tls
    files = of(tls)
    now = time.time()
    found = [*warnings(validities(files), now), *revocation(files).warnings(now), openness(files)]
    bound = [ae.title for ae in registry.entries if ae.certificate]
    if bound and (not tls.enabled or tls.client_certificates == "none"):
        missing = "tls.client_certificates is none" if tls.enabled else "tls.enabled is false"
        found.append(
            f"{', '.join(bound)} cannot call this node: it is bound to a certificate, and {missing}"
        )
    for ae in registry.entries:
        if ae.tls_name is not None and not ae.tls:
            found.append(f"{ae.title} has a tls_name, but tls = true is missing: no TLS is used")
    return list(filter(None, found))


def _identity_notes(
    settings: Settings, registry: Registry, credentials: Credentials
) -> Iterator[str]:
    rule = settings.access.user_identity
    required = [ae.title for ae in registry.entries if (ae.user_identity or rule) == "required"]
    if rule == "required" and settings.access.unknown_ae == "allow":
        required.append("every other AE")
    if required and not credentials.users and credentials.tokens is None:
        yield (
            f"{', '.join(required)} cannot call this node: user_identity is required, and there"
            " are no users (dicomnode user add) and no jwt.key_file"
        )
    elif required and not settings.tls.enabled and not settings.access.credentials_without_tls:
        yield (
            f"{', '.join(required)} cannot call this node with a passcode or token: user_identity"
            " is required, these are taken over TLS only, and tls.enabled is false"
        )


def _audit_notes(settings: Settings) -> Iterator[str]:
    # Here, since most settings have no audit trail.
    from dicomnode.audit.syslog import Tls

    audit = settings.audit
    if audit.file is not None and not audit.file.parent.is_dir():
        yield f"audit.file is {audit.file}, and there is no directory {audit.file.parent}"
    elif audit.file is not None and audit.file.exists() and not audit.file.is_file():
        yield f"audit.file is {audit.file}, and that is no file"
    if audit.destination.startswith("tls:"):
        try:
            Tls(audit.tls_ca_file, audit.tls_certificate_file, audit.tls_key_file).context()
        except OSError as error:
            yield f"no audit message can be sent to {audit.destination}: {error}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _nearest_existing(directory: Path) -> Path:
    whole = directory.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())


def _as_toml(settings: Settings) -> str:
    """Write ``settings`` as a settings file that gives them again, passwords left out."""
    lines: list[str] = []
    for section, held in settings.model_dump(mode="json", by_alias=True).items():
        many = isinstance(held, list)
        for keys in held if many else [held]:
            lines += [f"[[{section}]]" if many else f"[{section}]"]
            for key, value in keys.items():
                if (section, key) == ("http", "token") and value:
                    lines += ["# token is set, and not shown"]
                    continue
                lines += [f"# {key} is not set" if value is None else f"{key} = {_value(value)}"]
            lines += [""]
    return "\n".join(lines[:-1]) + "\n"


def _value(value: object) -> str:
    """Write a value as TOML has it, passwords left out."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_value(each)}" for key, each in value.items())
        return f"{{{', '.join(pairs)}}}"
    # JSON's strings, numbers, booleans and lists are TOML's too.
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", json.dumps(value))
