"""The registry of application entities: who may call, from where, for what; where each is reached.

``ae.toml`` holds one ``[[ae]]`` table for each. A registry never changes: a reload makes a new
one, as a whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from dicomnode import configuration
from dicomnode.certificates import Binding, Expected, binding
from dicomnode.configuration import Document, Place
from dicomnode.errors import ConfigurationError
from dicomnode.value_types import Number, Size

Service = Literal["echo", "store", "find", "get", "move", "worklist", "mpps", "commitment"]
SERVICES: frozenset[Service] = frozenset(get_args(Service))

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _network(value: object) -> Network:
    """Read an IP address or a network; an address is a network of one."""
    try:
        if not isinstance(value, str):
            raise ValueError
        return ip_network(value)
    except ValueError:
        pass
    try:
        meant = ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError(
            'must be an IP address or a network such as "10.0.0.9" or "10.0.0.0/24"'
        ) from None
    raise ValueError(f'must be a network such as "{meant}" (the bits after the prefix are 0)')


def _transfer_syntax(value: str) -> str:
    """Read a transfer syntax UID or the keyword that pydicom gives it."""
    if value in _transfer_syntaxes().values():
        return value
    if value in _transfer_syntaxes():
        return _transfer_syntaxes()[value]
    meant = configuration.closest(value, list(_transfer_syntaxes())) or "ExplicitVRLittleEndian"
    uid = "1.2.840.10008.1.2.1"
    raise ValueError(f'must be a transfer syntax such as "{uid}" or "{meant}"')


def _character_set(value: str) -> str:
    """Read a defined term of Specific Character Set; several are joined by backslashes."""
    # Late, as in the next function: commands that only look up an address start faster.
    from pydicom.charset import python_encoding

    terms = value.split("\\")
    if all(term in python_encoding for term in terms if term) and any(terms):
        return value
    meant = configuration.closest(value, [term for term in python_encoding if term])
    raise ValueError(f'must be a Specific Character Set such as "{meant or "ISO_IR 192"}"')


@lru_cache(maxsize=1)
def _transfer_syntaxes() -> dict[str, str]:
    """Map keyword to UID for the transfer syntaxes of PS3.6 Table A-1."""
    from pydicom.uid import AllTransferSyntaxes

    return {uid.keyword: str(uid) for uid in AllTransferSyntaxes}


class AE(BaseModel):
    """One application entity.

    ``host`` and ``port`` are where it is reached (no host: it is never called); ``addresses``
    where it may call from (empty: anywhere). ``move_destinations`` are the titles that it may
    have objects sent to (None: every registered one), ``user_identity`` says whether it must name
    its user (None: access.user_identity). For limits 0 means no limit of its own.
    ``receives`` are the transfer syntaxes that it can be sent (empty: what it accepts).
    ``character_set`` is the Specific Character Set of answers to its queries (None: the query's).
    ``certificate`` are those of which it has to show one when it calls, and is called over TLS
    (empty: it calls with any or none, and is called by its name). ``tls`` says that it is called
    over TLS, ``tls_name`` the name that its certificate has instead of ``host``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Annotated[str, AfterValidator(configuration.ae_title)]
    host: Annotated[str, AfterValidator(configuration.host)] | None = None
    port: Annotated[Number, Field(ge=1, le=65535)] = 104
    addresses: tuple[Annotated[Network, BeforeValidator(_network)], ...] = ()
    services: frozenset[Service] = SERVICES
    move_destinations: tuple[str, ...] | None = None
    user_identity: Literal["ignore", "optional", "required"] | None = None
    max_associations: Annotated[Number, Field(ge=0)] = 0
    max_objects_per_hour: Annotated[Number, Field(ge=0)] = 0
    max_bytes_per_hour: Annotated[Size, Field(ge=0)] = 0
    max_stored_bytes: Annotated[Size, Field(ge=0)] = 0
    maximum_pdu_bytes: Annotated[Size, Field(ge=4096, le=16 * 1024**2)] | None = None
    transfer_syntaxes: tuple[Annotated[str, AfterValidator(_transfer_syntax)], ...] = ()
    receives: tuple[Annotated[str, AfterValidator(_transfer_syntax)], ...] = ()
    character_set: Annotated[str, AfterValidator(_character_set)] | None = None
    certificate: tuple[Annotated[Binding, BeforeValidator(binding)], ...] = ()
    tls: bool = False
    tls_name: Annotated[str, AfterValidator(configuration.host)] | None = None
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_port(cls, given: object) -> object:
        # IANA's port for DICOM over TLS (PS3.8 §9.1.1).
        if isinstance(given, dict) and given.get("tls") is True and "port" not in given:
            return {**given, "port": 2762}
        return given

    @property
    def over_tls(self) -> Expected | None:
        """What its certificate has to be when it is called; None: it is called without TLS."""
        return Expected(self.tls_name, self.certificate) if self.tls else None

    def allows(self, service: Service) -> bool:
        """Tell whether this AE may ask for ``service``."""
        return service in self.services

    def may_call_from(self, address: str) -> bool:
        """Tell whether ``address`` (an IP address as text) is one of this AE's."""
        if not self.addresses:
            return True
        try:
            parsed = _ip(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.addresses)


def _ip(text: str) -> Address:
    """Parse an address as a socket gives it: zone cut off, IPv4 in IPv6 unwrapped."""
    parsed = ip_address(text.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        return parsed.ipv4_mapped
    return parsed


@dataclass(frozen=True, slots=True)
class Recognition:
    """Whether a calling AE is recognized; ``ae`` is its entry, ``why`` the reason if not."""

    recognized: bool
    ae: AE | None = None
    why: str = ""


class Registry:
    """The application entities by title. Immutable.

    Titles are compared without regard to case unless ``strict`` (PS3.5 §6.2: AE titles differ
    in case; in the field they are typed both ways).
    """

    __slots__ = ("_by_folded", "_by_title", "entries")

    def __init__(self, entries: Iterable[AE] = ()) -> None:
        self.entries = tuple(entries)
        self._by_title = {ae.title: ae for ae in self.entries}
        self._by_folded = {ae.title.casefold(): ae for ae in self.entries}

    @property
    def titles(self) -> tuple[str, ...]:
        """All titles, in the order of the file."""
        return tuple(ae.title for ae in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, title: object) -> bool:
        return isinstance(title, str) and self.lookup(title) is not None

    def lookup(self, title: str, strict: bool = False) -> AE | None:
        """Return the entry with ``title``, or None."""
        if strict:
            return self._by_title.get(title.strip(" "))
        return self._by_folded.get(title.strip(" ").casefold())

    def may_move(self, calling_ae_title: str, destination: AE, strict: bool = False) -> bool:
        """Tell whether ``calling_ae_title`` may have objects sent to ``destination``."""
        caller = self.lookup(calling_ae_title, strict)
        if caller is None or caller.move_destinations is None:
            return True
        return any(self.lookup(each, strict) is destination for each in caller.move_destinations)

    def unreachable(self, title: str, strict: bool = False) -> Iterator[str]:
        """Yield the reason why nothing can be sent to ``title``; nothing where it can."""
        ae = self.lookup(title, strict)
        if ae is None:
            meant = configuration.closest(title, list(self.titles))
            hint = f"; did you mean {meant}?" if meant else ""
            yield f"{title!r} is not in ae.toml{hint}"
        elif ae.host is None:
            yield f"{ae.title} has no host in ae.toml: give it host and port"

    def character_set(self, title: str) -> bytes:
        """Return the Specific Character Set that ``title`` is to be answered in, b"" for none."""
        ae = self.lookup(title)
        return (ae.character_set or "").encode() if ae else b""

    def known(self, calling_ae_title: str, address: str, strict: bool = False) -> Recognition:
        """Tell whether ``calling_ae_title`` is registered and may call from ``address``."""
        ae = self.lookup(calling_ae_title, strict)
        if ae is None:
            return Recognition(False, None, "title unknown")
        if not ae.may_call_from(address):
            allowed = ", ".join(_short(network) for network in ae.addresses)
            why = f"address {address} is not among {ae.title}'s addresses {allowed}"
            return Recognition(False, ae, why)
        return Recognition(True, ae)


def _short(network: Network) -> str:
    alone = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if alone else str(network)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    ae: tuple[AE, ...] = ()


def load_registry(path: Path, strict: bool = False) -> Registry:
    """Read the registry file at ``path``; a file that is not there is an empty registry.

    Raises ConfigurationError with one line for each mistake: file, line, key, what to write.
    Titles that differ only in case are duplicates unless ``strict``.
    """
    if not path.exists():
        return Registry()
    document = configuration.read_toml(path)
    try:
        entries = _File.model_validate(document.data).ae
    except ValidationError as error:
        titles = document.data.get("ae")
        found = configuration.problems(
            error, document, shown=lambda place: _shown(place, titles), unknown=_unknown
        )
        raise ConfigurationError(found) from None
    seen: dict[str, int] = {}
    duplicates: list[str] = []
    for number, ae in enumerate(entries):
        first = seen.setdefault(ae.title if strict else ae.title.casefold(), number)
        if first != number:
            other = document.where(("ae", first, "title"))
            words = f"'{ae.title}' is already registered at {other}; remove one of the two"
            duplicates.append(f"{document.where(('ae', number, 'title'))}: ae.title: {words}")
    if duplicates:
        raise ConfigurationError(duplicates)
    registry = Registry(entries)
    if mistakes := list(_unknown_destinations(document, registry, strict)):
        raise ConfigurationError(mistakes)
    return registry


def _unknown_destinations(document: Document, registry: Registry, strict: bool) -> Iterator[str]:
    for number, ae in enumerate(registry.entries):
        for title in ae.move_destinations or ():
            if registry.lookup(title, strict) is None:
                meant = configuration.closest(title, list(registry.titles))
                hint = f"; did you mean {meant}?" if meant else "; add an [[ae]] with that title"
                where = document.where(("ae", number, "move_destinations"))
                yield f"{where}: ae.move_destinations: '{title}' is not registered{hint}"


def _shown(place: Place, tables: object) -> str:
    """Spell ``place`` with the title of its AE, as one knows it from the file."""
    if len(place) < 2 or not isinstance(place[1], int):
        return ".".join(str(part) for part in place)
    table = tables[place[1]] if isinstance(tables, list) else None
    title = table.get("title") if isinstance(table, dict) else None
    spelled = "ae" + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in place[2:]
        if part not in _UNION_BRANCHES
    )
    return (
        f"{spelled} (of {title})" if isinstance(title, str) and place[2:] != ("title",) else spelled
    )


# pydantic adds the branch of a union to the place of a mistake.
_UNION_BRANCHES = ("IPv4Network", "IPv6Network")


def _unknown(place: Place) -> str:
    """Word an unknown key, with what is probably meant."""
    keys = list(AE.model_fields)
    name = str(place[-1])
    if len(place) == 1:
        if name in keys:
            return "this key belongs under an [[ae]] heading"
        return "unknown section; each application entity is a table under an [[ae]] heading"
    if meant := configuration.closest(name, keys):
        return f"unknown key; did you mean {meant}?"
    return f"unknown key; [[ae]] has {', '.join(keys)}"
