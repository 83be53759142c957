"""The settings of a node: ``dicomnode.toml``, overridden by ``DICOMNODE__SECTION__KEY``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from dicomnode import configuration
from dicomnode.audit_settings import AuditSettings
from dicomnode.configuration import Document, Place, find_settings_file
from dicomnode.custody_settings import CustodySettings
from dicomnode.errors import ConfigurationError
from dicomnode.fetch_settings import FetchRule
from dicomnode.forward_settings import ForwardingSettings, ForwardRule
from dicomnode.retention_settings import DeletionSettings, RetentionRule
from dicomnode.retries import Pause, RetrySettings
from dicomnode.scrub_settings import ScrubSettings
from dicomnode.tls.files import ClientCertificates, Profile
from dicomnode.value_types import Number, Seconds, Size

_PREFIX = "DICOMNODE__"
_TOKEN_LENGTH = 16

AETitle = Annotated[str, AfterValidator(configuration.ae_title)]
Host = Annotated[str, AfterValidator(configuration.host)]
Port = Annotated[Number, Field(ge=0, le=65535)]
Deadline = Annotated[Seconds, Field(gt=0, allow_inf_nan=False)]


def _split(value: object) -> object:
    """Let an environment variable hold a list as ``A,B``."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeSettings(_Section):
    """``[node]``: the names and the address at which peers find this node. Port 0: any free."""

    ae_title: AETitle = "DICOMNODE"
    ae_title_aliases: Annotated[tuple[AETitle, ...], NoDecode, BeforeValidator(_split)] = ()
    host: Host = "0.0.0.0"  # noqa: S104  a node that only loopback reaches serves no modality
    port: Port = 11112
    strict_ae_titles: bool = False


class StorageSettings(_Section):
    """``[storage]``: where objects are kept, and what is promised about them.

    ``verify_on_read`` says which objects are compared with their digest as they are handed out:
    with "sampled" one in sixteen. Those known not to be whole always are.
    """

    directory: Path = Path("/var/lib/dicomnode")
    durability: Literal["full", "relaxed"] = "full"
    on_conflict: Literal["keep_first", "replace", "refuse"] = "keep_first"
    accept_unknown_storage: bool = False
    min_free_bytes: Annotated[Size, Field(ge=0)] = 256 * 1024**2
    verify_on_read: Literal["off", "sampled", "always"] = "sampled"


class IndexSettings(_Section):
    """``[index]``: an SQLAlchemy URL; None is ``index.sqlite`` in the storage directory."""

    url: str | None = None

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value:
            raise ValueError('must be a database URL such as "sqlite:///var/index.sqlite"')
        return value


class AccessSettings(_Section):
    """``[access]``: what happens to calling AE titles that the registry does not hold.

    ``user_identity`` says whether requestors may, or must, say who their user is;
    ``credentials_without_tls`` lets them show passcodes and tokens where others can read them.
    """

    unknown_ae: Literal["refuse", "allow"] = "refuse"
    user_identity: Literal["ignore", "optional", "required"] = "ignore"
    credentials_without_tls: bool = False


class JwtSettings(_Section):
    """``[jwt]``: whose JSON Web Tokens say who a user is. Without ``key_file`` none do.

    The file holds the issuer's public key in PEM, or the secret of an HS algorithm.
    """

    key_file: Path | None = None
    algorithm: Literal[
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
        "ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512",
    ] = "RS256"  # fmt: skip
    issuer: str = ""
    audience: str = ""
    user_claim: Annotated[str, Field(min_length=1)] = "sub"
    leeway_seconds: Annotated[Seconds, Field(ge=0, le=600)] = 30.0


