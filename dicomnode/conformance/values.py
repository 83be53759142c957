"""What the configuration puts into the conformance statement: words, numbers and tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydicom._uid_dict import UID_dictionary

from dicomnode import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, __version__
from dicomnode.conformance.markdown import code, table
from dicomnode.observe.words import size
from dicomnode.registry import Registry, Service
from dicomnode.scu.contexts import SENT_WITHOUT_LOSS
from dicomnode.services.sop_classes import (
    MODALITY_PERFORMED_PROCEDURE_STEP,
    MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE,
    MODALITY_WORKLIST,
    QUERY_RETRIEVE,
    STORAGE,
    STORAGE_COMMITMENT_PUSH_MODEL,
    TRANSFER_SYNTAXES,
    VERIFICATION,
    Root,
)
from dicomnode.settings import Settings

_STORED_ANYWHERE: Final = "every storage SOP class of the annex"
_INITIATES: Final = (
    "It initiates associations to send objects to the destination of a C-MOVE, to forward objects,"
    " and performed procedure steps, to report on storage commitment, to ask for it, and to fetch"
    " objects from other archives; never to an address that a request names."
)


def values_of(settings: Settings, registry: Registry) -> dict[str, str]:
    """Return what each name of the parts stands for."""
    return (
        _identity(settings)
        | _policies(settings, registry)
        | _storage(settings)
        | _services(settings, registry)
        | {
            "sop_rows": _sop_rows(settings, registry),
            "contexts_table": _contexts(settings),
            "uncompressed": ", ".join(f"{_name(uid)} ({uid})" for uid in SENT_WITHOUT_LOSS),
            "syntax_table": _syntaxes(),
            "storage_table": _storage_classes(),
            "times_table": _times(settings),
            "parameters": _parameters(settings),
            "remote": _remote(registry),
        }
    )


def _identity(settings: Settings) -> dict[str, str]:
    node, http = settings.node, settings.http
    aliases = ", ".join(map(code, node.ae_title_aliases))
    titles = f"Its AE title is {code(node.ae_title)}" + (
        f"; it answers to {aliases} as well." if aliases else "."
    )
    served = f"{code(f'{http.host}:{http.port}')}, without TLS" if http.enabled else "no port"
    return {
        "version": __version__,
        "class_uid": IMPLEMENTATION_CLASS_UID,
        "version_name": IMPLEMENTATION_VERSION_NAME,
        "ae_title": code(node.ae_title),
        "aliases": aliases or "none",
        "titles": titles,
        "address": code(f"{node.host}:{node.port}" if node.port else f"{node.host}, any free port"),
        "http": served,
        "initiates": _INITIATES,
    }


def _policies(settings: Settings, registry: Registry) -> dict[str, str]:
    limits, timeouts = settings.limits, settings.timeouts
    bounds = [f"{limits.max_associations} in all"]
    for number, of in (
        (limits.max_associations_per_ae, "of one AE title"),
        (limits.max_associations_per_address, "of one address"),
    ):
        bounds += [f"{number} {of}"] if number else []
    own = [ae.title for ae in registry.entries if ae.max_associations]
    bounds += [f"a number of its own for {_titles(own)}"] if own else []
    own_pdu = [ae.title for ae in registry.entries if ae.maximum_pdu_bytes]
    strict = settings.node.strict_ae_titles
    allowed = settings.access.unknown_ae == "allow"
    restricted = any(ae.addresses for ae in registry.entries)
    return {
        "max_associations": ", ".join(bounds),
        "maximum_pdu": f"{limits.maximum_pdu_bytes} bytes"
        + (f"; another one to {_titles(own_pdu)}" if own_pdu else ""),
        "window": f"up to {limits.max_operations} operations are granted"
        if limits.max_operations > 1
        else "synchronous operation only",
        "case": "with regard to case" if strict else "without regard to case",
        "unknown_ae": "A calling AE title that the registry does not have is admitted to every"
        " service."
        if allowed
        else "A calling AE title that the registry does not have, or that calls from an address"
        " that is not its own, is rejected (1, 1, 3).",
        "calling": ("any AE title" if allowed else "the AE titles of the registry")
        + (", those with addresses there from these alone" if restricted else ""),
        "user_identity": _user_identity(settings, registry),
        "connect_seconds": _seconds(timeouts.connect_seconds),
        "response_seconds": _seconds(timeouts.response_seconds),
    }


def _user_identity(settings: Settings, registry: Registry) -> str:
    common = settings.access.user_identity
    own = {ae.title: ae.user_identity for ae in registry.entries if ae.user_identity is not None}
    unsupported = "types 3 and 4 (Kerberos, SAML) are rejected"
    looked_at = f"types 1 (username), 2 (username and passcode), 5 (JSON Web Token); {unsupported}"
    words = {
        "ignore": "accepted without being looked at, and without a response",
        "optional": looked_at,
        "required": f"required: {looked_at}",
    }
    if not own:
        return words[common]
    others = ", ".join(f"{code(title)} {mode}" for title, mode in own.items())
    return f"{words[common]}; by AE title: {others} (ignore, optional or required)"


def _storage(settings: Settings) -> dict[str, str]:
    storage, limits = settings.storage, settings.limits
    conflicts = {
        "keep_first": (
            "| B000H | the SOP Instance UID is held with other bytes; the object is set aside, the"
            " first one is kept |",
            "An object whose SOP Instance UID is held with other bytes is set aside.",
        ),
        "replace": (
            "| 0000H | also where the object takes the place of one with other bytes |",
            "An object whose SOP Instance UID is held with other bytes takes the place of that.",
        ),
        "refuse": (
            "| 0111H | duplicate SOP instance: the UID is held with other bytes |",
            "An object whose SOP Instance UID is held with other bytes is refused.",
        ),
    }
    row, words = conflicts[storage.on_conflict]
    full = storage.durability == "full"
    unknown = storage.accept_unknown_storage
    return {
        "durable": "stored, and the file and its index entry would survive a power loss"
        if full
        else "stored, though a power loss may still undo it (`storage.durability` is relaxed)",
        "conflict_row": row,
        "conflict": words,
        "unknown_storage": "Private SOP classes, and those that the standard does not have yet, are"
        " taken as storage, in whatever transfer syntax is proposed."
        if unknown
        else "SOP classes that the standard does not have are not accepted.",
        "min_free": size(storage.min_free_bytes),
        "max_matches": f"more than {limits.max_matches} matches; the first ones were sent"
        if limits.max_matches
        else "not for many matches: there is no limit",
    }


def _services(settings: Settings, registry: Registry) -> dict[str, str]:
    forwarding, commitment, worklist = settings.forwarding, settings.commitment, settings.worklist
    shown = worklist.in_progress == "show"
    reached = [ae.title for ae in registry.entries if ae.host is not None]
    own = [
        f"{code(ae.title)} ({code(ae.character_set)})"
        for ae in registry.entries
        if ae.character_set
    ]
    return {
        "forwarding": _forwarding(settings, "objects", "Objects"),
        "step_forwarding": _forwarding(settings, "mpps", "Performed procedure steps"),
        "fetching": _fetching(settings),
        "forward_seconds": _seconds(forwarding.give_up_seconds),
        "max_refusals": f"{forwarding.max_refusals} times",
        "deletes": _deletes(settings),
        "destinations": _titles(reached),
        "in_progress": "It is STARTED while the step is performed."
        if shown
        else "Items whose step is being performed are not returned.",
        "worklist_files": code(str(worklist.directory)) if worklist.directory else "no directory",
        "commitment_retry": _seconds(commitment.retry_seconds),
        "commitment_most": _seconds(commitment.max_retry_seconds),
        "commitment_seconds": _seconds(commitment.give_up_seconds),
        "character_sets": ", ".join(own) or "no AE here",
    }


def _deletes(settings: Settings) -> str:
    """Say what is deleted, and that it is not while its commitment is to be reported."""
    told = []
    if any(rule.delete_when_committed for rule in settings.forward):
        told.append(
            "An object is deleted once all destinations of a forwarding rule that says so have"
            " committed to it."
        )
    if settings.retention:
        told.append(
            "Objects are deleted by the retention rules of the configuration, none of them before"
            " the report of a commitment to it has been delivered."
        )
    if not told:
        told.append("The node deletes nothing of its own accord: there is no limit of time.")
    told.append(
        "An operator can delete objects (`dicomnode delete`), which is refused until then too."
    )
    return " ".join(told)


def _forwarding(settings: Settings, what: str, words: str) -> str:
    """Say by which rules ``what`` is forwarded."""
    rules = [
        (code(rule.name), _titles(rule.sources) if rule.sources else "any", _titles(rule.to))
        for rule in settings.forward
        if rule.what == what
    ]
    if not rules:
        return f"{words} are forwarded by rules of the configuration; there are none here."
    head = ("rule", "received from", "forwarded to")
    return f"{words} are forwarded by these rules:\n\n{table(head, rules)}"


def _fetching(settings: Settings) -> str:
    rules = [(code(rule.name), code(rule.source), rule.direction) for rule in settings.fetch]
    if not rules:
        return (
            "Other archives are compared and fetched from by rules of the configuration; there are"
            " none here."
        )
    head = ("rule", "other archive", "direction")
    return f"Other archives are compared and fetched from by these rules:\n\n{table(head, rules)}"


# -- tables ----------------------------------------------------------------------------------------


def _sop_rows(settings: Settings, registry: Registry) -> str:
    """Return the rows of the overview: SOP classes, as SCU, as SCP."""

    def scp(service: Service) -> str:
        if settings.access.unknown_ae == "allow" or not registry.entries:
            return "yes"
        allowed = any(ae.allows(service) for ae in registry.entries)
        return "yes" if allowed else "for no AE of the registry"

    unknown = "yes" if settings.storage.accept_unknown_storage else "no (configurable)"
    forwards = "for C-GET, C-MOVE and forwarding"
    rows: list[tuple[str, str, str]] = [
        (_named(VERIFICATION), "no", scp("echo")),
        (_STORED_ANYWHERE, forwards, scp("store")),
        ("private and further storage SOP classes", "as stored", unknown),
        (_named(STORAGE_COMMITMENT_PUSH_MODEL), "yes", scp("commitment")),
        (_named(MODALITY_WORKLIST), "no", scp("worklist")),
        (_named(MODALITY_PERFORMED_PROCEDURE_STEP), "for forwarding", scp("mpps")),
        (_named(MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE), "for forwarding", scp("mpps")),
        *(
            (_named(uid), "for fetching" if root is Root.STUDY else "no", scp(service))
            for uid, (service, root) in QUERY_RETRIEVE.items()
        ),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _contexts(settings: Settings) -> str:
    """Return the presentation contexts that are accepted."""
    usual = "uncompressed"
    any_syntax = "any" if settings.storage.accept_unknown_storage else "every one of the annex"
    rows = [
        (_named(VERIFICATION), usual, "SCP", "none"),
        (_STORED_ANYWHERE, any_syntax, "SCP; SCU for C-GET", "none"),
    ]
    negotiated = {
        "find": "relational queries, combined date-time matching",
        "get": "relational retrieval",
        "move": "relational retrieval",
    }
    rows += [
        (_named(uid), usual, "SCP", negotiated[service])
        for uid, (service, _) in QUERY_RETRIEVE.items()
    ]
    rows += [
        (_named(uid), usual, role, "none")
        for uid, role in (
            (MODALITY_WORKLIST, "SCP"),
            (MODALITY_PERFORMED_PROCEDURE_STEP, "SCP"),
            (MODALITY_PERFORMED_PROCEDURE_STEP_RETRIEVE, "SCP"),
            (STORAGE_COMMITMENT_PUSH_MODEL, "SCP; SCU for reports to the node"),
        )
    ]
    return table(("abstract syntax", "transfer syntaxes", "role", "extended negotiation"), rows)


def _syntaxes() -> str:
    rows = [(_shown(uid), uid) for uid in sorted(TRANSFER_SYNTAXES, key=_order)]
    return table(("transfer syntax", "UID"), rows)


def _storage_classes() -> str:
    rows = [(_shown(uid), uid) for uid in sorted(STORAGE, key=_order)]
    return table(("SOP class", "UID"), rows)


def _times(settings: Settings) -> str:
    timeouts, limits = settings.timeouts, settings.limits
    return table(
        ("wait or bound", "here", "then"),
        [
            ("ARTIM: for a whole association request", _seconds(timeouts.artim_seconds), "closed"),
            ("for the rest of a PDU", _seconds(timeouts.pdu_seconds), "A-ABORT"),
            (
                "without anything from the peer, and without an operation",
                _seconds(timeouts.idle_seconds),
                "A-ABORT",
            ),
            (
                "for a peer that acknowledges nothing of what is sent",
                _seconds(timeouts.write_seconds),
                "closed",
            ),
            ("for a connection that we make", _seconds(timeouts.connect_seconds), "given up"),
            ("for an answer to us", _seconds(timeouts.response_seconds), "A-ABORT"),
            ("identifier of a query or retrieval", size(limits.max_identifier_bytes), "refused"),
            ("values of one key", str(limits.max_list_values), "refused"),
            ("matches of one query", str(limits.max_matches or "no limit"), "A700H"),
        ],
    )


def _parameters(settings: Settings) -> str:
    """Return what of the configuration bears on other AEs, and is not said elsewhere."""
    storage, access = settings.storage, settings.access
    rows = [
        ("`access.unknown_ae`", access.unknown_ae, "calling AE titles that are not registered"),
        ("`node.strict_ae_titles`", _yes(settings.node.strict_ae_titles), "case of AE titles"),
        ("`storage.durability`", storage.durability, "what 0000H promises"),
        ("`storage.on_conflict`", storage.on_conflict, "one UID with other bytes"),
        (
            "`storage.accept_unknown_storage`",
            _yes(storage.accept_unknown_storage),
            "SOP classes that the standard does not have",
        ),
        ("`worklist.in_progress`", settings.worklist.in_progress, "steps that have been begun"),
    ]
    return table(("parameter", "here", "of"), rows)


def _remote(registry: Registry) -> str:
    if not registry.entries:
        return "No remote AE is registered."
    rows = [
        (
            code(ae.title),
            code(f"{ae.host}:{ae.port}") if ae.host is not None else "not called",
            ", ".join(code(str(network)) for network in ae.addresses) or "anywhere",
            ", ".join(sorted(ae.services)) or "none",
        )
        for ae in registry.entries
    ]
    return table(("remote AE", "called at", "calls from", "services that it may use"), rows)


# -- words -----------------------------------------------------------------------------------------


def _titles(titles: Iterable[str]) -> str:
    return ", ".join(map(code, titles)) or "no AE here"


def _seconds(seconds: float) -> str:
    """Write a time of the settings in the largest unit of which it is a whole number."""
    for unit, words in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds // unit:g} {words}"
    return f"{seconds:g} s"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _named(uid: str) -> str:
    return f"{_shown(uid)}, {uid}"


def _shown(uid: str) -> str:
    return f"{_name(uid)} (retired)" if _is_retired(uid) else _name(uid)


def _name(uid: str) -> str:
    return UID_dictionary[uid][0] if uid in UID_dictionary else uid


def _is_retired(uid: str) -> bool:
    return uid in UID_dictionary and bool(UID_dictionary[uid][3])


def _order(uid: str) -> tuple[int, ...]:
    return tuple(int(part) for part in uid.split("."))
