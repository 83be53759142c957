"""PEER on the command line, and the options of the association that is made with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dicomnode import configuration
from dicomnode.cli.common import ConfigOption, fail
from dicomnode.cli.shared_options import Command, with_shared
from dicomnode.errors import ConfigurationError
from dicomnode.scu.peers import DEFAULT_PORT, DEFAULT_TLS_PORT, Entity, Peer, peer_of

if TYPE_CHECKING:
    from dicomnode.registry import Registry

_DEFAULT_TITLE: Final = "DICOMNODE"
_TITLE_VARIABLE: Final = "DICOMNODE__NODE__AE_TITLE"
# What "no limit" of DCMTK's becomes: longer than anybody waits.
_FOREVER_SECONDS: Final = 365 * 24 * 3600.0

PeerArgument = Annotated[
    str,
    typer.Argument(
        metavar="PEER",
        help="Whom to ask: a title of ae.toml, or TITLE@host:port (port 104 when left out).",
    ),
]


@dataclass(frozen=True, slots=True)
class Options:
    """How associations are asked for, as the command line says."""

    config: Path | None
    calling: str | None
    called: str | None
    connect_seconds: float
    acse_seconds: float
    dimse_seconds: float
    maximum_pdu_bytes: int
    verbose: bool
    debug: bool
    tls: bool = False
    tls_pair: tuple[Path, Path] | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    tls_name: str | None = None
    tls_insecure: bool = False

    @property
    def has_tls_files(self) -> bool:
        """Whether the certificates are those of the options, and not of the settings."""
        given = (self.tls_pair, self.tls_certificate, self.tls_key, self.tls_ca)
        return self.tls_insecure or any(each is not None for each in given)

    def without_tls(self) -> Options:
        """Return these options for somebody else than the peer whose TLS they describe."""
        return replace(
            self,
            tls=False,
            tls_pair=None,
            tls_certificate=None,
            tls_key=None,
            tls_ca=None,
            tls_name=None,
            tls_insecure=False,
        )

    @property
    def wants_tls(self) -> bool:
        """Whether the options alone ask for TLS."""
        return self.tls or self.has_tls_files or self.tls_name is not None

    @property
    def response_seconds(self) -> float:
        """How long a peer may take to answer a request."""
        return self.dimse_seconds or _FOREVER_SECONDS


_INSECURE: Final = (
    "dicomnode: WARNING: --tls-insecure: nobody looks whether the peer is who it should be; whoever"
    " is in between can read and change everything, patient data too"
)


def _file_option(*names: str, help: str) -> Any:
    return Annotated[Path | None, typer.Option(*names, metavar="FILE", help=help)]


_TLS_OPTIONS: Final[dict[str, tuple[Any, Any]]] = {
    "tls": (
        Annotated[
            bool,
            typer.Option("--tls", "+tla", help="Call over TLS (port 2762 when left out)."),
        ],
        False,
    ),
    "tls_pair": (
        Annotated[
            tuple[Path, Path] | None,
            typer.Option(
                "--tls-pair", "+tls", metavar="KEY CERT", help="TLS with this key and certificate."
            ),
        ],
        None,
    ),
    "tls_certificate": (_file_option("--tls-cert", help="Our certificate, in PEM form."), None),
    "tls_key": (_file_option("--tls-key", help="Its private key, in PEM form."), None),
    "tls_ca": (_file_option("--tls-ca", "+cf", help="The CAs to trust, in PEM form."), None),
    "tls_name": (
        Annotated[
            str | None,
            typer.Option(
                "--tls-name", metavar="NAME", help="The name in its certificate, if not the host."
            ),
        ],
        None,
    ),
    "tls_insecure": (
        Annotated[
            bool, typer.Option("--tls-insecure", "-ic", help="Do not verify its certificate.")
        ],
        False,
    ),
}

_OPTIONS: Final[dict[str, tuple[Any, Any]]] = {
    "config": (ConfigOption, None),
    "calling": (
        Annotated[
            str | None,
            typer.Option(
                "--calling",
                "-aet",
                metavar="TITLE",
                help="Our AE title; without it node.ae_title of the settings, or DICOMNODE.",
            ),
        ],
        None,
    ),
    "called": (
        Annotated[
            str | None,
            typer.Option(
                "--called", "-aec", metavar="TITLE", help="The peer's AE title, if not PEER's."
            ),
        ],
        None,
    ),
    "connect_seconds": (
        Annotated[
            float,
            typer.Option(
                "--connect-timeout", "-to", metavar="SECONDS", min=0.1, help="For the connection."
            ),
        ],
        10.0,
    ),
    "acse_seconds": (
        Annotated[
            float,
            typer.Option(
                "--acse-timeout",
                "-ta",
                metavar="SECONDS",
                min=0.1,
                help="For the answer to an association request or a release.",
            ),
        ],
        30.0,
    ),
    "dimse_seconds": (
        Annotated[
            float,
            typer.Option(
                "--dimse-timeout",
                "-td",
                metavar="SECONDS",
                min=0,
                help="For the next answer to a request; 0: no limit.",
            ),
        ],
        60.0,
    ),
    "maximum_pdu_bytes": (
        Annotated[
            int,
            typer.Option(
                "--max-pdu",
                "-pdu",
                metavar="BYTES",
                min=4096,
                max=16 * 1024 * 1024,
                help="The longest PDU that we take.",
            ),
        ],
        128 * 1024,
    ),
    "verbose": (
        Annotated[
            bool,
            typer.Option(
                "--verbose", "-v", help="Print the association as proposed and as accepted."
            ),
        ],
        False,
    ),
    "debug": (
        Annotated[
            bool, typer.Option("--debug", "-d", help="The same with UIDs and every further item.")
        ],
        False,
    ),
    **_TLS_OPTIONS,
}


def with_options(**defaults: Any) -> Callable[[Command], Command]:
    """Give a command the association options, of which its parameter ``options`` is made.

    ``defaults`` are those that are not the usual ones.
    """
    shared = {
        name: (annotation, defaults.get(name, default))
        for name, (annotation, default) in _OPTIONS.items()
    }
    return with_shared(shared, _made)


def _made(**values: Any) -> Options:
    options = Options(**values)
    if options.tls_insecure:
        typer.echo(_INSECURE, err=True)
    return options


@dataclass(frozen=True, slots=True)
class Called:
    """Whom to call, and as whom; ``is_registered`` tells that the address is the registry's."""

    peer: Peer
    calling_ae_title: str
    is_registered: bool

    @property
    def where(self) -> str:
        """The address, for messages."""
        return str(self.peer).partition("@")[2]