class LimitSettings(_Section):
    """``[limits]``: bounds on what peers may take. For associations per peer 0 means no limit.

    Connections count from the beginning, associations or not; of one address 0 means 32 more than
    ``max_associations``, or half of all where file descriptors are short.
    """

    max_associations: Annotated[Number, Field(ge=1)] = 100
    max_associations_per_ae: Annotated[Number, Field(ge=0)] = 0
    max_associations_per_address: Annotated[Number, Field(ge=0)] = 0
    max_connections_per_address: Annotated[Number, Field(ge=0)] = 0
    maximum_pdu_bytes: Annotated[Size, Field(ge=4096, le=16 * 1024**2)] = 128 * 1024
    receive_buffer_bytes: Annotated[Size, Field(ge=64 * 1024)] = 64 * 1024**2
    max_operations: Annotated[Number, Field(ge=1, le=65535)] = 16
    max_identifier_bytes: Annotated[Size, Field(ge=1024)] = 4 * 1024**2
    max_list_values: Annotated[Number, Field(ge=1)] = 20_000
    max_matches: Annotated[Number, Field(ge=0)] = 10_000
    max_handshakes: Annotated[Number, Field(ge=1)] = 128
    max_handshakes_per_address: Annotated[Number, Field(ge=1)] = 32


class TimeoutSettings(_Section):
    """``[timeouts]``: seconds until a wait is given up.

    ``artim_seconds`` until the A-ASSOCIATE-RQ is there (PS3.8 §9.1.4), ``pdu_seconds`` until a
    PDU that has begun is whole, ``idle_seconds`` without any PDU or operation, ``write_seconds``
    while a peer acknowledges nothing of what is sent to it, ``drain_seconds`` for associations to
    finish at shutdown. ``connect_seconds`` until another node that is called has taken the
    connection, ``response_seconds`` until it has answered an association request, a request, a
    sub-operation or a release, and until an association is released on which it could report.
    ``tls_handshake_seconds`` until a peer that calls has finished its TLS handshake.
    """

    artim_seconds: Deadline = 30.0
    pdu_seconds: Deadline = 60.0
    idle_seconds: Deadline = 600.0
    write_seconds: Deadline = 60.0
    connect_seconds: Deadline = 10.0
    response_seconds: Deadline = 60.0
    tls_handshake_seconds: Deadline = 10.0
    drain_seconds: Annotated[Seconds, Field(ge=0, allow_inf_nan=False)] = 30.0


class TlsSettings(_Section):
    """``[tls]``: our certificate, whom we trust, and a port of its own. Port 0: any free.

    ``enabled`` opens the port; ``only`` leaves ``node.port`` closed. Certificate, key and CAs are
    for calling others too, enabled or not. Without ``key`` it is in the file of the certificate.
    ``revoked`` are the revocation lists of the CAs; None: nothing is known of such.
    """

    enabled: bool = False
    port: Port = 2762
    only: bool = False
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    revoked: Path | None = None
    client_certificates: ClientCertificates = "required"
    profile: Profile = "bcp195"


class HttpSettings(_Section):
    """``[http]``: where metrics, health and status are served. Port 0: any free.

    ``token`` is what a program must show to change something over HTTP; with "" only this
    machine's own commands can.
    """

    enabled: bool = True
    host: Host = "127.0.0.1"
    port: Port = 8104
    token: str = ""

    @field_validator("token")
    @classmethod
    def _is_long(cls, value: str) -> str:
        if value and len(value) < _TOKEN_LENGTH:
            raise ValueError(f"must have {_TOKEN_LENGTH} characters or more")
        return value


class LogSettings(_Section):
    """``[log]``: the log on standard error. ``patient_data`` lets patient fields into it."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"
    patient_data: bool = False


class WorklistSettings(_Section):
    """``[worklist]``: where items come from, and what becomes of those that have been begun.

    ``directory`` holds worklist files, looked through every ``poll_seconds``; None: items come by
    command and HTTP alone. ``in_progress`` says whether a step that is being performed leaves the
    list or stays on it with its status.
    """

    directory: Path | None = None
    poll_seconds: Deadline = 2.0
    in_progress: Literal["remove", "show"] = "remove"


class CommitmentSettings(RetrySettings):
    """``[commitment]``: how long to try to deliver a storage commitment report."""

    give_up_seconds: Pause = 3 * 24 * 3600.0


class Settings(BaseSettings):
    """All settings. An environment variable ``DICOMNODE__SECTION__KEY`` wins over an argument."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=_PREFIX, env_nested_delimiter="__"
    )

    node: NodeSettings = NodeSettings()
    storage: StorageSettings = StorageSettings()
    index: IndexSettings = IndexSettings()
    access: AccessSettings = AccessSettings()
    jwt: JwtSettings = JwtSettings()
    limits: LimitSettings = LimitSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    tls: TlsSettings = TlsSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    audit: AuditSettings = AuditSettings()
    custody: CustodySettings = CustodySettings()
    worklist: WorklistSettings = WorklistSettings()
    commitment: CommitmentSettings = CommitmentSettings()
    scrub: ScrubSettings = ScrubSettings()
    forwarding: ForwardingSettings = ForwardingSettings()
    forward: tuple[ForwardRule, ...] = ()
    fetch: tuple[FetchRule, ...] = ()
    deletion: DeletionSettings = DeletionSettings()
    retention: tuple[RetentionRule, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment and the arguments, and no hidden file."""
        return env_settings, init_settings

    @property
    def index_url(self) -> str:
        """The index's URL, the default filled in."""
        return self.index.url or f"sqlite:///{self.storage.directory / 'index.sqlite'}"


def receive_block_bytes(maximum_pdu_bytes: int) -> int:
    """Return the size of a receive buffer: it holds a PDU, and what comes behind it."""
    return max(256 * 1024, 2 * maximum_pdu_bytes)


def load_settings(path: Path | None = None) -> Settings:
    """Read the settings file and the environment over it.

    Raises ConfigurationError with one line for each mistake: file, line, key, what to write.
    """
    document = configuration.read_toml(find_settings_file(path))
    stray = _stray_variables(os.environ)
    try:
        settings = Settings(**document.data)
    except ValidationError as error:
        found = configuration.problems(
            error, document, shown=_shown, unknown=_unknown, variable=variable_of
        )
        # A variable that names no key has been told; what pydantic made of it says nothing more.
        told = tuple(line.partition(": ")[0] for line in stray)
        found = [line for line in found if line.partition(": ")[0] not in told]
        raise ConfigurationError(stray + found) from None
    except SettingsError as error:
        raise ConfigurationError(stray or [f"environment: {error}"]) from None
    found = stray + _contradictions(document, settings)
    if found:
        raise ConfigurationError(found)
    return settings


def variable_of(place: Place) -> str | None:
    """Return the environment variable that ``place`` was taken from, if it was."""
    wanted = _PREFIX + "__".join(str(part).upper() for part in place[:2])
    return next((name for name in os.environ if name.upper() == wanted), None)


def _where(document: Document, place: Place) -> str:
    variable = variable_of(place)
    return f"environment variable {variable}" if variable else document.where(place)


def _shown(place: Place) -> str:
    if _is_list(str(place[0])):
        # Which of the tables it is, the line tells.
        place = (place[0], *place[2:])
    # Beyond section and key come positions in a list: ae_title_aliases[1].
    dotted = ".".join(str(part) for part in place[:2])
    return dotted + "".join(f"[{part}]" for part in place[2:])


def _model(section: str) -> type[BaseModel] | None:
    """Return the model of a section, or that of each table of one that is a list of tables."""
    annotation = Settings.model_fields[section].annotation
    model = get_args(annotation)[0] if get_args(annotation) else annotation
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _is_list(section: str) -> bool:
    field = Settings.model_fields.get(section)
    return field is not None and bool(get_args(field.annotation))


def _header(section: str) -> str:
    return f"[[{section}]]" if _is_list(section) else f"[{section}]"


def _keys(section: str) -> list[str]:
    model = _model(section)
    fields = model.model_fields.items() if model is not None else ()
    return [field.alias or name for name, field in fields]


def _unknown(place: Place) -> str:
    """Word an unknown section or key, with what is probably meant."""
    sections = list(Settings.model_fields)
    name = str(place[-1])
    if len(place) == 1:
        # A key above the first [section] looks like an unknown section.
        homes = [section for section in sections if name in _keys(section)]
        if homes:
            return f"this key belongs under {_header(homes[0])}"
        if meant := configuration.closest(name, sections):
            return f"unknown section; did you mean {_header(meant)}?"
        return f"there is no such section; there are {', '.join(map(_header, sections))}"
    keys = _keys(str(place[0]))
    if meant := configuration.closest(name, keys):
        return f"unknown key; did you mean {meant}?"
    homes = [section for section in sections if name in _keys(section)]
    if homes:
        return f"unknown key; it belongs under {_header(homes[0])}"
    return f"unknown key; {_header(str(place[0]))} has {', '.join(keys)}"


def _stray_variables(environment: Mapping[str, str]) -> list[str]:
    """Find variables with our prefix that name no section; pydantic passes over them."""
    found: list[str] = []
    for name in sorted(environment):
        if not name.upper().startswith(_PREFIX):
            continue
        section, _, key = name[len(_PREFIX) :].lower().partition("__")
        if section not in Settings.model_fields:
            words = _unknown((section,))
        elif not key:
            words = f"must name a key, as in {_PREFIX}{section.upper()}__KEY"
        else:
            continue
        found.append(f"environment variable {name}: {words}")
    return found


def _contradictions(document: Document, settings: Settings) -> list[str]:
    """Find values that are each right but cannot stand together."""
    found: list[str] = []

    def add(section: str, key: str, words: str) -> None:
        found.append(f"{_where(document, (section, key))}: {section}.{key}: {words}")

    node, http, limits = settings.node, settings.http, settings.limits
    if http.enabled and http.port == node.port and node.port != 0:
        add("http", "port", f"must differ from node.port, which is {node.port} too")
    found += [f"{_where(document, ('tls', key))}: {words}" for key, words in _tls(settings)]
    if limits.receive_buffer_bytes < 2 * limits.maximum_pdu_bytes:
        least = 2 * limits.maximum_pdu_bytes
        words = f"must be {least} (twice limits.maximum_pdu_bytes) or more"
        add("limits", "receive_buffer_bytes", f"{words}, not {limits.receive_buffer_bytes}")
    for key in ("issuer", "audience"):
        if settings.jwt.key_file is not None and not getattr(settings.jwt, key):
            add("jwt", key, "must say whose tokens are taken, and meant for whom")
    return found


def _tls(settings: Settings) -> Iterator[tuple[str, str]]:
    """Find what is missing in ``[tls]``: the key, and words that begin with it."""
    tls, node, http = settings.tls, settings.node, settings.http
    if tls.only and not tls.enabled:
        yield "only", "tls.only: needs tls.enabled = true, or no port would be open"
    if tls.key is not None and tls.certificate is None:
        yield "key", "tls.key: is given without tls.certificate"
    if tls.revoked is not None and tls.ca is None:
        yield "revoked", "tls.revoked: needs tls.ca, whose certificates have signed the lists"
    if not tls.enabled:
        return
    if tls.certificate is None:
        yield "enabled", "tls.certificate: is missing; TLS needs a certificate and its key"
    if tls.client_certificates != "none" and tls.ca is None:
        yield (
            "client_certificates",
            f"tls.ca: is missing; with tls.client_certificates = {tls.client_certificates!r} it"
            " names the file of the CAs whose certificates peers may show",
        )
    others = {"node.port": 0 if tls.only else node.port}
    if http.enabled:
        others["http.port"] = http.port
    for name, port in others.items():
        if port == tls.port and port != 0:
            yield "port", f"tls.port: must differ from {name}, which is {port} too"