def called(written: str, options: Options) -> Called:
    """Return the peer that ``written`` means; ends the command when it means none.

    Raises ConfigurationError.
    """
    ours = calling_title(options)
    is_registered = "@" not in written
    try:
        entity = _registered(written, options) if is_registered else written
        default = DEFAULT_TLS_PORT if options.wants_tls else DEFAULT_PORT
        peer = peer_of(entity, default_port=default)
        title = configuration.ae_title(options.called or peer.title)
    except ValueError as error:
        fail(f"PEER: {error}")
    return Called(replace(peer, title=title), ours, is_registered)


def every_called(options: Options) -> list[Called]:
    """Return every AE of the registry that has an address. Raises ConfigurationError."""
    ours = calling_title(options)
    entries = registry(options).entries
    return [Called(peer_of(each), ours, True) for each in entries if each.host is not None]


def calling_title(options: Options) -> str:
    """Return our own AE title; raises ConfigurationError."""
    try:
        if options.calling is not None:
            return configuration.ae_title(options.calling)
        if _TITLE_VARIABLE in os.environ:
            return configuration.ae_title(os.environ[_TITLE_VARIABLE])
    except ValueError as error:
        fail(f"our AE title {error}")
    file = settings_file(options)
    if file is None:
        return _DEFAULT_TITLE
    # Of the settings no more is needed, and reading all of them takes longer than a C-ECHO.
    node = configuration.read_toml(file).data.get("node", {})
    try:
        return configuration.ae_title(node.get("ae_title", _DEFAULT_TITLE))
    except (ValueError, AttributeError):
        from dicomnode.settings import load_settings

        return load_settings(file).node.ae_title


def settings_file(options: Options) -> Path | None:
    """Return the settings file; None where none is named and none is found."""
    if options.config is not None:
        return options.config
    try:
        return configuration.find_settings_file()
    except ConfigurationError:
        return None


def registry(options: Options) -> Registry:
    """Return the registry; an empty one where there is no settings file. Raises as loading does."""
    from dicomnode.registry import Registry, load_registry

    file = settings_file(options)
    return Registry() if file is None else load_registry(configuration.registry_path(file))


def _registered(title: str, options: Options) -> Entity:
    known = registry(options)
    entity = known.lookup(title)
    if entity is not None and entity.host is not None:
        return entity
    if entity is not None:
        fail(
            f"{entity.title} has no host in ae.toml, so it cannot be called: add it there, or write"
            f" {entity.title}@host:port"
        )
    file = settings_file(options)
    if file is None:
        fail(
            f"{title!r} is no address, and there is no ae.toml to look it up in: write it as"
            " TITLE@host:port, or name the settings with --config"
        )
    titles = list(known.titles)
    meant = configuration.closest(title, titles)
    if meant is not None:
        words = f"did you mean {meant}?"
    else:
        words = f"there are {', '.join(titles)}." if titles else "none is registered."
    fail(
        f"{title!r} is not in {configuration.registry_path(file)}: {words}"
        " Or write it as TITLE@host:port"
    )
